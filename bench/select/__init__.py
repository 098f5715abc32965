"""`task=select`: chooses k from the text of a domain and exports the vocabulary, without measuring."""
