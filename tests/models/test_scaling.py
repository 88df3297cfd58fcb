"""Predictions against arithmetic done by hand."""

import dataclasses

import pytest

from pipeline.models import flops, memory, scaling
from pipeline.models.memory import Load
from pipeline.models.scaling import GIB, MACHINES, Machine, Point, Training, predict
from pipeline.models.variant import vit
from pipeline.train.part import Part

H14 = Load(vit("H/14", image_px=224, num_classes=1000))
PARAMETERS = flops.num_parameters(H14.model)
H100 = MACHINES["h100"]
TRAINING = Training(H14, global_batch=4096, rate=400.0)
FULL = dataclasses.replace(H14, recompute="full")


def predicted(training: Training, machine: Machine, *, gpus: int, zero_stage: int) -> Point:
    found = predict(training, machine, gpus=gpus, zero_stage=zero_stage)
    assert found is not None
    return found


def test_one_gpu_has_no_traffic_and_its_own_rate():
    for zero_stage in (1, 2, 3):
        point = predicted(TRAINING, H100, gpus=1, zero_stage=zero_stage)
        assert (point.traffic_gb, point.exposed_s, point.efficiency) == (0, 0, 1)
        assert point.images_per_s == pytest.approx(400)


def test_traffic_is_two_or_three_times_the_weights_as_zero_s_paper_says():
    for zero_stage, times in ((1, 2), (2, 2), (3, 3)):
        found = scaling.traffic_bytes(H14, gpus=4, zero_stage=zero_stage)
        assert found == pytest.approx(times * 2 * PARAMETERS * 3 / 4)
    fp32 = dataclasses.replace(H14, precision="fp32")
    assert scaling.traffic_bytes(fp32, gpus=4, zero_stage=1) == 2 * scaling.traffic_bytes(H14, gpus=4, zero_stage=1)
    assert scaling.collectives(zero_stage=1, accumulate=4) == 2
    assert scaling.collectives(zero_stage=2, accumulate=4) == 5
    assert scaling.collectives(zero_stage=3, accumulate=4) == 12


def test_a_collective_moves_its_parts_over_nvlink_and_then_between_nodes():
    machine = dataclasses.replace(H100, link=100.0, network=10.0, reached=0.5, hop_s=1.0)
    assert scaling.collective_s(1000.0, machine, gpus=8) == pytest.approx(7 / 8 * 1000 / 50)
    between = 3 / 4 * (1000 / 8) / 5 + 2  # four nodes: a tree of two steps
    assert scaling.collective_s(1000.0, machine, gpus=32) == pytest.approx(7 / 8 * 1000 / 50 + between)


def test_what_the_backward_pass_does_not_hide_is_added():
    point = predicted(TRAINING, H100, gpus=64, zero_stage=1)
    once_s = scaling.collective_s(2 * PARAMETERS, H100, gpus=64)
    assert point.compute_s == pytest.approx(64 / 400)
    assert once_s < 2 / 3 * point.compute_s
    assert point.exposed_s == pytest.approx(once_s)
    slow = dataclasses.replace(H100, network=1e9)
    late_s = scaling.collective_s(2 * PARAMETERS, slow, gpus=64)
    exposed_s = predicted(TRAINING, slow, gpus=64, zero_stage=1).exposed_s
    assert exposed_s == pytest.approx(2 * late_s - 2 / 3 * 64 / 400)


def test_zero_3_hides_one_gather_in_the_forward_pass_and_two_collectives_in_the_backward_pass():
    assert predicted(TRAINING, H100, gpus=64, zero_stage=3).exposed_s == 0
    slow = dataclasses.replace(H100, network=1e9)
    late_s, compute_s = scaling.collective_s(2 * PARAMETERS, slow, gpus=64), 64 / 400
    exposed_s = predicted(TRAINING, slow, gpus=64, zero_stage=3).exposed_s
    assert exposed_s == pytest.approx(late_s - compute_s / 3 + 2 * late_s - 2 / 3 * compute_s)


