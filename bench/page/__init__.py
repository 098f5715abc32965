"""One self-contained HTML page from the records of one run or of many."""
