"""What a gang goes on from: the newest checkpoint that is whole, from where it is nearest; damaged ones are told."""

import json
import shutil

import pytest

from pipeline import storage
from pipeline.train import checkpoint
from tests.train import checkpoints, gang


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recovery")


@pytest.fixture(scope="module")
def pristine(folder):
    """Checkpoints of steps 2, 3 and 4, in storage and the last of them nearby; and what the last one holds."""
    about = {"nearby": str(folder / "pristine" / "near"), "memory": checkpoints.Notes({"window": [0.1, 1e-300]})}
    told = gang.run(
        checkpoints.save_at, str(folder / "pristine" / "far"), (2, 3, 4), world=2, folder=folder, options=about
    )
    return folder / "pristine", told[0][1]


@pytest.fixture
def here(pristine, tmp_path):
    """A copy of it, to be spoilt: (the folder in storage, the folder nearby)."""
    shutil.copytree(pristine[0], tmp_path, dirs_exist_ok=True)
    return str(tmp_path / "far"), str(tmp_path / "near")


def resumed(folder, uri, **options):
    """What rank 0 says; the other must agree."""
    first, second = gang.run(checkpoints.resume, uri, world=2, folder=folder, **options)
    assert (first.step, first.state, first.error) == (second.step, second.state, second.error)
    assert second.sent == []
    return first


def file_of(uri: str, step: int, rank: int) -> str:
    return storage.join(checkpoint.folder(uri, step), checkpoint.read_manifest(uri, step).files[rank].name)


def flip(uri: str) -> None:
    data = storage.read(uri)
    storage.write(uri, data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])


def set_aside(uri: str) -> list[tuple[int, str]]:
    """(step, why) of the manifests that count for nothing."""
    return [(step, name.split("-")[0]) for step, name in checkpoint.files(uri) if name.startswith("manifest.d")]


def test_the_nearest_copy_is_read_and_storage_is_asked_for_its_manifest_alone(folder, pristine, here):
    far, near = here
    told = resumed(folder, far, nearby=near)
    assert (told.step, told.state, told.sent) == (4, pristine[1], [])
    assert [uri for uri in told.read if uri.startswith(far)] == [checkpoint.manifest_at(far, 4)]
    assert told.memory == {"window": [0.1, 1e-300]}


def test_only_the_newest_checkpoint_stays_nearby(here):
    far, near = here
    assert (checkpoint.steps(far), checkpoint.steps(near)) == ([2, 3, 4], [4])


def test_a_copy_nearby_that_is_damaged_is_read_from_storage_instead(folder, pristine, here):
    far, near = here
    flip(file_of(near, 4, 1))
    told = resumed(folder, far, nearby=near)
    assert (told.step, told.state, told.sent) == (4, pristine[1], [])
    assert file_of(far, 4, 1) in told.read
    assert file_of(far, 4, 0) not in told.read


def test_what_was_whole_nearby_alone_is_gone_on_from_and_completed_in_storage(folder, pristine, here):
    """A gang that was killed while it uploaded."""
    far, near = here
    storage.remove(checkpoint.manifest_at(far, 4))
    storage.remove(storage.join(checkpoint.folder(far, 4), checkpoint.read_manifest(near, 4).files[0].name))
    told = resumed(folder, far, nearby=near)
    assert (told.step, told.state, told.sent) == (4, pristine[1], [])
    assert checkpoint.newest(far).step == 4


def test_half_of_one_nearby_is_none(folder, here):
    far, near = here
    storage.remove(checkpoint.manifest_at(far, 4))
    storage.remove(file_of(near, 4, 1))
    assert resumed(folder, far, nearby=near).step == 3


def test_another_run_s_checkpoint_nearby_is_none_of_ours(folder, here, tmp_path):
    _, near = here
    assert resumed(folder, str(tmp_path / "elsewhere"), nearby=near, identity="another run").step == 0


