"""Real gangs that save, and go on at any size and stage; two that save the same; disks that are full."""

import dataclasses
import itertools

import numpy as np
import pytest

from pipeline.models.variant import vit
from pipeline.train import checkpoint
from tests.train import checkpoints, gang
from tests.train.work import Case

SMALL = dataclasses.replace(vit("Ti/16", image_px=32, num_classes=7), depth=4)
SAVED = (Case(2, model=SMALL), Case(2, model=SMALL, precision="bf16"))
TOLERANCE = {"fp32": 1e-5, "bf16": 5e-3}  # of losses; bf16 adds gradients up in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("saver")


@pytest.fixture(scope="module")
def saved(folder):
    """(what two ranks held after five steps in ZeRO-2, their next ten losses), by precision."""
    first, second = gang.run(checkpoints.save_and_go_on, str(folder / "small"), *SAVED, world=2, folder=folder)
    assert first == second
    return first


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("stages", [(1, 2), (3,)], ids=str)  # 3 by itself: it exchanges torch's layers for good
def test_what_two_ranks_saved_is_there_bit_for_bit_at_any_world_size_and_stage(folder, saved, stages, world):
    cases = [dataclasses.replace(case, stage=stage) for case, stage in itertools.product(SAVED, stages)]
    told = gang.run(checkpoints.load_and_go_on, str(folder / "small"), *cases, world=world, folder=folder)[0]
    for case, (loaded, after) in zip(cases, told, strict=True):
        state, losses = saved[case.precision]
        assert loaded == state, case
        if (world, case.stage) == (2, 2):
            assert after == losses
        else:
            np.testing.assert_allclose(after, losses, rtol=0, atol=TOLERANCE[case.precision], err_msg=str(case))


def test_that_state_is_of_two_groups_of_parameters(folder, saved):
    assert gang.run(checkpoints.groups, SAVED[0], world=1, folder=folder) == [2]
    assert {state for _, state in saved["fp32"][0]} == {"master", "exp_avg", "exp_avg_sq"}


def test_what_two_ranks_saved_in_a_bucket_three_read_from_there(folder, s3):
    uri, case = f"{s3.uri}/saver", Case(2)
    first, _ = gang.run(checkpoints.save_and_go_on, uri, case, world=2, folder=folder, environment=s3.environment)
    told = gang.run(checkpoints.load_and_go_on, uri, case, world=3, folder=folder, environment=s3.environment)
    state, losses = first["fp32"]
    assert told[0][0][0] == state
    np.testing.assert_allclose(told[0][0][1], losses, rtol=0, atol=TOLERANCE["fp32"])


def test_the_driver_is_told_of_every_checkpoint_what_it_cost(folder):
    uri = str(folder / "told")
    (first, _), (second, _) = gang.run(checkpoints.save_at, uri, (2, 3), world=2, folder=folder)
    assert second == []
    assert [(message["kind"], message["step"], message["where"]) for message in first] == [
        ("checkpoint", 2, uri),
        ("checkpoint", 3, uri),
    ]
    behind, last = first
    assert 0 < behind["stall_s"] < behind["wall_s"]
    assert last["stall_s"] == last["wall_s"], "after the last step there is nothing to go on with"
    manifest = checkpoint.read_manifest(uri, 3)
    assert last["num_bytes"] == manifest.num_bytes == sum(file.num_bytes for file in manifest.files)


def test_a_manifest_says_what_it_is_of(folder):
    uri = str(folder / "about")
    about = {"code": "v1.2-3-gabc", "seed": 7}
    gang.run(checkpoints.save_at, uri, (2,), world=2, folder=folder, options=about)
    found = checkpoint.read_manifest(uri, 2)
    assert (found.world_size, found.zero_stage, found.precision, found.step, found.updates) == (2, 2, "fp32", 2, 2)
    assert (found.code, found.seed, found.identity) == ("v1.2-3-gabc", 7, "this run")
    assert found.metrics == {"loss": 0.5}
    assert found.probe_loss == pytest.approx(np.log(7), abs=0.5)
    assert {file.name for file in found.files} == {f"{found.attempt}-{rank}.safetensors" for rank in range(2)}


DEATHS = ["before its file", "after its own file", "before the manifest", "half a manifest"]


def test_a_gang_that_dies_while_it_saves_leaves_the_checkpoint_before(folder):
    for place in DEATHS:
        with pytest.raises(RuntimeError, match=r"rank [01]"):
            gang.run(checkpoints.die, str(folder / place), place, world=2, folder=folder)
    uris = [str(folder / place) for place in DEATHS]
    told = gang.run(checkpoints.resume_all, uris, world=2, folder=folder)
    for rank in told:
        assert [each.step for each in rank] == [2] * len(DEATHS)
    passed = [[m["kind"] for m in each.sent] for each in told[0]]
    assert passed == [[], [], [], ["fallback"]], "half a manifest is damaged, no manifest is no checkpoint"


def test_a_disk_that_is_full_is_told_by_the_next_save_on_every_rank(folder):
    (first, steps, sent), (second, _, _) = gang.run(checkpoints.fail, str(folder / "full"), world=2, folder=folder)
    assert second[0].startswith(str(folder / "full/step-00000002"))
    assert "raise the limit, or choose another folder" in second[0]
    assert first == [f"rank 1: {second[0]}"]
    assert steps == [1]
    assert [message["step"] for message in sent] == [1]


def test_a_disk_nearby_that_fails_costs_no_checkpoint(folder):
    near = folder / "a file"
    near.write_bytes(b"")
    uri = str(folder / "no disk nearby")
    for raised, steps, _ in gang.run(checkpoints.fail, uri, str(near), world=2, folder=folder):
        assert raised == []
        assert set(steps) >= {1, 2}


def test_of_two_gangs_that_save_the_same_step_the_first_one_s_counts_for_both(folder):
    for attempts, names in gang.run(checkpoints.publish_twice, str(folder / "twice"), world=2, folder=folder):
        assert attempts[0] == attempts[1]
        assert names == [f"step-00000002/{name}" for name in (*_files(attempts[0]), "manifest.json")]


def _files(attempt: str) -> list[str]:
    return [f"{attempt}-{rank}.safetensors" for rank in range(2)]


def test_the_last_the_best_and_every_fourth_are_kept(folder):
    steps = gang.run(checkpoints.keep_the_best, str(folder / "best"), world=2, folder=folder)[0]
    assert steps == [2, 4, 5]
    assert checkpoint.read_manifest(str(folder / "best"), 2).metrics == {"loss": 1.5}, "the mean over the ranks"


def test_a_probe_that_says_something_else_after_loading_ends_the_run(folder):
    uri = str(folder / "probe")
    gang.run(checkpoints.save_at, uri, (2,), world=2, folder=folder)
    saved = checkpoint.read_manifest(uri, 2).probe_loss
    for said in gang.run(checkpoints.probe_otherwise, uri, world=2, folder=folder):
        assert said.startswith(
            f"{uri}/step-00000002: the probe's loss was {saved:.7g} when it was saved and is 17.25 after loading; "
            "they should agree within 0.0001."
        )
