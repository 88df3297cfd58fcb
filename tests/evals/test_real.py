import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.evals.real import number_of, parse, read

HOME = "https://github.com/google-research/reassessed-imagenet"


def small(*lists):
    return parse(json.dumps(lists).encode(), name="real.json", num_images=len(lists))


def test_accuracy_is_that_worked_out_by_hand():
    """Right: 7 of (7,), 2 of (1, 2). Wrong: 3 of (4,). Not counted: the third, whatever was predicted."""
    real = small([7], [1, 2], [], [4])
    assert real.num_scored == 3
    assert real.accuracy([7, 2, 0, 3], numbers=[1, 2, 3, 4]) == 2 / 3
    assert real.accuracy([7, 1, 9, 4], numbers=[1, 2, 3, 4]) == 1.0


def test_images_may_come_in_any_order_and_need_not_be_all():
    real = small([7], [1, 2], [], [4])
    assert real.accuracy(np.array([3, 7]), numbers=[4, 1]) == 1 / 2
    assert real.accuracy([3, 7, 0], numbers=[4, 1, 3]) == 1 / 2


@pytest.mark.parametrize(
    ("predicted", "numbers", "message"),
    [
        ([1], [1, 2], "real: 1 predictions for 2 images"),
        ([1, 1], [2, 2], "for 2 images, 1 of them different"),
        ([1], [0], "real: there is no image 0; expected numbers from 1 to 3"),
        ([1], [4], "real: there is no image 4"),
        ([1], [3], "real: none of the 1 images has a label"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(predicted, numbers, message):
    with pytest.raises(ValueError, match=message):
        small([7], [1, 2], []).accuracy(predicted, numbers=numbers)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[[1], [2]", "real.json: is no JSON"),
        (b'"real.json"', "real.json: holds a str; expected the 50,000 lists"),
        (b"[[1]]", "real.json: holds 1 entries; expected the 50,000 lists .*reassessed-imagenet"),
        (b"[[1], [1000]]", r"real.json: entry 1 is \[1000\]; expected class numbers below 1000"),
        (b"[[1], 5]", "entry 1 is 5"),
        (b"[[true], []]", r"entry 0 is \[True\]"),
    ],
)
def test_another_file_is_refused_with_where_to_get_the_right_one(data, message):
    with pytest.raises(ValueError, match=message):
        parse(data, name="real.json", num_images=2)


@pytest.mark.parametrize(
    "name",
    ["val/n01440764/ILSVRC2012_val_00000293.JPEG", "ILSVRC2012_val_00000293_n01440764.JPEG", "ILSVRC2012_val_00000293"],
)
def test_the_number_of_an_image_is_read_from_its_file_name(name):
    assert number_of(name) == 293


def test_a_name_without_a_number_is_refused():
    with pytest.raises(ValueError, match="real: 'val/000000001' does not say which validation image it is"):
        number_of("val/000000001")


def published() -> Path:
    """real.json where TESSERA_SHARED says, or in a folder shared/data of this checkout or beside a parent of it."""
    named = os.environ.get("TESSERA_SHARED")
    folders = [Path(named)] if named else [parent / "shared" for parent in Path(__file__).resolve().parents]
    places = [folder / "data" / "real.json" for folder in folders]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        pytest.skip(f"real.json is in none of {', '.join(map(str, places))}; get it at {HOME}, or set TESSERA_SHARED")
    return found


def test_the_published_file_scores_46837_images_by_the_rule_of_its_authors():
    real = read(str(published()))
    sizes = np.array([len(labels) for labels in real.answers])
    assert (len(sizes), real.num_scored, int((sizes == 0).sum()), int((sizes > 1).sum())) == (
        50_000,
        46_837,
        3163,
        7443,
    )
    assert (sizes.max(), round(sizes[sizes > 0].mean(), 3)) == (9, 1.229)
    numbers = range(1, 50_001)
    best = [min(labels, default=0) for labels in real.answers]
    assert real.accuracy(best, numbers=numbers) == 1.0
    # Always class 0: right where it is an answer, out of the scored ones.
    assert real.accuracy([0] * 50_000, numbers=numbers) == sum(0 in labels for labels in real.answers) / 46_837
