"""Tars that are damaged, or made to harm: each is told apart from the others, with what would be right."""

import bz2
import contextlib
import gzip
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tars import END, header, members_of, padded, record, tar_of

from pipeline.data.scan import Rules, scan

SOUND = members_of(range(3))
ZSTD = b"\x28\xb5\x2f\xfd" + bytes(2000)


def scanned(path: Path, **rules):
    return scan(str(path), rules=Rules(**rules), called="shard")


def flaws_of(folder: Path, *members: tuple[str, bytes], form: int = tarfile.PAX_FORMAT, **rules) -> dict[str, str]:
    """{key: reason} of a tar with these members between sound samples, which must all be found."""
    path = tar_of(folder / "t.tar", [*SOUND[:3], *members, *SOUND[3:]], form=form)
    index, flaws = scanned(path, **rules)
    data = path.read_bytes()
    images = [data[o : o + s] for o, s in zip(index.offset_S.tolist(), index.size_S.tolist(), strict=True)]
    sound = [image for name, image in SOUND if name.endswith(".jpg")]
    assert [image for image in images if image in sound] == sound
    return {flaw.key: flaw.reason for flaw in flaws}


def refusal(folder: Path, data: bytes) -> str:
    (folder / "t.tar").write_bytes(data)
    with pytest.raises(ValueError, match=r"^shard: ") as caught:
        scanned(folder / "t.tar")
    return str(caught.value)


def test_a_sound_tar_has_no_flaw(tmp_path):
    assert flaws_of(tmp_path) == {}


# Tars that are broken as a whole.


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty, not a tar"),
        (b"<!DOCTYPE html>" * 99, "is not a tar: no tar header at byte 0 (it starts with b'<!DOCTYP')"),
        (b"x" * 100, "is not a tar"),
        (gzip.compress(b"a tar"), "is compressed (gzip), so that no image can be read on its own; unpack it with gun"),
        (bz2.compress(b"a tar"), "is compressed (bzip2)"),
        (ZSTD, "is compressed (zstd)"),
        (b"PK\x03\x04" + bytes(2000), "is compressed (zip)"),
    ],
)
def test_what_is_no_tar_is_named(tmp_path, data, reason):
    assert reason in refusal(tmp_path, data)


def test_a_tar_cut_short_is_noticed_wherever_it_was_cut(tmp_path):
    whole = tar_of(tmp_path / "whole.tar", SOUND).read_bytes()
    end = len(whole.rstrip(b"\0")) + -len(whole.rstrip(b"\0")) % 512
    for size in (512, 700, 1024, 1536, 2000, end - 512, end - 1, end, end + 100):
        assert "cut short" in refusal(tmp_path, whole[:size]), size
    (tmp_path / "t.tar").write_bytes(whole[: end + 512])  # one block of zeros is an end, as for other readers
    assert scanned(tmp_path / "t.tar")[0].num_samples == 3


def test_the_message_of_a_cut_says_which_member_it_hit(tmp_path):
    whole = tar_of(tmp_path / "whole.tar", SOUND).read_bytes()
    assert "member 'n/0000.jpg' at byte 1024 has" in refusal(tmp_path, whole[:2000])
    assert "ends at byte 512 without an end-of-archive mark" in refusal(tmp_path, header(b"a.cls"))


def test_a_header_that_was_damaged_is_noticed(tmp_path):
    data = bytearray(tar_of(tmp_path / "whole.tar", SOUND).read_bytes())
    data[1024 + 3] ^= 1  # in the name of the second member
    assert "no tar header at byte 1024" in refusal(tmp_path, bytes(data))


