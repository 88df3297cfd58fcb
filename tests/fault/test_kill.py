"""kill -9 in the middle of pre-training, of a worker, of the driver, of everything: the weights come out the same.

And the same recipe on an S3 server gives the same weights as in a folder.
"""

import os
import signal

import psutil
import pytest

from tests.fault import recipe
from tests.fault.run import Run


def started(root, folder, environment=None):
    return Run(recipe.__file__, root, folder, environment=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kill")


@pytest.fixture(scope="module")
def undisturbed(folder):
    """The weights of a run that nobody disturbed."""
    run = started(folder / "undisturbed", folder)
    assert run.end() == 0, run.said()
    return run.weights()


def test_a_run_that_loses_a_worker_then_its_driver_then_everything_ends_with_the_same_weights(folder, undisturbed):
    root = folder / "disturbed"

    first = started(root, folder)
    first.until_checkpoint(2 * recipe.EVERY)
    first.worker().kill()
    step = first.until_checkpoint(first.until_checkpoint(0) + 2 * recipe.EVERY)
    assert "going on from the checkpoint of step" in first.said()
    assert step < recipe.STEPS, "the driver is to be killed in the middle"
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait(30)
    assert not psutil.wait_procs(first.trainers(), timeout=60)[1], "a trainer outlives its driver"

    second = started(root, folder)
    second.until_checkpoint(first.newest() + 2 * recipe.EVERY)  # the newest of the dead run: it had gone on meanwhile
    assert "going on from the checkpoint of step" in second.said()
    second.kill_everything()

    third = started(root, folder)
    assert third.end() == 0, third.said()
    assert "going on from the checkpoint of step" in third.said()
    assert third.weights() == undisturbed


def test_a_finished_run_does_nothing_the_second_time(folder, undisturbed):
    run = started(folder / "undisturbed", folder)
    assert run.end() == 0
    assert "every stage is done already" in run.said()
    assert run.weights() == undisturbed


def test_a_bucket_gives_the_same_weights_as_a_folder(folder, undisturbed, s3, s3_environment):
    run = started(f"{s3.uri}/kill", folder, environment=s3.environment)
    assert run.end() == 0, run.said()
    assert run.weights() == undisturbed
