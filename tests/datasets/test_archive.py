"""Tars of images, as ImageNet comes: what is a class in them, what is read of them, what strangers may put there."""

import gzip
import pickle
import tarfile

import pytest
from packing import class_tar, jpeg, listed, opened, packed, refusals, special, write

from pipeline import storage
from pipeline.datasets.archive import Archive
from pipeline.storage import ranged

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def test_a_tar_of_class_tars_has_the_class_tars_as_classes(tmp_path):
    inner = {name: class_tar(name) for name in ("n02", "n01")}
    path = write(tmp_path / "fall11.tar", packed(*((f"{name}.tar", data) for name, data in inner.items())))
    source = opened(Archive(path), tmp_path)
    assert source.name == "fall11"
    assert source.classes() == ("n01", "n02")
    assert source.splits() == {"train": 6}
    expected = [
        (f"fall11.tar/{n}.tar/{n}_{i}.JPEG", int(n == "n02"), jpeg(i)) for n in ("n02", "n01") for i in range(3)
    ]
    assert listed(source) == expected


def test_a_folder_of_class_tars_and_one_of_mixed_tars_are_the_same(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "by_class" / f"{name}.tar", class_tar(name))
    for number in range(3):
        members = [(f"./{name}/{name}_{number}.JPEG", jpeg(number)) for name in ("a", "b")]
        write(tmp_path / "mixed" / f"part{number}.tar", packed(*members))
    by_class, mixed = (opened(Archive(str(tmp_path / name)), tmp_path) for name in ("by_class", "mixed"))
    assert by_class.classes() == mixed.classes() == ("a", "b")
    assert {sample[1:] for sample in listed(by_class)} == {sample[1:] for sample in listed(mixed)}


def test_a_folder_per_split_keeps_them_and_a_share_can_be_held_out_of_one_without(tmp_path):
    write(tmp_path / "in" / "train" / "a.tar", class_tar("a", num_images=5))
    write(tmp_path / "in" / "val" / "a.tar", class_tar("a", num_images=2))
    assert opened(Archive(str(tmp_path / "in")), tmp_path).splits() == {"train": 5, "val": 2}
    with pytest.raises(ValueError, match=r"holdout: .* has splits of its own \(train, val\)"):
        opened(Archive(str(tmp_path / "in"), holdout=0.5), tmp_path)
    write(tmp_path / "flat" / "a.tar", class_tar("a", num_images=40))
    splits = opened(Archive(str(tmp_path / "flat"), holdout=0.3), tmp_path).splits()
    assert sum(splits.values()) == 40
    assert 5 < splits["val"] < 20


@pytest.mark.parametrize("format", FORMATS)
def test_every_dialect_of_tar_is_read_with_its_long_names(tmp_path, format):
    long = "a/" + ("x" * 60 + "/") * (2 if format == "ustar" else 4) + "image.jpg"
    members = [(long, jpeg(1)), ("b/ünïcode.png", jpeg(2))]
    path = write(tmp_path / "t.tar", packed(*members, format=FORMATS[format]))
    assert listed(opened(Archive(path), tmp_path)) == [
        (f"t.tar/{name}", i, jpeg(i + 1)) for i, (name, _) in enumerate(members)
    ]


def test_the_class_can_be_the_last_folder(tmp_path):
    path = write(tmp_path / "t.tar", packed(("ILSVRC/train/n02/a.JPEG", jpeg(0)), ("ILSVRC/train/n01/b.JPEG", jpeg(1))))
    assert opened(Archive(path), tmp_path).classes() == ("ILSVRC",)
    assert opened(Archive(path, class_folder="last"), tmp_path).classes() == ("n01", "n02")


