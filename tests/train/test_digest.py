"""Weights that differ in one bit on one rank are found, and the rank is named."""

from functools import partial

import pytest
import torch
import torch.distributed

from pipeline.train.digest import Agreement, Corrupt, digest, suspects
from pipeline.train.loop import Tick
from tests.fakes import FakeMember
from tests.train import gang

TICK = Tick(40, False, {}, 0.0, 0.0)


def _model(dtype):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3)).to(dtype)


def _flip(weight):
    """The lowest bit of one value."""
    bits = weight.data.view({2: torch.int16, 4: torch.int32}[weight.element_size()])
    bits[0, 3] ^= 1


def _check(dtype, *, broken):
    rank = torch.distributed.get_rank()
    model, member = _model(dtype), FakeMember(rank=rank, world_size=torch.distributed.get_world_size())
    if rank == broken:
        _flip(model[1].weight)
    try:
        Agreement(model, member=member).check(TICK)
    except Corrupt as error:
        return str(error), member.sent
    return None, member.sent


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_bit_on_one_rank_of_three_is_found_and_named_on_every_rank(dtype, tmp_path):
    found = gang.run(partial(_check, dtype, broken=1), world=3, folder=tmp_path)
    assert all("step 40: the weights of rank 1 differ" in text for text, _ in found)
    assert [sent for _, sent in found] == [[{"kind": "corrupt", "step": 40, "ranks": [1]}], [], []]


def test_equal_weights_are_passed_over_in_silence(tmp_path):
    assert gang.run(partial(_check, torch.float32, broken=None), world=2, folder=tmp_path) == [(None, [])] * 2


def test_a_digest_tells_apart_every_bit_and_the_order():
    one, two = torch.randn(50), torch.randn(50)
    changed = one.clone()
    changed.view(torch.int32)[17] ^= 1 << 30
    digests = [int(digest(some)) for some in ([one, two], [two, one], [changed, two], [one])]
    assert len(set(digests)) == 4
    assert int(digest([one, two])) == digests[0]


@pytest.mark.parametrize(
    ("digests", "ranks"),
    [([5, 5, 6, 5], [2]), ([5, 6], [0, 1]), ([5, 5, 6, 6], [0, 1, 2, 3]), ([7, 5, 5, 5, 6], [0, 4])],
)
def test_the_smaller_party_is_suspected_and_all_where_none_is_smaller(digests, ranks):
    assert suspects(digests) == ranks


def test_of_a_sharded_model_only_what_every_rank_holds_whole_is_compared():
    model = _model(torch.float32)
    member = FakeMember(world_size=1)
    for parameter in model.parameters():
        parameter.ds_numel = parameter.numel()
    model[0].weight.data = torch.empty(0)  # as ZeRO-3 leaves a parameter that is elsewhere
    Agreement(model, member=member).check(TICK)
