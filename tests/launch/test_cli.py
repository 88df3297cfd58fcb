"""The command line: what goes to stdout, what to stderr, and with which exit code it ends."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline import storage
from tests.launch.conftest import RECIPE, ROOT


def error_of(ended, code: int) -> str:
    """The one message of a run that failed with `code`: nothing on stdout, no traceback."""
    assert (ended.code, ended.out) == (code, ""), ended.err
    (line,) = ended.said
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_help_names_the_commands_and_is_data(tessera):
    ended = tessera("--help")
    assert (ended.code, ended.err) == (0, "")
    for command in ("run", "status", "results", "doctor"):
        assert f" {command} " in ended.out


def test_without_a_command_there_is_help_and_the_code_of_a_wrong_call(tessera):
    ended = tessera()
    assert ended.code == 2
    assert "Usage:" in ended.out + ended.err


def test_an_unknown_option_is_a_wrong_call(tessera):
    ended = tessera("run", "quickstart", "--rot", "x")
    assert (ended.code, ended.out) == (2, "")
    assert "--rot" in ended.err
    assert "--root" in ended.err


def test_the_version_names_what_results_depend_on(tessera):
    ended = tessera("--version")
    assert (ended.code, ended.err) == (0, "")
    told = dict(line.split(" ") for line in ended.out.splitlines())
    assert told["tessera"] == version("tessera")
    assert told["torch"] == version("torch")
    assert set(told) == {"tessera", "torch", "ray", "deepspeed", "mlflow", "webdataset", "boto3"}


def test_an_unknown_recipe_ends_with_3(tessera):
    message = error_of(tessera("run", "quickstrat"), 3)
    assert message.startswith("quickstrat: no such recipe; there are ")
    assert "did you mean 'quickstart'?" in message


def test_a_recipe_file_that_is_not_there_ends_with_3(tessera):
    assert error_of(tessera("run", "mine.py"), 3) == "mine.py: no such file"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "pretrain.optim.lrr=1",
            "pretrain.optim.lrr: no field 'lrr' in Optim; it has lr, name, weight_decay, beta1, beta2, momentum, clip, "
            "schedule, polyak — did you mean 'lr'?",
        ),
        ("pretrain.optim.lr=-1", "pretrain.optim.lr: must be positive, got -1.0"),
        ("pretrain.optim.schedule.shape=linaer", "pretrain.optim.schedule.shape: 'linaer' is not one of 'linear', "),
        ("pretrian.steps=1", "pretrian.steps=1: no stage 'pretrian' in this recipe; it has "),
        ("steps=1", "expected stage.path=value, got 'steps=1'"),
    ],
)
def test_a_bad_setting_ends_with_2(tessera, assignment, message):
    assert error_of(tessera("run", "quickstart", "--set", assignment), 2).startswith(message)


def test_a_file_that_is_no_recipe_ends_with_2(tessera, tmp_path):
    (tmp_path / "mine.py").write_text("x = 1")
    assert (
        error_of(tessera("run", "mine.py"), 2) == "mine.py: a recipe defines stages(), which returns its target stages"
    )


def test_a_root_that_cannot_be_written_ends_with_4(tessera, tmp_path):
    (tmp_path / "file").write_text("")
    message = error_of(tessera("run", RECIPE, "--root", str(tmp_path / "file" / "root")), 4)
    assert message.startswith(f"{tmp_path}/file/root/")
    assert "a part of this path is a file" in message


def test_a_bucket_that_is_not_there_ends_with_4(tessera, s3_environment):
    message = error_of(tessera("run", RECIPE, "--root", "s3://no-such-bucket/root"), 4)
    assert "no-such-bucket" in message


def test_status_of_a_bucket_that_is_not_there_ends_with_4(tessera, s3_environment):
    assert "no-such-bucket" in error_of(tessera("status", "--root", "s3://no-such-bucket/root"), 4)


def test_a_root_of_unknown_kind_ends_with_2(tessera):
    assert "unknown kind of storage 'gs'" in error_of(tessera("run", RECIPE, "--root", "gs://bucket/root"), 2)


def test_status_where_nothing_is_ends_with_3(tessera):
    message = error_of(tessera("status"), 3)
    assert message == "runs/quickstart: nothing was run there; start with `tessera run RECIPE --root runs/quickstart`"


def test_status_is_a_table_or_json_on_stdout(tessera, tmp_path, made):
    made(str(tmp_path / "root"))
    table, data = (tessera("status", "--root", "root", "--output", output) for output in ("table", "json"))
    assert (table.code, table.err, data.code, data.err) == (0, "", 0, "")
    assert [line.split()[:2] for line in table.out.splitlines()] == [
        ["stage", "state"],
        ["judge", "done"],
        ["shards/small", "done"],
    ]
    assert [(line["stage"], line["state"]) for line in json.loads(data.out)] == [
        ("judge", "done"),
        ("shards/small", "done"),
    ]


def test_a_damaged_record_ends_with_2(tessera, tmp_path, made):
    made(str(tmp_path / "root"))
    storage.write(str(tmp_path / "root/judge/record.json"), b"{")
    assert "judge/record.json: not a record" in error_of(tessera("status", "--root", "root"), 2)
    assert "judge/record.json: not a record" in error_of(tessera("run", RECIPE, "--root", "root"), 2)


def test_what_is_done_is_done_again_at_once(tessera, tmp_path, made):
    made(str(tmp_path / "root"))
    ended = tessera("run", RECIPE, "--root", "root")
    assert (ended.code, ended.out) == (0, "")
    assert f"small: every stage is done already, under {tmp_path}/root" in ended.said
    assert "outputs" in ended.err
    assert "report" in ended.err


def test_a_password_in_the_tracking_uri_is_not_shown(tessera, tmp_path, made):
    made(str(tmp_path / "root"))
    ended = tessera("run", RECIPE, "--root", "root", MLFLOW_TRACKING_URI="https://me:hidden@mlflow.example")
    assert (ended.code, ended.out) == (0, "")
    assert "https://me:***@mlflow.example" in ended.err
    assert "hidden" not in ended.err


def test_execution_changes_nothing_that_is_done(tessera, tmp_path, made):
    made(str(tmp_path / "root"))
    assert tessera("run", RECIPE, "--root", "root", "--set", "shards/small.threads=7").code == 0


def test_drift_ends_with_2_and_every_changed_value(tessera, tmp_path, made):
    made(str(tmp_path / "root"))
    ended = tessera("run", RECIPE, "--root", "root", "--set", "judge.size=5")
    assert (ended.code, ended.out) == (2, "")
    assert ended.said[0] == "error: judge: is not what it would be now:"
    assert ended.err.splitlines()[1:] == [
        "  config.size: 1 -> 5",
        "Pass --rebuild judge to compute it anew, or keep it and use another --root.",
    ]


def test_an_unknown_stage_to_rebuild_ends_with_2(tessera, tmp_path):
    message = error_of(tessera("run", RECIPE, "--root", "root", "--rebuild", "jugde"), 2)
    assert message == "--rebuild jugde: no such stage in this recipe; it has shards/small, judge"


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tessera, tmp_path, made):
    ended = tessera("run", RECIPE, "--root", "root", "--dry-run", "--output", "json")
    assert (ended.code, ended.err) == (0, "")
    assert "shards/small" in ended.out
    json.loads(ended.out)
    assert not (tmp_path / "root").exists()


def test_two_runs_on_one_root_end_with_4_for_the_second(tessera, tmp_path):
    root, other_name = tmp_path / "root", tmp_path / "link"
    root.mkdir()
    other_name.symlink_to(root)
    with (root / ".tessera.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in (root, other_name):
            message = error_of(tessera("run", RECIPE, "--root", str(name)), 4)
            assert message == f"{name}: another run is at work there; wait for it, or use another --root"


def test_a_root_of_another_recipe_ends_with_2(tessera, tmp_path, made):
    made(str(tmp_path / "root"))
    assert tessera("run", RECIPE, "--root", "root").code == 0
    other = tmp_path / "other.py"
    other.write_text(Path(RECIPE).read_text())
    assert "holds runs of the recipe 'small', not 'other'" in error_of(tessera("run", "other.py", "--root", "root"), 2)


def test_a_mistake_in_a_recipe_keeps_its_traceback(tessera, tmp_path):
    (tmp_path / "mine.py").write_text("def stages():\n    return 1 // 0\n")
    ended = tessera("run", "mine.py")
    assert (ended.code, ended.out) == (1, "")
    assert "ZeroDivisionError" in ended.err
    assert 'mine.py", line 2' in ended.err


def test_debug_shows_the_traceback_of_a_user_s_mistake_too(tessera):
    ended = tessera("run", "quickstrat", "--debug")
    assert ended.code == 3
    assert "Traceback" in ended.err


def test_lines_may_be_json(tessera):
    ended = tessera("run", "quickstrat", "--log-format", "json")
    assert (ended.code, ended.out) == (3, "")
    (line,) = ended.err.splitlines()
    event = json.loads(line)
    assert (event["level"], event["room"]) == ("error", "tessera")


def test_doctor_says_what_is_well_on_stdout_and_ends_with_0(tessera, tmp_path):
    ended = tessera("doctor", "--root", str(tmp_path / "root"))
    assert (ended.code, ended.err) == (0, "")
    assert any(line.split()[:2] == ["ok", "root"] for line in ended.out.splitlines())


def test_doctor_ends_with_4_where_a_run_would_fail(tessera):
    ended = tessera("doctor", "--root", "/dev/null/root")
    assert ended.code == 4
    assert any(line.split()[:2] == ["fail", "root"] for line in ended.out.splitlines())


SLEEPING = """
import pathlib, time
def stages():
    pathlib.Path("begun").touch()
    time.sleep(600)
