"""What the ranks of a gang do in test_skip.py."""

import math

import torch

from pipeline.train.guard import Guard, Guards
from pipeline.train.loop import Tick
from tests.train import work


def state(engine):
    """The bits of all that this rank holds: masters, moments and the optimizer's count of steps."""
    held = {f"{f.name}|{f.state}": f.values.detach().clone() for f in engine.fragments()}
    counts = [float(one["step"]) for one in engine._optimizer.optimizer.state.values() if "step" in one]
    return held, counts


def same(one, other):
    return one[1] == other[1] and all(torch.equal(one[0][name], other[0][name]) for name in one[0])


def spoil(engine, *steps, by=math.nan):
    """Multiply the loss of rank 1 (or of the only one) in these steps, by a hook on its model."""
    last = torch.distributed.get_world_size() - 1
    if torch.distributed.get_rank() != last:
        return
    engine.module.register_forward_hook(
        lambda module, arguments, output: (output[0] * by, output[1]) if engine.step in steps else output
    )


def skipping(case):
    """What a spoiled step left as it was, and how training went on."""
    guard = Guard(Guards(sigma=0))
    engine = work.engine_of(case, guard=guard)
    work.losses(engine, 3, case)
    spoil(engine, 3)
    before, weights = state(engine), [p.detach().clone() for p in engine.module.parameters()]
    measured = engine.train(work.part_of(work.global_batch(3, case)))
    pairs = zip(weights, engine.module.parameters(), strict=True)
    told = {
        "same": same(before, state(engine)),
        "weights": all(torch.equal(a, b) for a, b in pairs if b.numel()),  # ZeRO-3 gathers them when they are used
        "why": measured["skipped"],
        "counts": (engine.step, engine.updates),
        "after": work.losses(engine, 3, case),
    }
    return told | {"adam": state(engine)[1]}


def spiking(case, uri):
    """Losses and reasons of twelve steps with two spikes; and those after a checkpoint that lies between the spikes."""
    guards, told = Guards(least=4), []
    for begins in (0, 8):
        guard = Guard(guards)
        engine = work.engine_of(case, guard=guard)
        saver = work.saver_of(uri, engine, stage=case.stage, memory=guard)
        spoil(engine, 6, 9, by=1e3)
        assert saver.resume() == begins
        rows = []
        while engine.step < 12:
            measured = engine.train(work.part_of(work.global_batch(engine.step, case)))
            rows.append((work.mean(measured["loss"]), float(measured["grad_norm"]), measured["skipped"]))
            if begins == 0 and engine.step == 8:
                saver.save(Tick(engine.step, True, measured, 0.0, 0.0))
        told.append((rows, guard.saved(), engine.updates))
    return told


def without(case):
    """The losses of a run that never made step 3, its learning rate and draws included."""
    engine = work.engine_of(case)
    work.losses(engine, 3, case)
    engine.step += 1
    return work.losses(engine, 3, case)


def guarded_and_not(case):
    """Losses of the same run with a guard and without."""
    return work.losses(work.engine_of(case), 8, case), work.losses(work.engine_of(case, guard=Guard()), 8, case)


def passing_over(case):
    guard = Guard(Guards(sigma=0))
    guard.pass_over([(2, 4)])
    engine = work.engine_of(case, guard=guard)
    told = [engine.train(work.part_of(work.global_batch(engine.step, case))) for _ in range(5)]
    return [m["skipped"] for m in told], (engine.step, engine.updates), math.isnan(float(told[2]["loss"]))


def uneven(case, batch, steps):
    """Losses over the gang, and gradient norms, of a batch that does not divide."""
    part = work.own_part(case, batch)
    engine = work.engine_of(case, global_batch=batch)
    told = []
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        images_BCHW = torch.randint(0, 256, (batch, 3, 32, 32), generator=draw, dtype=torch.uint8)
        labels_B = torch.randint(0, 7, (batch,), generator=draw)
        measured = engine.train(work.Batch(images_BCHW, labels_B).part(*part.slots))
        told.append((work.mean(measured["loss"]), work.mean(measured["accuracy"]), float(measured["grad_norm"])))
    return told


def probes(case):
    """Twice before and once after a step; and a loss that shows that nothing else was touched."""
    engine = work.engine_of(case)
    work.losses(engine, 1, case)
    first, again = engine.probe(), engine.probe()
    rng = torch.get_rng_state()
    engine.probe()
    untouched = torch.equal(rng, torch.get_rng_state()) and engine.module.training
    work.losses(engine, 2, case)
    return first, again, engine.probe(), untouched


def losses_after_probes(case):
    engine = work.engine_of(case)
    work.losses(engine, 2, case)
    engine.probe()
    return work.losses(engine, 3, case)


def plain_losses(case):
    engine = work.engine_of(case)
    work.losses(engine, 2, case)
    return work.losses(engine, 3, case)