def test_what_follows_the_end_is_not_lost_in_silence(tmp_path):
    whole = tar_of(tmp_path / "whole.tar", SOUND).read_bytes()
    assert f"goes on at byte {len(whole)}, after its end-of-archive mark" in refusal(tmp_path, whole + whole)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (b"1", "is a hard link; store the file itself (tar --hard-dereference)"),
        (b"2", "is a symbolic link; store the file itself (tar --dereference)"),
        (b"3", "is a device"),
        (b"6", "is a pipe"),
        (b"S", "is a sparse file; write it without --sparse"),
        (b"M", "goes on in another volume"),
        (b"?", "is of the unknown kind b'?'"),
    ],
)
def test_a_member_without_bytes_of_its_own_is_refused_and_never_followed(tmp_path, kind, reason):
    assert f"shard: member 'a.jpg' at byte 0 {reason}" in refusal(tmp_path, header(b"a.jpg", kind=kind) + END)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (b"-0000001000", "gives the size b'-0000001000\\x00', not an octal number"),
        (b"0o17", "not an octal number"),
        (b"\xff" * 12, "not an octal number"),
        (b"\x80" + b"\x7f" * 11, "are left of the tar"),
        (b"77777777777", "has 8589934591 bytes by its header, 1024 are left of the tar"),
    ],
)
def test_a_size_that_would_lead_the_walk_astray_is_refused(tmp_path, size, reason):
    assert reason in refusal(tmp_path, header(b"a.jpg", size=size) + END)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (b"99 path=a.jpg\n", "pax header is damaged at byte 0"),
        (b"0 path=a.jpg\n", "pax header is damaged"),
        (b"x", "pax header is damaged"),
        (record("path", b"a.jpg") + b"14 path=a.jpg..", "pax header is damaged at byte 14"),
        (record("size", b"-512"), "gives the size b'-512'"),
        (record("size", b"9" * 18), "are left of the tar"),
        (record("GNU.sparse.major", b"1"), "is a sparse file"),
        (bytes((1 << 20) + 1), "a name or pax header of 1048577 bytes; 1048576 are the most"),
    ],
)
def test_a_pax_header_made_to_harm_is_refused(tmp_path, records, reason):
    data = header(b"x", size=len(records), kind=b"x") + padded(records) + header(b"a.jpg", size=0) + END
    assert reason in refusal(tmp_path, data)


# Samples that cannot be used: left out, and the others stay.


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("k.cls", b"1")], "has no image, only .cls; it needs one of .jpg, .jpeg, .png, .webp"),
        ([("k.gif", b"x"), ("k.cls", b"1")], "has no image, only .gif, .cls"),
        ([("k.jpg", b"x")], "has no label, only .jpg; it needs a .cls or .json"),
        ([("k.jpg", b"x"), ("k.\x1b[2J", b"x")], "has no label, only .jpg; it needs"),
        ([("k.jpg", b"x"), ("k.json", b'{"a": 1}')], "its .json has no field label or cls for the label; it has 'a'"),
        ([("k.jpg", b"x"), ("k.json", b"[1]")], "for the label; it is no object"),
        ([("k.jpg", b"x"), ("k.json", b"{")], "its .json cannot be read"),
        ([("k.jpg", b"x"), ("k.json", b"[" * 100_000)], "its .json cannot be read"),
        ([("k.jpg", b"x"), ("k.json", b"9" * 5000)], "its .json cannot be read"),
        ([("k.jpg", b"x"), ("k.json", b'{"label": true}')], "label True is not a whole number"),
        ([("k.jpg", b"x"), ("k.json", b'{"label": 1.5}')], "label 1.5 is not a whole number"),
        ([("k.jpg", b"x"), ("k.cls", b"cat")], "label 'cat' is not a whole number; labels are 0, 1, 2 ..."),
        ([("k.jpg", b"x"), ("k.cls", b"")], "label '' is not a whole number"),
        ([("k.jpg", b"x"), ("k.cls", b"1_0")], "label '1_0' is not a whole number"),
        ([("k.jpg", b"x"), ("k.cls", b"\xff")], "is not a whole number"),
        ([("k.jpg", b"x"), ("k.cls", b"-1")], "label -1 is negative"),
        ([("k.jpg", b"x"), ("k.cls", b"4000000000")], "label 4000000000 is too large; 1000000 classes are 0 to 999999"),
        ([("k.jpg", b""), ("k.cls", b"1")], "its .jpg is empty"),
        ([("k.jpg", b"x"), ("k.png", b"y"), ("k.cls", b"1")], "has 2 images (.jpg, .png, .cls)"),
        ([("k.jpg", b"x"), ("k.jpg", b"x"), ("k.cls", b"1")], "has 2 images (.jpg, .jpg, .cls)"),
    ],
)
def test_a_sample_that_cannot_be_used_is_left_out_with_its_reason(tmp_path, members, reason):
    flaws = flaws_of(tmp_path, *members)
    assert list(flaws) == ["k"]
    assert reason in flaws["k"]


def test_a_label_must_be_one_of_the_classes(tmp_path):
    assert flaws_of(tmp_path, ("k.jpg", b"x"), ("k.cls", b"5"), num_classes=5) == {
        "k": "label 5 is too large; 5 classes are 0 to 4"
    }


