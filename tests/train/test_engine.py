"""DeepSpeed as it really is, in gangs joined by gloo. Fails if an upgrade moves what `fragment.py` leans on."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from pipeline import storage
from pipeline.train import checkpoint
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim, decays
from pipeline.train.schedule import Schedule, lr_at
from pipeline.train.speed import Speed
from tests.data.pictures import data_set
from tests.train import gang, work
from tests.train.work import ADAMW, MODEL, SGD, Case

STAGES = (1, 2, 3)
FP32 = tuple(Case(stage) for stage in STAGES)
HALF = Case(2, precision="bf16")
MOMENTUM = Case(1, optim=SGD)
NO_STATE = Case(2, optim=dataclasses.replace(SGD, momentum=0.0))
DROPPING = Case(2, model=dataclasses.replace(MODEL, dropout=0.1, drop_path=0.1))
SAVED = (*FP32, HALF, MOMENTUM, NO_STATE, DROPPING)
RESUMED = (
    *((saved.name, Case(stage)) for saved in FP32 for stage in STAGES),
    (HALF.name, HALF),
    (MOMENTUM.name, MOMENTUM),
    (MOMENTUM.name, dataclasses.replace(MOMENTUM, stage=3)),
    (NO_STATE.name, NO_STATE),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def unbroken(folder):
    """Losses of two ranks after the step at which a checkpoint was saved.

    Every stage has processes of its own, as in a run: ZeRO-3 exchanges torch's linear layer for all that follow.
    """
    told = {}
    for stage in STAGES:
        cases = tuple(case for case in SAVED if case.stage == stage)
        first, second = gang.run(work.save_all, str(folder), cases, world=2, folder=folder)
        assert first == second
        told |= first
    return told


@pytest.fixture(scope="module", params=[1, 2, 3])
def resumed(request, folder, unbroken):
    """(world size, losses of that many ranks after they resumed each of the checkpoints)."""
    told = {}
    for stage in STAGES:
        cases = tuple((name, case) for name, case in RESUMED if case.stage == stage)
        cases += ((DROPPING.name, DROPPING),) if (request.param, stage) == (2, DROPPING.stage) else ()
        told |= gang.run(work.resume_all, str(folder), cases, world=request.param, folder=folder)[0]
    return request.param, told


def test_what_two_ranks_saved_any_number_resumes_in_any_stage(unbroken, resumed):
    _, told = resumed
    for saved, stage in itertools.product(FP32, STAGES):
        np.testing.assert_allclose(told[saved.name, stage], unbroken[saved.name], rtol=1e-6, err_msg=f"{saved} {stage}")


def test_a_gang_of_the_same_size_and_stage_goes_on_bit_for_bit(unbroken, resumed):
    world, told = resumed
    if world == 2:
        for case in SAVED:
            assert told[case.name, case.stage] == unbroken[case.name], case


def test_bf16_resumes_to_what_its_precision_allows(unbroken, resumed):
    _, told = resumed
    np.testing.assert_allclose(told[HALF.name, 2], unbroken[HALF.name], rtol=1e-3)


def test_momentum_is_resumed_and_its_absence_too(unbroken, resumed):
    _, told = resumed
    for name, stage in ((MOMENTUM.name, 1), (MOMENTUM.name, 3), (NO_STATE.name, 2)):
        np.testing.assert_allclose(told[name, stage], unbroken[name], rtol=1e-6)


def test_the_stages_compute_the_same(unbroken):
    for stage in (2, 3):
        np.testing.assert_allclose(unbroken[Case(stage).name], unbroken[Case(1).name], rtol=1e-6)


def test_a_checkpoint_holds_every_value_of_every_state_once(folder, unbroken):
    for case, states in ((Case(3), {"master", "exp_avg", "exp_avg_sq"}), (MOMENTUM, {"master", "momentum_buffer"})):
        manifest = checkpoint.read_manifest(str(folder / case.name), 5)
        assert {state for _, state, *_ in manifest.fragments} == states
        for name, shape in manifest.shapes.items():
            for state in states:
                counts = [count for n, s, _, count, *_ in manifest.fragments if (n, s) == (name, state)]
                assert sum(counts) == np.prod(shape), (name, state)


@pytest.mark.parametrize("stage", STAGES)
def test_an_engine_that_has_trained_can_be_set_back(folder, unbroken, stage):
    first, again = gang.run(work.set_back, f"{folder}/{Case(stage).name}", Case(stage), world=2, folder=folder)[0]
    assert first == again == unbroken[Case(stage).name]


def test_nothing_is_compiled_at_run_time(folder, unbroken):
    extensions = folder / "extensions"
    assert not extensions.exists() or not list(extensions.rglob("*"))


ACCUMULATING = Case(2, accumulate=3)
COMPILED = Case(1, speed=Speed(compile=True, recompute="selective"))
WHOLE = (Case(1), Case(2), MOMENTUM, ACCUMULATING, COMPILED, Case(3))  # stage 3 last: see `unbroken`


@pytest.fixture(scope="module")
def both(folder):
    (told,) = gang.run(work.against_single, WHOLE, world=1, folder=folder)
    return dict(zip(WHOLE, told, strict=True))


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: f"{case.name}-{case.accumulate}-{case.speed.recompute}")
def test_zero_computes_what_plain_torch_computes(both, case):
    engine, single = both[case]
    np.testing.assert_allclose(engine, single, rtol=1e-5)


def test_accumulated_gradients_are_those_of_one_big_batch(both):
    np.testing.assert_allclose(both[ACCUMULATING][0], both[Case(2)][0], rtol=1e-5)


def test_the_learning_rate_is_the_schedule_s(both):
    expected = [lr_at(step, peak=ADAMW.lr, steps=work.STEPS, schedule=ADAMW.schedule) for step in range(10)]
    assert [lr for _, _, lr, _ in both[Case(1)][0]] == expected


LR = 0.5
STILL = Schedule("constant")


def moved(case: Case, folder) -> dict[str, np.ndarray]:
    """How far one step has moved every parameter."""
    (then,) = gang.run(work.after, case, 1, world=1, folder=folder)
    return {name: then[name] - value for name, value in work.before(case).items()}


@pytest.mark.parametrize("stage", [2, 3])
def test_the_gradient_is_clipped_to_the_norm_that_was_asked_for(folder, stage):
    plain = Optim(lr=LR, name="sgd", momentum=0.0, clip=None, schedule=STILL)
    clipped = dataclasses.replace(plain, clip=1e-3)
    far, near = (moved(Case(stage, optim=optim), folder) for optim in (plain, clipped))
    length = np.sqrt(sum((step**2).sum() for step in far.values()))
    assert length > 2e-3 * LR
    assert np.sqrt(sum((step**2).sum() for step in near.values())) == pytest.approx(1e-3 * LR, rel=1e-4)
    (told,) = gang.run(work.norms, Case(stage, optim=clipped), 1, world=1, folder=folder)
    assert told == [pytest.approx(length / LR, rel=1e-4)], "what is reported is the norm before clipping"


def test_weight_decay_falls_on_weight_matrices_alone_and_is_multiplied_by_the_learning_rate(folder):
    decay = 0.1
    optim = Optim(lr=1e-2, weight_decay=decay, clip=None, schedule=STILL)
    shapes = {name: p.shape for name, p in work.task_of(Case()).named_parameters()}
    start = work.before(Case())
    with_decay = moved(Case(1, optim=optim), folder)
    without = moved(Case(1, optim=dataclasses.replace(optim, weight_decay=0.0)), folder)
    for name, shape in shapes.items():
        expected = -optim.lr * decay * start[name] if decays(name, len(shape)) else 0 * start[name]
        np.testing.assert_allclose(with_decay[name] - without[name], expected, atol=1e-6, err_msg=name)
    assert any(decays(name, len(shape)) and np.abs(start[name]).max() > 0.1 for name, shape in shapes.items())


@pytest.mark.parametrize("stage", [1, 3])
def test_bf16_masters_keep_the_bits_that_the_weights_lose(folder, stage):
    """The first step of a warm-up has a learning rate of 0."""
    still = moved(Case(stage, precision="bf16"), folder)
    assert all(not step.any() for step in still.values())


def test_each_rank_drops_out_other_units(folder):
    model = dataclasses.replace(MODEL, dropout=0.5)
    case = Case(1, model=model, optim=dataclasses.replace(ADAMW, schedule=STILL))
    one, other = gang.run(work.second_loss, case, world=2, folder=folder)
    assert one != other
    same = dataclasses.replace(case, model=dataclasses.replace(model, dropout=0.0))
    one, other = gang.run(work.second_loss, same, world=2, folder=folder)
    assert one == other


@pytest.mark.parametrize("stage", STAGES)
def test_masked_patch_prediction_trains_in_every_stage(folder, stage):
    model = dataclasses.replace(MODEL, num_classes=0, mask_token=True, patch_outputs=512)
    case = Case(stage, model=model, objective=Objective("masked_patch"))
    first, *_, last = gang.run(work.train_on_one, case, 15, world=2, folder=folder)[0]
    assert first == pytest.approx(np.log(512), rel=1e-4)
    assert last < first - 0.5


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    uri = tmp_path_factory.mktemp("pictures")
    data_set(uri, sizes=(40, 25, 31), split="train")
    return str(uri)


def test_one_two_and_four_ranks_read_the_same_samples_and_learn_the_same(pictures, folder):
    told = {world: gang.run(work.on_real_data, pictures, 50, world=world, folder=folder) for world in (1, 2, 4)}
    losses, ids = told[1][0]
    assert len(ids) == 50
    assert len({tuple(batch) for batch in ids}) == 50
    assert losses[-1] < losses[0]
    for world in (2, 4):
        for other, same in told[world]:
            assert same == ids
            np.testing.assert_allclose(other, losses, atol=1e-4)


def test_a_run_saves_keeps_and_exports_and_goes_on_from_where_it_was(folder):
    uri = str(folder / "run" / "checkpoints")
    first, other = gang.run(work.a_run, uri, world=2, folder=folder, steps=5)
    assert (first["start"], first["steps"]) == (0, [4, 5])
    assert [(m["kind"], m["step"]) for m in first["sent"]] == [("checkpoint", 2), ("checkpoint", 4), ("checkpoint", 5)]
    assert other["sent"] == []
    first, _ = gang.run(work.a_run, uri, world=2, folder=folder, steps=7)
    assert (first["start"], first["steps"]) == (5, [6, 7])
    unbroken = str(folder / "unbroken" / "checkpoints")
    whole, _ = gang.run(work.a_run, unbroken, world=2, folder=folder, steps=7)
    assert (whole["start"], whole["digest"]) == (0, first["digest"])
    done, _ = gang.run(work.a_run, uri, world=2, folder=folder, steps=7)
    assert (done["start"], done["digest"], done["sent"]) == (7, first["digest"], [])


def test_a_damaged_checkpoint_is_passed_over_by_the_whole_gang(folder):
    uri = str(folder / "damaged" / "checkpoints")
    gang.run(work.a_run, uri, world=2, folder=folder, steps=4)
    newest = checkpoint.read_manifest(uri, 4)
    at = storage.join(checkpoint.folder(uri, 4), newest.files[1].name)
    storage.write(at, storage.read(at)[:-1])
    first, second = gang.run(work.a_run, uri, world=2, folder=folder, steps=5)
    assert first["start"] == second["start"] == 2


def test_a_checkpoint_of_another_run_is_refused_by_every_rank(folder, unbroken):
    uri = str(folder / Case(1).name)
    for said in gang.run(work.refused, uri, "another run", Case(1), world=2, folder=folder):
        assert said == (
            f"{uri}/step-00000005: made by another configuration; pass --rebuild for this stage, or use another --root"
        )
    other = Case(1, model=dataclasses.replace(MODEL, pool="gap"))
    for said in gang.run(work.refused, uri, "this run", other, world=2, folder=folder):
        assert said == f"{uri}: the checkpoint and the model differ in model.cls_token"


def test_what_is_written_of_a_checkpoint_is_json_and_safetensors(folder, unbroken):
    uri = checkpoint.folder(str(folder / Case(2).name), 5)
    names = storage.listing(uri)
    assert [name.rpartition(".")[2] for name in names] == ["safetensors", "safetensors", "json"]
    manifest = json.loads(storage.read(storage.join(uri, "manifest.json")))
    assert [file["name"] for file in manifest["files"]] == names[:2]
    assert (manifest["world_size"], manifest["zero_stage"], manifest["step"]) == (2, 2, 5)
