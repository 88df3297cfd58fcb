"""Tables that list images: their columns, their labels, and what they may not name."""

import json

import pytest
from packing import jpeg, listed, opened, refusals, write

from pipeline.datasets.table import Table

ROWS = [("pics/1.jpg", "dog"), ("pics/2.jpg", "cat"), ("pics/3.jpg", "dog")]


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path / "in" / "pics" / f"{number}.jpg", jpeg(number))
    return tmp_path / "in"


def csv(*rows, head: str = "image,label") -> bytes:
    return "\r\n".join([head, *(",".join(map(str, row)) for row in rows), ""]).encode()


def jsonl(*rows, names=("image", "label")) -> bytes:
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows).encode()


def parquet(path, *, metadata=None, types=None, **columns) -> str:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({name: pyarrow.array(v, (types or {}).get(name)) for name, v in columns.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_images_and_labels_come_from_every_kind_of_table(folder, tmp_path, kind):
    path = folder / f"list.{kind}"
    if kind == "parquet":
        parquet(path, image=[name for name, _ in ROWS], label=[label for _, label in ROWS])
    else:
        data = {"csv": csv(*ROWS), "tsv": csv(*ROWS).replace(b",", b"\t"), "jsonl": jsonl(*ROWS)}[kind]
        write(path, data)
    source = opened(Table(str(path)), tmp_path)
    assert source.name == "list"
    assert source.classes() == ("cat", "dog")
    assert listed(source) == [(name, int(label == "dog"), jpeg(i + 1)) for i, (name, label) in enumerate(ROWS)]


def test_columns_can_have_other_names_and_one_can_say_the_split(folder, tmp_path):
    rows = [(name, label, split) for (name, label), split in zip(ROWS, ("train", "test", "train"), strict=True)]
    path = write(folder / "list.csv", csv(*rows, head="file,kind,part"))
    source = opened(Table(path, image="file", label="kind", split="part"), tmp_path)
    assert source.splits() == {"test": 1, "train": 2}
    assert listed(source, "test") == [("pics/2.jpg", 0, jpeg(2))]
    with pytest.raises(ValueError, match=r"list\.csv: row 1 has no 'image', it has file, kind, part"):
        opened(Table(path), tmp_path)
    with pytest.raises(ValueError, match="holdout: the column 'part' says what is held out"):
        Table(path, split="part", holdout=0.1)


def test_numbers_are_labels_and_given_classes_name_them(folder, tmp_path):
    path = write(folder / "list.csv", csv(("pics/1.jpg", 10), ("pics/2.jpg", "02")))
    source = opened(Table(path), tmp_path)
    assert source.classes() == tuple(map(str, range(11)))
    assert [label for _, label, _ in listed(source)] == [10, 2]
    path = write(folder / "named.csv", csv(("pics/1.jpg", 1), ("pics/2.jpg", "dog"), ("pics/3.jpg", "cow")))
    source = opened(Table(path, classes=("dog", "cat")), tmp_path)
    assert [label for _, label, _ in listed(source)] == [1, 0]
    assert refusals(source) == {"pics/3.jpg": "its label 'cow' is none of the 2 classes"}
    path = write(folder / "hostile.csv", csv(("pics/1.jpg", 10**18)))
    with pytest.raises(ValueError, match="classes: a label is 1000000000000000000, and classes are counted from 0"):
        opened(Table(path), tmp_path)


@pytest.mark.parametrize("layout", ["bytes", "struct"])
def test_images_inside_parquet_are_copied_out_and_read_by_ranges(tmp_path, layout):
    images = [jpeg(i) for i in range(5)]
    column = images if layout == "bytes" else [{"bytes": image, "path": "same.jpg"} for image in images]
    features = {"info": {"features": {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}}}
    for number in range(2):
        parquet(
            tmp_path / "in" / f"train-0000{number}-of-00002.parquet",
            image=column,
            label=[0, 1, 0, 1, -1],
            metadata={"huggingface": json.dumps(features)},
        )
    parquet(tmp_path / "in" / "test-00000-of-00001.parquet", image=column[:1], label=[1])
    source = opened(Table(str(tmp_path / "in")), tmp_path)
    assert source.splits() == {"test": 1, "train": 10}
    assert [image for *_, image in listed(source)] == images[:4] * 2
    assert len({key for key, *_ in listed(source)}) == 8
    assert set(refusals(source).values()) == {"has no label (-1)"}


def test_classes_that_the_files_declare_keep_their_order(tmp_path):
    features = {"info": {"features": {"label": {"names": ["zebra", "ant"]}}}}
    path = parquet(tmp_path / "t.parquet", image=[jpeg(0)], label=[1], metadata={"huggingface": json.dumps(features)})
    source = opened(Table(path), tmp_path)
    assert source.classes() == ("zebra", "ant")
    assert [label for _, label, _ in listed(source)] == [1]


def test_a_struct_without_bytes_names_a_file(folder, tmp_path):
    path = parquet(folder / "t.parquet", image=[{"bytes": None, "path": "pics/2.jpg"}], label=["a"])
    assert listed(opened(Table(path), tmp_path)) == [("pics/2.jpg", 0, jpeg(2))]


@pytest.mark.parametrize(
    "name",
    ["http://h/x.jpg", "https://h/x.jpg", "ftp://h/x.jpg", "pipe:cat /etc/passwd", "data:image/png;base64", "gs://b/k"],
)
def test_what_would_have_to_be_fetched_is_refused(tmp_path, name):
    path = write(tmp_path / "t.jsonl", jsonl(("a.jpg", "a"), (name, "a")))
    kind = name.partition(":")[0]
    with pytest.raises(ValueError, match=rf"t\.jsonl: row 2: .* is a URL of {kind}:; .* download them first"):
        opened(Table(path), tmp_path)


def test_rows_that_name_no_image_are_refused_one_by_one(folder, tmp_path):
    rows = [("pics/1.jpg", "a"), ("../secret.jpg", "a"), ("pics/none.jpg", "a"), ("", "a"), ("pics/2.jpg", "")]
    path = write(folder / "t.csv", csv(*rows))
    source = opened(Table(path), tmp_path)
    assert [key for key, *_ in listed(source)] == ["pics/1.jpg"]
    assert refusals(source) == {
        "../secret.jpg": "'../secret.jpg' leads out of its folder; write names without ..",
        "pics/none.jpg": "there is no such file",
        "row 4 of t.csv": "names no image ('')",
        "pics/2.jpg": "has no label ('')",
    }


def test_a_full_path_may_be_named_by_a_table_of_this_machine(folder, tmp_path):
    path = write(tmp_path / "elsewhere" / "t.csv", csv((folder / "pics" / "1.jpg", "a")))
    assert listed(opened(Table(path), tmp_path)) == [(str(folder / "pics" / "1.jpg"), 0, jpeg(1))]


def test_a_table_in_a_bucket_names_objects_and_no_path_of_a_machine(s3_environment, tmp_path):
    from pipeline import storage

    root = f"{s3_environment.uri}/{tmp_path.name}"
    storage.write(f"{root}/in/1.jpg", jpeg(1))
    rows = [("1.jpg", "a"), (f"{root}/in/1.jpg", "a"), ("/etc/passwd", "a")]
    storage.write(f"{root}/in/t.csv", csv(*rows))
    source = opened(Table(f"{root}/in/t.csv"), tmp_path)
    assert [image for *_, image in listed(source)] == [jpeg(1)] * 2
    assert refusals(source) == {"/etc/passwd": "is a path of some machine, and the table is in a bucket"}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", csv(("a.jpg",)), r"t\.csv: a row has not as many cells as the first line names"),
        ("t.csv", b"image,label\n\xff,a\n", r"t\.csv: .*can't decode"),
        ("t.jsonl", b"{]\n", r"t\.jsonl: line 1 is no JSON \("),
        ("t.jsonl", b"[1]\n", r"t\.jsonl: line 1 is no JSON object"),
        ("t.parquet", b"PAR1 no", r"t\.parquet: is no parquet file, or a damaged one"),
        ("t.xlsx", b"PK", r"t\.xlsx: is no table by its name; tables end in \.csv"),
        ("t.csv", csv(), r"t\.csv: no images are in it"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path, name, data, message):
    path = write(tmp_path / name, data)
    with pytest.raises(ValueError, match=message):
        opened(Table(path), tmp_path)


def test_a_missing_column_of_parquet_lists_those_there_are(tmp_path):
    path = parquet(tmp_path / "t.parquet", img=[b""], label=[0])
    with pytest.raises(ValueError, match=r"t\.parquet: has no column 'image'; it has img, label"):
        opened(Table(path), tmp_path)


@pytest.mark.parametrize("classes", [("a", "a"), ("a", "")])
def test_classes_are_listed_once(classes):
    with pytest.raises(ValueError, match=r"classes: .* is listed twice, or is no name"):
        Table("t.csv", classes=classes)
