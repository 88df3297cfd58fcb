"""The closed forms against what real engines hold in gangs on a CPU, against ZeRO's paper, and against torch."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from pipeline.models import flops, memory
from pipeline.models.memory import Load
from pipeline.models.variant import ViTConfig, vit
from pipeline.train.task import Batch
from tests.train import gang, work
from tests.train.work import Case

GIB = 2**30
H14 = Load(vit("H/14", image_px=224, num_classes=1000))
PARAMETERS = 632_045_800

# Its matrices are larger than what ZeRO-3 leaves whole (1e5), and each is a small part of all.
MODEL = ViTConfig(width=320, depth=16, heads=5, mlp_dim=320, patch_px=16, image_px=32, num_classes=320)
# ZeRO-3 last: it exchanges torch's linear layer for all that follow.
CASES = tuple(Case(stage, model=MODEL, precision=precision) for stage in (1, 2, 3) for precision in ("bf16", "fp32"))


def size(tensors: Iterable[Any]) -> int:
    """Bytes behind `tensors`, each storage once."""
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
    return sum(found.values())


def held(case: Case) -> dict[str, int]:
    """What an engine holds after the first of two micro-batches of its second step."""
    images_BCHW = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    batch = Batch(images_BCHW, torch.zeros(2, dtype=torch.int64))
    world = torch.distributed.get_world_size()
    engine = work.engine_of(dataclasses.replace(case, accumulate=2), global_batch=2 * world)
    engine.train(batch)
    seen: list[dict[str, int]] = []
    backward = engine._engine.backward

    def watched(loss: torch.Tensor) -> None:
        backward(loss)
        seen.append(sizes(engine))

    engine._engine.backward = watched
    engine.train(batch)
    return seen[0]


def sizes(engine: Any) -> dict[str, int]:
    optimizer, parameters = engine._optimizer, list(engine.module.parameters())
    if engine._zero_stage == 3:
        weights = [parameter.ds_tensor for parameter in parameters]
        masters, gradients = optimizer.fp32_partitioned_groups_flat, [optimizer.grad_partitions_flat_buffer]
        buckets = [bucket.buffer for bucket in optimizer.ipg_buckets.values()]
    else:
        weights, masters = parameters, optimizer.single_partition_of_fp32_groups
        parts = itertools.chain.from_iterable(filter(None, optimizer.all_grad_tensors.values()))
        gradients = parts if engine._zero_stage == 2 else [parameter.grad for parameter in parameters]
        buckets = [buffer for bucket in optimizer.ipg_buckets.values() for buffer in bucket.buffer]
    moments = [value for state in optimizer.optimizer.state.values() for value in state.values()]
    return {
        "weights": size(weights),
        "gradients": size(gradients),
        "optimizer": size([*masters, *moments]),
        "buckets": size(buckets),
    }


@pytest.fixture(scope="module", params=[1, 2])
def engines(request, tmp_path_factory):
    """(size of the gang, by case the mean over its ranks). A weight that two ranks share has its gradient on both."""
    ranks = gang.run(held_by, CASES, world=request.param, folder=tmp_path_factory.mktemp("memory"))
    told = {
        case: {name: sum(rank[case][name] for rank in ranks) / len(ranks) for name in ranks[0][case]} for case in CASES
    }
    return request.param, told


def held_by(cases: tuple[Case, ...]) -> dict[Case, dict[str, int]]:
    return {case: held(case) for case in cases}


@pytest.mark.parametrize("what", ["weights", "gradients", "optimizer"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"ZeRO-{case.stage}, {case.precision}")
def test_an_engine_holds_what_is_predicted_within_two_per_cent(engines, case, what):
    world, told = engines
    expected = memory.in_gang(Load(MODEL, case.precision), zero_stage=case.stage, gpus=world, micro_batch=1)
    assert getattr(expected, what) == pytest.approx(told[case][what], rel=0.02)


def test_a_bucket_is_as_large_as_is_predicted(engines):
    _, told = engines
    for case in CASES:
        assert told[case]["buckets"] in (0, memory.BUCKET * flops.ELEMENT_BYTES[case.precision])
    assert any(found["buckets"] for found in told.values())


@pytest.mark.parametrize(
    ("zero_stage", "gigabytes"), [(1, (3.48, 2.65, 2.59)), (2, (2.37, 1.40, 1.33)), (3, (1.26, 0.16, 0.08))]
)
def test_zero_divides_the_states_of_vit_h14_as_its_paper_says(zero_stage, gigabytes):
    """4 + 12/N, 2 + 14/N and 16/N bytes of 632 M parameters, on 8, 64 and 128 GPUs."""
    for gpus, expected in zip((8, 64, 128), gigabytes, strict=True):
        found = memory.in_gang(H14, zero_stage=zero_stage, gpus=gpus, micro_batch=0)
        assert found.states / 1e9 == pytest.approx(expected, abs=0.006)


def test_the_activations_of_vit_h14_are_those_that_are_quoted():
    """34 bytes x tokens x width x depth are 358 MB (arXiv 2205.05198, of which two are masks of dropout, which H/14 has
    none of); the blocks' inputs alone are 21 MB, and one block at a time has all of its own.
    """
    tokens = 257 * 1280
    assert H14.image_bytes == pytest.approx(358e6 * 32 / 34, rel=0.03)
    full = dataclasses.replace(H14, recompute="full")
    assert full.image_bytes - 32 * tokens == pytest.approx(21e6, rel=0.03)
    held = memory.in_gang(full, zero_stage=1, gpus=8, micro_batch=64)
    assert held.activations == 64 * full.image_bytes


def test_what_the_optimizer_keeps_is_counted():
    adam, momentum, plain = (
        memory.in_gang(dataclasses.replace(H14, moments=moments), zero_stage=1, gpus=1, micro_batch=0)
        for moments in (2, 1, 0)
    )
    assert (adam.optimizer, momentum.optimizer, plain.optimizer) == (
        12 * PARAMETERS,
        8 * PARAMETERS,
        4 * PARAMETERS,
    )


def test_alone_there_are_fp32_gradients_beside_bf16_ones_and_no_masters_in_fp32():
    """By what `train.single` makes: 2 + 2 + 4 + 4 + 8 bytes, and 4 + 4 + 8."""
    assert memory.alone(H14, micro_batch=0).states == 20 * PARAMETERS
    assert memory.alone(dataclasses.replace(H14, precision="fp32"), micro_batch=0).states == 16 * PARAMETERS


def test_most_is_held_in_the_backward_pass_or_where_that_is_little_in_the_update():
    little = memory.in_gang(H14, zero_stage=1, gpus=1, micro_batch=1)
    assert little.total == little.states + 6 * PARAMETERS
    much = memory.in_gang(H14, zero_stage=1, gpus=1, micro_batch=64)
    assert much.total == much.states + much.activations + much.buffers


def test_zero_3_keeps_gathered_weights_until_the_backward_pass():
    """At most 5e8 of them, of bf16: what is reused within DeepSpeed's distance of 1e9 numbers."""
    large = memory.in_gang(H14, zero_stage=3, gpus=64, micro_batch=0)
    assert large.buffers == 2 * (memory.BUCKET + 500_000_000)
    small = memory.in_gang(Load(MODEL), zero_stage=3, gpus=64, micro_batch=0)
    assert small.buffers == 2 * (memory.BUCKET + flops.num_parameters(MODEL))