def test_a_key_that_comes_twice_is_left_out_the_second_time(tmp_path):
    index, flaws = scanned(tar_of(tmp_path / "t.tar", [*SOUND, *SOUND[:3]]))
    assert index.num_samples == 3
    assert [flaw.key for flaw in flaws] == ["n/0000"]
    assert "the key comes twice in the shard (here with .cls, .jpg" in flaws[0].reason
    assert "write the tar sorted by name" in flaws[0].reason


def test_a_member_beyond_the_limit_is_left_out_without_being_read(tmp_path):
    flaws = flaws_of(tmp_path, ("k.jpg", b"x" * 5001), ("k.cls", b"1"), max_member_bytes=5000)
    assert flaws == {"k": "its .jpg has 5001 bytes; 5000 are the most"}


def test_a_label_file_too_large_to_be_one_is_not_read_and_harms_only_where_the_label_is_in_it(tmp_path):
    large = [("k.jpg", b"x"), ("k.json", bytes((16 << 20) + 1))]
    assert flaws_of(tmp_path, *large) == {"k": "its .json has more than 16777216 bytes; too many for a label"}
    assert flaws_of(tmp_path, *large, ("k.cls", b"1")) == {}
    assert flaws_of(tmp_path, *large, ("k.cls", b"1"), label="cls") == {}


def test_what_can_hold_no_label_makes_no_sample(tmp_path):
    assert flaws_of(tmp_path, ("about.json", b"{}"), label="cls") == {}
    assert list(flaws_of(tmp_path, ("about.json", b"{}"))) == ["about"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../etc/k", "'../../etc/k.jpg' leads out of its folder"),
        ("a/../k", "leads out of its folder"),
        ("/etc/k", "'/etc/k.jpg' is an absolute path"),
        ("a\x1b[2Jk", "'a\\x1b[2Jk.jpg' has control characters in its name"),
        ("a\nb/k", "has control characters in its name"),
        ("n" * 2000, "a name of 2004 characters; 1024 are the most"),
    ],
)
def test_a_name_that_would_harm_is_told_and_its_sample_left_out(tmp_path, name, reason):
    flaws = flaws_of(tmp_path, (f"{name}.jpg", b"x"), (f"{name}.cls", b"1"))
    assert list(flaws) == [name[:1024]]
    assert reason in flaws[name[:1024]]


def test_a_name_that_is_not_utf_8_is_told(tmp_path):
    data = header(b"caf\xe9.jpg", size=1) + padded(b"x") + header(b"caf\xe9.cls", size=1) + padded(b"1") + END
    (tmp_path / "t.tar").write_bytes(data)
    _, (flaw,) = scanned(tmp_path / "t.tar")
    assert flaw.reason == r"'caf\udce9.jpg' is not UTF-8; rename it"


class Bomb:
    """Unpickled, it raises."""

    def __reduce__(self):
        return exec, ("raise AssertionError('it was unpickled')",)


def test_pickles_are_passed_over_and_never_loaded(tmp_path):
    bomb = pickle.dumps(Bomb())
    assert flaws_of(tmp_path, ("k.pkl", bomb), ("k.pyd", bomb), ("k.pth", bomb), ("README", bomb)) == {}
    with_image = [("k.jpg", b"x"), ("k.pkl", bomb)]
    assert flaws_of(tmp_path, *with_image) == {"k": "has no label, only .jpg, .pkl; it needs a .cls or .json"}


def test_whatever_byte_is_damaged_the_scan_ends_with_an_answer_or_a_reason(tmp_path):
    whole = tar_of(tmp_path / "whole.tar", SOUND, form=tarfile.PAX_FORMAT, mtime=0.5).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3).tolist():
            data[at] = int(rng.integers(256))
        (tmp_path / "t.tar").write_bytes(data)
        with contextlib.suppress(ValueError):
            index, _ = scanned(tmp_path / "t.tar")
            assert index.num_samples <= 3


def test_a_large_member_passes_through_little_memory(tmp_path):
    path = tar_of(tmp_path / "t.tar", [("a.jpg", bytes(100 << 20)), ("a.cls", b"1")])
    tracemalloc.start()
    try:
        index, flaws = scanned(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (index.size_S.tolist(), flaws) == ([100 << 20], ())
    assert peak_bytes < 64 << 20