"""

COMPUTING = """
import pathlib, time
from dataclasses import dataclass
from pipeline.stage import Stage

@dataclass(frozen=True)
class Wait:
    where: str

def wait(config, *, out, cluster, track):
    list(cluster.map(lambda where: (pathlib.Path(where).touch(), time.sleep(600)), [config.where], title="wait"))

def stages():
    return (Stage("wait", wait, Wait(str(pathlib.Path("begun").absolute()))),)
"""


def signalled(folder: Path, *words: str, number: int, begun: str) -> tuple[int, str]:
    """How a command ends, and what it says, that gets a signal when there is a file `begun`."""
    with subprocess.Popen(
        [sys.executable, "-m", "launch", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C, and so would whatever these tests start from there
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        try:
            while not (folder / begun).exists():
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, err


@pytest.mark.parametrize("recipe", [SLEEPING, COMPUTING])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_with_the_code_of_its_signal(tmp_path, recipe, number, code):
    (tmp_path / "mine.py").write_text(recipe)
    ended, err = signalled(tmp_path, "run", "mine.py", number=number, begun="begun")
    assert ended == code
    assert "Traceback" not in err
    how = "interrupted" if number == signal.SIGINT else "terminated"
    assert err.splitlines()[-1].endswith(f"error: {how}; the same command goes on from here")


def test_a_data_set_whose_making_is_terminated_ends_with_the_code_of_the_signal(tmp_path):
    os.mkfifo(tmp_path / "endless.jpg")  # nobody writes into it, and so it is never read to its end
    (tmp_path / "list.csv").write_text("image,label\nendless.jpg,cat\n")
    words = ("shards", "build", "list.csv", "out")
    ended, err = signalled(tmp_path, *words, number=signal.SIGTERM, begun="out/source.json")
    assert ended == 143
    assert "Traceback" not in err
    assert err.splitlines()[-1].endswith("terminated; the same command goes on from here")


TRAINING = """
import pathlib
from dataclasses import dataclass
from pipeline.stage import Resources, Stage
from tests import elastic_gang

@dataclass(frozen=True)
class Train:
    never: str

def train(config, *, out, cluster, track):
    def hear(message):
        if message["kind"] == "listening":
            pathlib.Path("begun").touch()
    cluster.gang(elastic_gang.run, config.never, on_message=hear)

def stages():
    never = str(pathlib.Path("never").absolute())
    return (Stage("train", train, Train(never), resources=Resources(workers=1)),)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_has_its_gang_save_and_says_at_which_step(tmp_path, number, code):
    (tmp_path / "mine.py").write_text(TRAINING)
    ended, err = signalled(tmp_path, "run", "mine.py", number=number, begun="begun")
    assert ended == code
    assert "Traceback" not in err
    assert re.search(r"(interrupted|terminated), saved at step \d+; the same command goes on from here$", err.rstrip())
