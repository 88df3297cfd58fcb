"""Predictions against arithmetic done by hand."""

import dataclasses

import pytest

from pipeline.models import flops, scaling
from pipeline.models.scaling import MACHINES, Training, predict
from pipeline.models.variant import vit

H14 = vit("H/14", image_px=224, num_classes=1000)
H100 = MACHINES["h100"]
TRAINING = Training(H14, global_batch=4096, rate=400.0)


def test_one_gpu_has_no_traffic_and_its_own_rate():
    for zero_stage in (1, 2, 3):
        point = predict(TRAINING, H100, gpus=1, zero_stage=zero_stage)
        assert (point.traffic_gb, point.exposed_s, point.efficiency) == (0, 0, 1)
        assert point.images_per_s == pytest.approx(400)


def test_traffic_is_two_or_three_times_the_weights_as_zero_s_paper_says():
    size = 2 * flops.num_parameters(H14)
    for zero_stage, times in ((1, 2), (2, 2), (3, 3)):
        found = scaling.traffic_bytes(H14, gpus=4, zero_stage=zero_stage)
        assert found == pytest.approx(times * size * 3 / 4)
    assert scaling.collectives(zero_stage=1, accumulate=4) == 2
    assert scaling.collectives(zero_stage=2, accumulate=4) == 5
    assert scaling.collectives(zero_stage=3, accumulate=4) == 12


def test_a_collective_moves_its_parts_over_nvlink_and_then_between_nodes():
    machine = dataclasses.replace(H100, nvlink=100.0, network=10.0, reached=0.5, hop_s=1.0)
    assert scaling.collective_s(1000.0, machine, gpus=8) == pytest.approx(7 / 8 * 1000 / 50)
    between = 3 / 4 * (1000 / 8) / 5 + 2  # four nodes: a tree of two steps
    assert scaling.collective_s(1000.0, machine, gpus=32) == pytest.approx(7 / 8 * 1000 / 50 + between)


def test_what_the_backward_pass_does_not_hide_is_added():
    point = predict(TRAINING, H100, gpus=64, zero_stage=1)
    once_s = scaling.collective_s(2 * flops.num_parameters(H14), H100, gpus=64)
    assert point.compute_s == pytest.approx(64 / 400)
    assert once_s < 2 / 3 * point.compute_s
    assert point.exposed_s == pytest.approx(once_s)
    slow = dataclasses.replace(H100, network=1e9)
    late_s = scaling.collective_s(2 * flops.num_parameters(H14), slow, gpus=64)
    exposed_s = predict(TRAINING, slow, gpus=64, zero_stage=1).exposed_s
    assert exposed_s == pytest.approx(2 * late_s - 2 / 3 * 64 / 400)


def test_more_gpus_are_never_more_than_as_much_faster():
    for zero_stage in (1, 2, 3):
        points = [predict(TRAINING, H100, gpus=2**i, zero_stage=zero_stage) for i in range(13)]
        assert all(point.efficiency <= 1 for point in points)
        assert points == sorted(points, key=lambda point: -point.efficiency)


def test_the_micro_batch_is_the_largest_divisor_that_fits():
    point = predict(TRAINING, H100, gpus=8, zero_stage=1)
    assert point.micro_batch * point.accumulate == 512
    assert point.memory_gib <= 0.9 * 80
    assert scaling.memory_gib(TRAINING, 2 * point.micro_batch, gpus=8, zero_stage=1) > 0.9 * 80
    less = predict(dataclasses.replace(TRAINING, recompute="full"), H100, gpus=8, zero_stage=1)
    assert less.micro_batch > point.micro_batch


def test_what_cannot_be_divided_or_does_not_fit_has_no_point():
    assert predict(TRAINING, H100, gpus=3, zero_stage=1) is None
    assert predict(TRAINING, H100, gpus=8192, zero_stage=1) is None
    assert predict(TRAINING, dataclasses.replace(H100, memory_gib=1), gpus=8, zero_stage=3) is None
