"""Files read in ranges: once from front to back, or here and there."""

import io

import pytest

from pipeline import storage
from pipeline.storage import ranged
from pipeline.storage.ranged import Ranged
from pipeline.storage.stream import Stream

DATA = bytes(range(256)) * 200


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The ranges of the file that storage was asked for."""
    asked, read = [], storage.read
    monkeypatch.setattr(storage, "read", lambda uri, **span: asked.append(span) or read(uri, **span))
    (tmp_path / "file").write_bytes(DATA)
    return asked


def test_no_more_than_some_ranges_are_in_memory(asked, tmp_path):
    with Stream(str(tmp_path / "file"), range_bytes=1000) as file:
        assert file.read(1) == DATA[:1]
        file.skip_to(10_000)
        assert (file.read(1), file.position, file.left) == (DATA[10_000:10_001], 10_001, len(DATA) - 10_001)
    assert {span["stop"] - span["start"] for span in asked} == {1000}
    assert len(asked) <= 11 + 3


def test_what_lies_close_together_is_one_request_and_what_is_skipped_is_none(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(ranged, "_LOCAL_BLOCK_BYTES", 1000)
    file = Ranged(str(tmp_path / "file"))
    for start in (0, 400, 900, 30_000):
        file.skip_to(start)
        assert file.read(100) == DATA[start : start + 100]
    assert file.position == 30_100
    assert asked == [{"start": 0, "stop": 1000}, {"start": 30_000, "stop": 31_000}]


def test_a_part_of_a_file_is_a_file_of_its_own(asked, tmp_path):
    part = Ranged(str(tmp_path / "file"), start=300, stop=700)
    assert (part.num_bytes, part.read(), part.read(1)) == (400, DATA[300:700], b"")
    part.skip_to(390)
    assert part.read(100) == DATA[690:700]
    assert io.BufferedReader(Ranged(str(tmp_path / "file"), start=300, stop=700)).read() == DATA[300:700]
