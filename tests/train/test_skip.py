"""Updates not made, gangs of any size, and the probe, with DeepSpeed as it is: fails if an upgrade moves it."""

import dataclasses

import numpy as np
import pytest

from pipeline.train.objective import Objective
from tests.train import gang, guarded
from tests.train.work import MODEL, Case

STAGES = (1, 2, 3)
PRECISIONS = ("fp32", "bf16")
ACCUMULATING = Case(2, accumulate=3)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_is_not_finite_on_one_rank_changes_nothing_on_any(stage, precision, tmp_path):
    case = Case(stage, precision=precision)
    expected = gang.run(guarded.without, case, world=2, folder=tmp_path)[0]
    for told in gang.run(guarded.skipping, case, world=2, folder=tmp_path):
        assert told["same"], "masters, moments and Adam's count"
        assert told["weights"], "and the working weights"
        assert told["why"] == "the loss is nan"
        assert told["counts"] == (4, 3)
        assert set(told["adam"]) == {6.0}, "three before and three after"
        assert told["after"] == expected


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stage", STAGES)
def test_spikes_are_skipped_and_a_resumed_run_skips_and_learns_bit_for_bit_alike(stage, precision, tmp_path):
    case, uri = Case(stage, precision=precision), str(tmp_path / "checkpoints")
    one, other = gang.run(guarded.spiking, case, uri, world=2, folder=tmp_path)
    assert one == other, "all ranks decide alike"
    (whole, window, updates), (resumed, *after) = one
    assert [step for step, (_, _, why) in enumerate(whole) if why] == [6, 9]
    assert all(whole[step][2].startswith("the loss is ") for step in (6, 9))
    assert resumed == whole[8:]
    assert after == [window, updates] == [window, 10]


def test_accumulated_gradients_are_dropped_as_well(tmp_path):
    (told,) = gang.run(guarded.skipping, ACCUMULATING, world=1, folder=tmp_path)
    assert told["same"]
    assert told["after"] == gang.run(guarded.without, ACCUMULATING, world=1, folder=tmp_path)[0]


@pytest.mark.parametrize("stage", STAGES)
def test_a_guard_that_refuses_nothing_changes_no_bit(stage, tmp_path):
    for precision in PRECISIONS:
        without, with_guard = gang.run(
            guarded.guarded_and_not, Case(stage, precision=precision), world=2, folder=tmp_path
        )[0]
        assert without == with_guard


def test_batches_that_are_passed_over_are_counted_and_not_learnt_from(tmp_path):
    why, counts, is_nan = gang.run(guarded.passing_over, Case(2), world=2, folder=tmp_path)[0]
    assert why == ["", "", "passed over", "passed over", ""]
    assert counts == (5, 3)
    assert is_nan


@pytest.mark.parametrize("accumulate", [1, 2, 6])  # of 6, some of three ranks have an image too few
def test_any_number_of_ranks_computes_the_same_gradient(accumulate, tmp_path):
    case = Case(2, accumulate=accumulate)
    told = {world: gang.run(guarded.uneven, case, 16, 6, world=world, folder=tmp_path) for world in (1, 2, 3, 5)}
    assert all(len({tuple(rank) for rank in ranks}) == 1 for ranks in told.values()), "all ranks say the same"
    for world in (2, 3, 5):
        np.testing.assert_allclose(told[world][0], told[1][0], rtol=1e-5, atol=1e-6)


MASKED = Case(
    2,
    model=dataclasses.replace(MODEL, num_classes=0, mask_token=True, patch_outputs=512),
    objective=Objective("masked_patch"),
)


@pytest.mark.parametrize("case", [Case(1), Case(3), MASKED], ids=["1", "3", "masked"])
def test_the_probe_is_the_same_on_every_rank_and_moves_with_the_weights(case, tmp_path):
    one, other = gang.run(guarded.probes, case, world=2, folder=tmp_path)
    assert one == other
    first, again, later, untouched = one
    assert first == again != later
    assert untouched


@pytest.mark.parametrize("stage", [2, 3])
def test_a_probe_changes_no_bit_of_training(stage, tmp_path):
    case = Case(stage, model=dataclasses.replace(MODEL, dropout=0.1))
    probed = gang.run(guarded.losses_after_probes, case, world=2, folder=tmp_path)[0]
    assert probed == gang.run(guarded.plain_losses, case, world=2, folder=tmp_path)[0]