@pytest.mark.parametrize("root", ["folder", "s3"])
def test_a_scan_reads_headers_and_a_sample_its_own_bytes(tmp_path, root, request, monkeypatch):
    large = jpeg(0) + bytes(200_000)
    data = packed(*((f"a/{i}.jpg", large) for i in range(20)))
    if root == "s3":
        monkeypatch.setattr(ranged, "_BLOCK_BYTES", 1 << 12)
        path = f"{request.getfixturevalue('s3_environment').uri}/{tmp_path.name}/t.tar"
        storage.write(path, data)
    else:
        path = write(tmp_path / "t.tar", data)
    real, sizes = storage.read, []

    def read(uri, *, start=0, stop=None):
        got = real(uri, start=start, stop=stop)
        sizes.append(len(got) if uri.endswith("t.tar") else 0)
        return got

    monkeypatch.setattr(storage, "read", read)
    source = opened(Archive(path), tmp_path)
    assert 0 < sum(sizes) < 0.1 * len(data)
    sizes.clear()
    samples = pickle.loads(pickle.dumps(source.samples("train", [7])))
    assert sizes == []
    assert [sample.image for sample in samples] == [large]
    assert sizes == [len(large)]


def test_what_cannot_be_an_image_is_refused_by_name_and_the_rest_is_taken(tmp_path):
    members = [
        ("a/twice.jpg", jpeg(1)),
        ("../../etc/passwd.jpg", jpeg(2)),
        ("/a/absolute.jpg", jpeg(3)),
        ("a/empty.jpg", b""),
        ("a/huge.jpg", bytes((1 << 20) + 1)),
        ("a/bell\a.jpg", jpeg(4)),
        special("a/soft.jpg", tarfile.SYMTYPE, target="/etc/passwd"),
        special("a/hard.jpg", tarfile.LNKTYPE, target="a/twice.jpg"),
        special("a/device.jpg", tarfile.BLKTYPE),
        special("a/folder.jpg", tarfile.DIRTYPE),
        ("a/._twice.jpg", b"resource fork"),
        ("a/notes.txt", b"text"),
        ("a/twice.jpg", jpeg(5)),
    ]
    path = write(tmp_path / "t.tar", packed(*members))
    source = opened(Archive(path, max_image_mib=1), tmp_path)
    assert listed(source) == [("t.tar/a/absolute.jpg", 0, jpeg(3)), ("t.tar/a/twice.jpg", 0, jpeg(5))]
    assert source.classes() == ("a",)
    assert refusals(source) == {
        "t.tar/a/twice.jpg": "its name comes again later in the same file, and the last one counts",
        "t.tar/../../etc/passwd.jpg": "'../../etc/passwd.jpg' leads out of its folder; write names without ..",
        "t.tar/a/empty.jpg": "is empty",
        "t.tar/a/huge.jpg": "has 1048577 bytes, max_image_mib permits 1",
        r"t.tar/a/bell\x07.jpg": r"'a/bell\x07.jpg' has control characters in its name; rename it",
        "t.tar/a/soft.jpg": "is a symbolic link; store the file itself (tar --dereference)",
        "t.tar/a/hard.jpg": "is a hard link; store the file itself (tar --hard-dereference)",
        "t.tar/a/device.jpg": "is a device; leave it out",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch", "t.tar"]


def test_a_name_that_only_cannot_be_printed_is_taken_and_its_key_escaped(tmp_path):
    path = write(tmp_path / "t.tar", packed(("a/b\u202ec.jpg", jpeg(1))))
    assert listed(opened(Archive(path), tmp_path)) == [(r"t.tar/a/b\u202ec.jpg", 0, jpeg(1))]


def test_compressed_tars_are_refused_with_the_remedy(tmp_path):
    plain = class_tar("a")
    by_bytes = write(tmp_path / "1" / "t.tar", gzip.compress(plain))
    by_name = write(tmp_path / "2" / "t.tar.gz", gzip.compress(plain))
    for path in (by_bytes, by_name):
        with pytest.raises(ValueError, match=rf"^{path}: is compressed \(gzip\).*unpack it with gunzip"):
            opened(Archive(path), tmp_path)
    write(tmp_path / "2" / "plain.tar", plain)
    with pytest.raises(ValueError, match=r"2: t\.tar\.gz is compressed, and not read; unpack it into a plain \*\.tar"):
        opened(Archive(str(tmp_path / "2")), tmp_path)
    nested = write(tmp_path / "outer.tar", packed(("a.tar", gzip.compress(plain))))
    with pytest.raises(ValueError, match=r"outer\.tar \(the tar at byte 512\): is compressed"):
        opened(Archive(nested), tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tar: b"", "is empty, not a tar"),
        (lambda tar: b"<html>not found</html>" * 100, "is not a tar: no tar header at byte 0"),
        (lambda tar: tar[:2600], "member 'a/2.jpg' at byte 2048 has 512 bytes by its header, 40 are left of the tar"),
        (lambda tar: tar[:2100], "ends at byte 2100 without an end-of-archive mark: it was cut short"),
        (lambda tar: tar[:2048], "ends at byte 2048 without an end-of-archive mark: it was cut short"),
        (lambda tar: tar[:2048] + b"x" * 512 + tar[2560:], "no tar header at byte 2048 .* damaged"),
        (lambda tar: tar + tar, "goes on at byte 10240, after its end-of-archive mark"),
    ],
    ids=["empty", "no tar", "cut in a member", "in a header", "between members", "a header overwritten", "joined"],
)
def test_damage_is_named_with_its_place(tmp_path, spoil, message):
    tar = packed(*((f"a/{i}.jpg", bytes(512)) for i in range(4)))
    path = write(tmp_path / "t.tar", spoil(tar))
    with pytest.raises(ValueError, match=f"^{path}: {message}"):
        opened(Archive(path), tmp_path)