def test_machines_that_hold_a_part_each_read_the_rest_from_storage(folder, tmp_path):
    far, near = str(tmp_path / "far"), str(tmp_path / "near")
    saved = gang.run(checkpoints.each_its_machine, far, near, (2,), world=2, folder=folder, is_resumed=False)
    assert [checkpoint.steps(f"{near}/machine-{rank}") for rank in range(2)] == [[2], [2]]
    told = gang.run(checkpoints.each_its_machine, far, near, (), world=2, folder=folder, is_resumed=True)
    names = [file.name for file in checkpoint.read_manifest(far, 2).files]
    for rank, (step, state, read) in enumerate(told):
        assert (step, state) == (2, saved[0][1])
        assert f"{near}/machine-{rank}/step-00000002/{names[rank]}" in read
    storage.remove(checkpoint.manifest_at(far, 2))
    told = gang.run(checkpoints.each_its_machine, far, near, (), world=2, folder=folder, is_resumed=True)
    assert [step for step, *_ in told] == [0, 0], "no machine holds all of it"


SPOILT = {
    "flipped byte": "its bytes have changed since it was written",
    "truncated file": "bytes, the manifest says",
    "missing file": "missing, though the manifest lists it",
    "changed manifest": "has changed since it was written",
}


def spoil(uri: str, step: int, how: str) -> str:
    """Damage a checkpoint; what is damaged."""
    place = checkpoint.manifest_at(uri, step) if "manifest" in how else file_of(uri, step, 1)
    if how == "flipped byte":
        flip(place)
    elif how == "missing file":
        storage.remove(place)
    elif how == "truncated file":
        storage.write(place, storage.read(place)[:-1])
    else:
        data = {**json.loads(storage.read(place)), "updates": 1}
        storage.write(place, json.dumps(data).encode())
    return place


@pytest.mark.parametrize("how", SPOILT)
def test_damaged_ones_are_passed_over_told_and_set_aside(folder, here, how):
    far, _ = here
    places = [spoil(far, step, how) for step in (4, 3)]
    told = resumed(folder, far)
    assert told.step == 2
    assert [(message["kind"], message["step"]) for message in told.sent] == [("fallback", 4), ("fallback", 3)]
    for message, place in zip(told.sent, places, strict=True):
        assert message["reason"].startswith(place)
        assert SPOILT[how] in message["reason"]
    assert checkpoint.steps(far) == [2]
    assert set_aside(far) == [(3, "manifest.damaged"), (4, "manifest.damaged")]


def test_a_step_that_was_damaged_is_saved_again(folder, here):
    far, _ = here
    spoil(far, 4, "flipped byte")
    assert resumed(folder, far).step == 3
    gang.run(checkpoints.save_at, far, (4,), world=2, folder=folder)
    assert resumed(folder, far).step == 4


def test_where_every_checkpoint_is_damaged_the_run_ends_and_does_not_begin_anew(folder, here):
    far, _ = here
    places = [spoil(far, step, "flipped byte") for step in (4, 3, 2)]
    for _ in range(2):  # nor does it when it is tried again
        error = resumed(folder, far).error
        assert error.startswith(f"Damaged: {far}: no checkpoint there is whole, so there is nothing to go on from:\n")
        for place in places:
            assert f"\n  {place}: its bytes have changed" in error
        assert error.endswith("pass --rebuild for this stage to begin at step 0.")


def test_where_all_were_set_aside_the_run_does_not_begin_anew_either(folder, here):
    far, _ = here
    for step in (2, 3, 4):
        checkpoint.set_aside(far, step)
    assert "no checkpoint there is whole" in resumed(folder, far).error


def test_one_goes_back_to_an_earlier_checkpoint_and_gives_up_the_later_ones_for_good(folder, here):
    far, near = here
    told = resumed(folder, far, nearby=near, before=3)
    assert (told.step, told.sent) == (3, [])
    assert (checkpoint.steps(far), checkpoint.steps(near)) == ([2, 3], [])
    assert resumed(folder, far, nearby=near).step == 3


def test_where_there_is_none_so_early_one_begins_at_0_and_so_does_whoever_comes_after(folder, here):
    far, _ = here
    assert resumed(folder, far, before=1).step == 0
    assert resumed(folder, far).step == 0
