"""Fractals: pixels that follow from numbers alone, in classes that can be told apart."""

import dataclasses
import hashlib
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import fractals
from pipeline.datasets.fractals import Fractals, class_maps, render

SOURCE = Fractals(num_classes=12, per_class=30, image_px=32, val_per_class=5)


def pixels(sample) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(sample.image)))


def test_the_pixels_are_what_they_were_in_the_first_release():
    images = render([(0, 0), (1, 5), (700, 3)], source=dataclasses.replace(SOURCE, palette="colour"))
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "14a4ca2b3f740e53"


def test_an_image_depends_on_its_own_numbers_and_on_no_other_image():
    together = list(SOURCE.samples("train", range(100)))
    alone = [next(iter(SOURCE.samples("train", [index]))) for index in (3, 57, 99)]
    assert [sample.image for sample in alone] == [together[index].image for index in (3, 57, 99)]


def test_more_classes_or_instances_change_none_of_the_others():
    more = Fractals(num_classes=24, per_class=60, image_px=32, val_per_class=50)
    ours, theirs = next(iter(SOURCE.samples("train", [7 + 12 * 3]))), next(iter(more.samples("train", [7 + 24 * 3])))
    assert ours.key == theirs.key == "train/00007/000003"
    assert ours.image == theirs.image


def test_samples_are_rgb_pngs_of_the_size_asked_for_and_carry_their_class():
    for px in (8, 32, 65):
        source = Fractals(num_classes=3, per_class=2, image_px=px)
        samples = list(source.samples("train", range(6)))
        assert {pixels(sample).shape for sample in samples} == {(px, px, 3)}
        assert [sample.label for sample in samples] == [0, 1, 2, 0, 1, 2]
        assert {sample.extension for sample in samples} == {"png"}


def test_splits_classes_and_names_agree():
    assert SOURCE.splits() == {"train": 360, "val": 60}
    assert Fractals(num_classes=2, per_class=3, image_px=32, val_per_class=0).splits() == {"train": 6}
    assert SOURCE.classes()[7] == "fractal_00007"
    assert len(SOURCE.classes()) == 12
    assert SOURCE.name == "fractals-12"


def test_every_image_is_another_one_in_both_splits():
    images = [s.image for split, n in SOURCE.splits().items() for s in SOURCE.samples(split, range(n))]
    assert len(set(images)) == 420


def test_every_class_fills_the_picture_enough_and_none_floods_it():
    for label in range(12):
        picture = render([(label, 0)], source=SOURCE)[0].astype(int)
        drawn = np.abs(picture - picture[0, 0]).sum(axis=2) > 20
        assert 0.08 < drawn.mean() < 0.8, label


def test_every_map_of_every_instance_contracts():
    for label in range(12):
        for factor in (0.8, 1.2):
            for parameter in range(4):
                linear = class_maps(0, label)[:, :4].copy()
                linear[:, parameter] *= factor
                assert np.linalg.norm(linear.reshape(-1, 2, 2), ord=2, axis=(1, 2)).max() < 1


def test_classes_can_be_told_apart_by_their_nearest_neighbour():
    def features(instances):
        images = render([(c, i) for c in range(12) for i in instances], source=SOURCE).mean(axis=3)
        flat = images.reshape(len(images), -1)
        flat = flat - flat.mean(axis=1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    nearest = (features(range(100, 104)) @ features(range(20)).T).argmax(axis=1) // 20
    assert (nearest == np.repeat(np.arange(12), 4)).mean() > 0.9


def test_seeds_give_other_fractals():
    assert not np.array_equal(class_maps(0, 0), class_maps(1, 0))


def test_a_rendering_travels_to_another_process():
    rendering = SOURCE.samples("val", range(4))
    copy = pickle.loads(pickle.dumps(rendering))
    assert [sample.image for sample in copy] == [sample.image for sample in rendering]


def test_the_search_for_a_class_ends(monkeypatch):
    monkeypatch.setattr(fractals, "_ROUNDS", 2)
    with pytest.raises(ValueError, match="seed: 5 gives no fractal for class 999 in 32 tries"):
        class_maps(5, 999, fill=(0.999, 1.0))


@pytest.mark.parametrize("field", ["num_classes", "per_class", "image_px", "val_per_class", "seed"])
def test_impossible_numbers_are_refused_by_name(field):
    with pytest.raises(ValueError, match=f"{field}: must be at least .*, got -1"):
        Fractals(**({"num_classes": 2, "per_class": 2, "image_px": 32} | {field: -1}))


def test_an_unknown_split_lists_the_splits():
    with pytest.raises(ValueError, match="split: fractals-12 has no 'test'; it has train, val"):
        SOURCE.samples("test", [0])


def test_grey_fractals_are_light_on_black_and_without_mirrors_keep_their_place():
    plain = dataclasses.replace(SOURCE, mirrored=False)
    images_IHVC = render([(4, instance) for instance in range(40)], source=plain)
    assert (images_IHVC[..., :1] == images_IHVC).all()
    assert images_IHVC.min() == 0
    ours_HV, seen_HV = images_IHVC[:20].mean(axis=(0, 3)), images_IHVC[20:].mean(axis=(0, 3))
    assert (
        np.corrcoef(ours_HV.ravel(), seen_HV.ravel())[0, 1] > np.corrcoef(ours_HV.ravel(), seen_HV[::-1].ravel())[0, 1]
    )


def test_fewer_maps_and_another_fill_are_other_classes_within_their_bounds():
    sparse = Fractals(num_classes=12, per_class=1, image_px=32, max_maps=3, fill=(0.05, 0.3))
    for label in range(12):
        maps_MP = class_maps(0, label, max_maps=3, fill=(0.05, 0.3))
        assert 2 <= np.any(maps_MP != 0, axis=1).sum() <= 3
    touched = (render([(label, 0) for label in range(12)], source=sparse).max(axis=3) > 0).mean(axis=(1, 2))
    assert touched.mean() < 0.35


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"max_maps": 9}, "max_maps: must be from 2 to 8"), ({"fill": (0.5, 0.2)}, "fill: must be two rising")],
)
def test_a_look_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SOURCE, **changes)
