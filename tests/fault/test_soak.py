"""A run that is killed again and again, at random, still ends with the weights of one that is left alone."""

import random

import pytest

from tests.fault import recipe
from tests.fault.test_kill import Run

KILLS = 8


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_run_killed_at_random_places_ends_with_the_same_weights(tmp_path):
    alone = Run(tmp_path / "alone", tmp_path)
    assert alone.end() == 0, alone.said()
    chance, step = random.Random(0), 0
    for _ in range(KILLS):
        run = Run(tmp_path / "killed", tmp_path)
        step = run.until_checkpoint(step + chance.choice((0, recipe.EVERY)))
        chance.choice((run.process.kill, run.kill_everything))()
        run.kill_everything()
        if step >= recipe.STEPS:
            break
    last = Run(tmp_path / "killed", tmp_path)
    assert last.end() == 0, last.said()
    assert last.weights() == alone.weights()
