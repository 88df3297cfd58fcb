"""What the soak trains: small enough to step many times a second, long enough for the faults it is told of."""

import dataclasses
import os

from pipeline.stage import Stage
from pipeline.train.guard import Guards
from pipeline.train.watch import Watching
from tests.fault import recipe

EVERY = 20
NEARBY = "TESSERA_SOAK_NEARBY"  # a folder of this machine's


def stages() -> tuple[Stage, ...]:
    (stage,) = recipe.stages()
    config = dataclasses.replace(
        stage.config,
        steps=int(os.environ.get("TESSERA_SOAK_STEPS", "400")),
        checkpoint_every=EVERY,
        log_every=EVERY,
        keep_checkpoints=3,
        nearby=os.environ.get(NEARBY),
        guards=Guards(sigma=0),  # so small a run has spikes now and then, and a skipped step is made of no samples
        watching=Watching(hang_s=8, first_step_s=60, compare_every=50),
        audit=True,
    )
    resources = dataclasses.replace(stage.resources, max_restarts=1000)
    return (dataclasses.replace(stage, config=config, resources=resources),)
