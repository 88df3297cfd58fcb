"""Images through a model in batches: each sample once, whatever the batch and however many share the work."""

import numpy as np
import pytest
import torch

from pipeline.data.view import EvalView
from pipeline.train import infer
from pipeline.train.infer import PADDING, outputs
from tests.data.pictures import data_set, label_of

SIZES = (7, 12)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    data_set(folder, sizes=SIZES)
    return str(folder)


def run(pictures, *, ids=range(19), batch=4, part=(0, 1), forward=None):
    """(what forward returned, labels) of every batch."""
    return list(
        outputs(
            forward or (lambda images_BCHW: images_BCHW.float().mean((1, 2, 3))),
            shards=pictures,
            split="train",
            ids_N=np.array(ids),
            view=EvalView(16),
            batch=batch,
            device=torch.device("cpu"),
            part=part,
        )
    )


def test_samples_come_in_the_order_they_were_asked_for_with_their_labels(pictures):
    found = run(pictures, ids=[18, 0, 9, 8, 3], batch=2)
    assert [len(labels_B) for _, labels_B in found] == [2, 2, 1]
    assert torch.cat([labels_B for _, labels_B in found]).tolist() == [label_of(i) for i in (18, 0, 9, 8, 3)]
    (whole, _), *_ = run(pictures, batch=19)
    assert torch.cat([means_B for means_B, _ in found]).tolist() == whole[[18, 0, 9, 8, 3]].tolist()


def test_what_is_read_together_changes_nothing(pictures, monkeypatch):
    expected = run(pictures)
    monkeypatch.setattr(infer, "_CHUNK_BYTES", 6 * 16 * 16 * 3)
    for (one, ones), (other, others) in zip(run(pictures), expected, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(ones, others)


@pytest.mark.parametrize("num_parts", [2, 3, 4, 25])
def test_parts_make_equally_many_calls_and_count_every_sample_once(pictures, num_parts):
    calls, real = set(), []
    for number in range(num_parts):
        found = run(pictures, batch=2, part=(number, num_parts))
        calls.add(tuple(len(means_B) for means_B, _ in found))
        real += [label for _, labels_B in found for label in labels_B.tolist() if label != PADDING]
    assert len(calls) == 1
    assert sorted(real) == sorted(label_of(i) for i in range(19))


def test_the_model_gets_uint8_images_channels_first(pictures):
    seen = []
    run(pictures, batch=8, forward=lambda images_BCHW: seen.append((images_BCHW.dtype, tuple(images_BCHW.shape))))
    assert seen == [(torch.uint8, (8, 3, 16, 16)), (torch.uint8, (8, 3, 16, 16)), (torch.uint8, (3, 3, 16, 16))]
