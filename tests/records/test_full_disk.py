"""A disk that fills up in the middle of a run."""

from pathlib import Path

import pytest

from bench.errors import OutputError
from bench.records import BaselineRecord, RecordWriter


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_fills_up_says_how_many_records_are_kept(tmp_path):
    (tmp_path / "records.jsonl").symlink_to("/dev/full")
    writer = RecordWriter(tmp_path)
    with pytest.raises(
        OutputError, match="No space left on device; the 0 records that this process wrote are kept"
    ):
        writer.append(BaselineRecord("code", "p", 1, 1.0, 1.0))