def test_a_header_that_promises_gigabytes_is_not_read(tmp_path):
    header = special("x", tarfile.XHDTYPE)
    header.size = 1 << 25
    path = tmp_path / "t.tar"
    with path.open("wb") as file:
        file.write(header.tobuf())
        file.truncate(1 << 26)
    with pytest.raises(ValueError, match=r"t\.tar: .* pax header of 33554432 bytes; 1048576 are the most"):
        opened(Archive(str(path)), tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", jpeg(0))], r"t\.tar: 1\.jpg lies in no folder that would be its class"),
        ([("a/notes.txt", b"")], r"t\.tar: no images are in it; images end in jpg, jpeg, png or webp"),
        ([("b.tar", packed(("c.tar", class_tar("c"))))], r"t\.tar: c\.tar is a tar in a tar in a tar"),
    ],
)
def test_a_tar_that_cannot_be_meant_is_refused(tmp_path, members, message):
    path = write(tmp_path / "t.tar", packed(*members))
    with pytest.raises(ValueError, match=message):
        opened(Archive(path), tmp_path)


def test_a_path_that_holds_no_tars_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nothing: no files, or no such folder; name a file, .* of \*\.tar, or"):
        opened(Archive(str(tmp_path / "nothing")), tmp_path)
    write(tmp_path / "in" / "a" / "1.jpg", jpeg(0))
    with pytest.raises(ValueError, match=r"in: 1 files, none of them \*\.tar"):
        opened(Archive(str(tmp_path / "in")), tmp_path)
    write(tmp_path / "in" / "a.tar", class_tar("a"))
    write(tmp_path / "in" / "b" / "b.tar", class_tar("b"))
    with pytest.raises(ValueError, match=r"b/b\.tar is too deep, or not as deep as a\.tar"):
        opened(Archive(str(tmp_path / "in")), tmp_path)


def test_constructing_one_touches_nothing_and_refuses_impossible_numbers():
    assert Archive("s3://nowhere/at/all.tar").name == "all"
    with pytest.raises(ValueError, match="max_image_mib: must be at least 1, got 0"):
        Archive("t.tar", max_image_mib=0)
    with pytest.raises(ValueError, match="holdout: must be a share"):
        Archive("t.tar", holdout=1.0)
