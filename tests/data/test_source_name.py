import pytest

from pipeline.data import shards as writer
from pipeline.data.dataset import Manifest, write_manifest
from pipeline.data.source_name import source_names
from pipeline.datasets.fractals import Fractals
from pipeline.datasets.source import Sample


@pytest.fixture
def picture():
    return next(iter(Fractals(1, per_class=1, image_px=8).samples("train", [0])))


def made(uri, *, names, per_shard, picture):
    """Shards whose samples carry these names, in this order; every third is called a JPEG, so .json follows it."""
    parts = []
    for start in range(0, len(names), per_shard):
        part = names[start : start + per_shard]
        numbered = [
            (start + n, Sample(name, picture.image, "jpg" if (start + n) % 3 == 0 else "png", label=0))
            for n, name in enumerate(part)
        ]
        parts.append(writer.write_shard(uri, name=f"val/{start:06d}.tar", samples=numbered))
    write_manifest(uri, Manifest("toy", ("a",), {"val": tuple(parts)}, {"val": (len(names),)}, {}, 0))


def test_names_are_those_of_the_source_in_manifest_order(tmp_path, picture):
    names = [f"val/n{number % 3:08d}/ILSVRC2012_val_{number:08d}.JPEG" for number in (5, 3, 9, 1, 7, 2, 4)]
    made(str(tmp_path), names=names, per_shard=3, picture=picture)
    assert source_names(str(tmp_path), split="val") == names


def test_another_split_is_refused_with_those_there_are(tmp_path, picture):
    made(str(tmp_path), names=["x"], per_shard=3, picture=picture)
    with pytest.raises(ValueError, match="split: toy has no 'test'; it has val"):
        source_names(str(tmp_path), split="test")