def test_more_gpus_are_never_more_than_as_much_faster():
    for zero_stage in (1, 2, 3):
        points = [predicted(TRAINING, H100, gpus=2**i, zero_stage=zero_stage) for i in range(13)]
        assert all(point.efficiency <= 1 for point in points)
        assert points == sorted(points, key=lambda point: -point.efficiency)


def test_the_largest_micro_batch_is_the_last_that_fits():
    for zero_stage in (1, 2, 3):
        point = predicted(TRAINING, H100, gpus=8, zero_stage=zero_stage)
        one = memory.in_gang(H14, zero_stage=zero_stage, gpus=8, micro_batch=point.fits)
        more = memory.in_gang(H14, zero_stage=zero_stage, gpus=8, micro_batch=point.fits + 1)
        assert one.total <= 0.9 * 80 * GIB < more.total
        assert point.micro_batch <= point.fits
        assert (point.accumulate - 1) * point.micro_batch < 512 <= point.accumulate * point.micro_batch
    less = predicted(dataclasses.replace(TRAINING, load=FULL), H100, gpus=8, zero_stage=1)
    assert less.fits > 5 * point.fits


def test_no_more_images_are_computed_at_once_than_is_asked_for():
    point = predicted(dataclasses.replace(TRAINING, micro_batch=100), H100, gpus=8, zero_stage=1)
    assert (point.accumulate, point.micro_batch) == (6, 86)


@pytest.mark.parametrize(("batch", "paired"), [(4096, False), (1000, False), (1000, True), (16, True)])
@pytest.mark.parametrize("gpus", [1, 3, 7, 8])
@pytest.mark.parametrize("most", [0, 2, 9, 64])
def test_a_batch_is_cut_as_the_ranks_of_a_gang_cut_it(batch, paired, gpus, most):
    parts = [Part(batch, gpus, rank, most=most, paired=paired) for rank in range(gpus)]
    unit = 2 if paired else 1
    largest = scaling.largest_part(batch, gpus=gpus, unit=unit)
    assert largest == max(part.slots[1] - part.slots[0] for part in parts)
    found = scaling.cut(largest, most=min(most, largest) or largest, unit=unit)
    assert found == (parts[0].accumulate, max(part.largest for part in parts))


def test_the_gpu_that_has_most_images_decides():
    point = predicted(TRAINING, H100, gpus=48, zero_stage=1)
    assert point.compute_s == pytest.approx(86 / 400)  # 4096 / 48 are 85.3
    assert point.micro_batch == 86


def test_what_gives_a_gpu_no_image_or_does_not_fit_has_no_point():
    assert predict(TRAINING, H100, gpus=8192, zero_stage=1) is None
    assert predict(dataclasses.replace(TRAINING, paired=True), H100, gpus=4096, zero_stage=1) is None
    assert predict(TRAINING, dataclasses.replace(H100, memory_gib=1), gpus=8, zero_stage=3) is None


def test_where_nothing_was_measured_forty_per_cent_of_the_peak_are_assumed():
    rate = scaling.assumed_rate(H14, H100)
    assert rate * flops.train_flops(H14.model) == pytest.approx(0.4 * 989e12)
    again = flops.executed_flops(H14.model, recompute="full") / flops.executed_flops(H14.model)
    assert scaling.assumed_rate(FULL, H100) == pytest.approx(rate / again)
    fp32 = scaling.assumed_rate(dataclasses.replace(H14, precision="fp32"), H100)
    assert fp32 == pytest.approx(rate * 67 / 989)


def test_machines_are_told_by_their_data_sheets():
    """Dense bf16 in TFLOP/s, GiB, and GB/s of NVLink (or PCIe) in one direction."""
    sheets = {name: (m.peak_flops / 1e12, m.memory_gib, m.link / 1e9) for name, m in MACHINES.items()}
    assert sheets == {
        "h100": (989, 80, 450),
        "h200": (989, 141, 450),
        "b200": (2250, 179, 900),
        "a100": (312, 80, 300),
        "a100-80": (312, 80, 300),
        "a100-40": (312, 40, 300),
        "l40s": (362, 45, 32),
    }
