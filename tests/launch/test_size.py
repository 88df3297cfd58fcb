"""What a dry run says of how a batch is shared, and of the memory that takes."""

import pytest

from launch import size
from launch.recipe import load
from pipeline.models import memory
from pipeline.models.memory import Load
from pipeline.stage import in_order

MIXED = ("pretrain.objective.kind=softmax", "pretrain.objective.mixup=0.2")


def training(stage: str, *assignments: str) -> size.Training:
    stages = {s.name: s for s in in_order(load("vit_h14_jft", assignments=list(assignments)).stages)}
    found = size.training(stages[stage])
    assert found is not None
    return found


@pytest.mark.parametrize(("workers", "micro_batch"), [(48, 86), (65, 64), (4096, 1)])
def test_a_batch_needs_not_divide_by_the_workers_and_the_largest_part_is_told(workers, micro_batch):
    planned = training("pretrain", f"pretrain.resources.workers={workers}")
    assert (planned.warnings, planned.micro_batch) == ((), micro_batch)


def test_micro_batches_are_as_even_as_a_gang_makes_them():
    planned = training("pretrain", "pretrain.resources.workers=48", "pretrain.micro_batch=64")
    assert planned.micro_batch == 43


def test_a_worker_without_an_image_is_found_before_the_machines_are():
    (warning,) = training("pretrain", "pretrain.resources.workers=5000").warnings
    assert warning == (
        "a batch of 4096 does not give each of 5000 workers an image; at most 4096 workers would be right"
    )
    (warning,) = training("pretrain", "pretrain.resources.workers=4096", *MIXED).warnings
    assert warning == (
        "a batch of 4096 does not give each of 4096 workers a pair of images; at most 2048 workers would be right"
    )


def test_the_memory_is_that_of_the_engine_that_trains():
    """DeepSpeed's for a gang, with Adam's two moments; plain torch's for one worker, with one of momentum."""
    planned = training("pretrain")
    assert planned.cost is not None
    model = load("vit_h14_jft", assignments=[]).stages[0].needs["pretrain"].config.model
    held = memory.in_gang(Load(model), zero_stage=1, gpus=64, micro_batch=64)
    assert planned.cost.state_gib == pytest.approx((held.states + held.buffers) / 2**30)
    assert planned.cost.activations_gib == pytest.approx(held.activations / 2**30)
    alone = training("finetune/pets", "finetune/pets.resources.workers=1").cost
    assert alone is not None
    assert alone.state_gib == pytest.approx((2 + 2 + 4 + 4 + 4) * alone.parameters / 2**30)
