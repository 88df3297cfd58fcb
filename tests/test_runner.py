"""Make for artifacts: done is skipped, drift is refused before anything runs, and a killed build goes on."""

import _thread
import dataclasses
import json
import logging
import threading
from dataclasses import dataclass

import pytest

from pipeline import record, runner, storage
from pipeline.config import execution, override
from pipeline.record import Drifted, Record
from pipeline.stage import Resources, Stage


@dataclass(frozen=True)
class Optim:
    lr: float = 0.001


@dataclass(frozen=True)
class Config:
    size: int = 3
    optim: Optim = Optim()
    threads: int = execution(1)


def make(config, *, out, cluster, track):
    storage.write(storage.join(out, "data"), b"x" * config.size)
    return {"samples": config.size}


def train(config, *, out, cluster, track, shards):
    storage.write(storage.join(out, "weights"), storage.read(storage.join(shards.uri, "data")))
    return {"read": shards.result["samples"]}


def look(config, *, out, cluster, track, shards, other):
    return {"read": shards.result["samples"], "seen": other.result["samples"]}


def report(config, *, out, cluster, track, weights):
    return {}


class Killed(BaseException):
    """What a SIGKILL is to the stage: nothing after it runs."""


class Machine:
    """Runs stages here; `kill` names one that dies after its work and before its record."""

    def __init__(self) -> None:
        self.ran, self.builds, self.kill = [], {}, ""
        self.stopped = threading.Event()

    def __call__(self, stage, *, out, build, needs):
        self.ran.append(stage.name)
        self.builds.setdefault(stage.name, []).append(build)
        result = stage.run(stage.config, out=out, cluster=None, track=None, **needs)
        if stage.name == self.kill:
            raise Killed
        return result

    def stop(self) -> None:
        self.stopped.set()

    def again(self) -> list[str]:
        """What ran since the last call."""
        ran, self.ran = self.ran, []
        return ran


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "root")
    return f"{request.getfixturevalue('s3_environment').uri}/{tmp_path.name}/root"


@pytest.fixture
def machine():
    return Machine()


def stages(*assignments: str, shards: tuple[str, ...] = ()) -> tuple[Stage, ...]:
    made = Stage("shards/small", make, override(Config(), shards))
    weights = Stage("train", train, override(Config(), assignments), needs={"shards": made})
    return (Stage("report", report, Config(), needs={"weights": weights}),)


def go(targets, root, machine, **options):
    return runner.run(targets, root=root, launcher=machine, code="abc", **options)


def actions(targets, root, **options) -> list[tuple[str, str]]:
    return [(step.stage.name, step.action) for step in runner.plan(targets, root=root, **options)]


def test_everything_runs_once_and_then_is_skipped(root, machine):
    assert actions(stages(), root) == [("shards/small", "run"), ("train", "run"), ("report", "run")]
    first = go(stages(), root, machine)
    assert machine.again() == ["shards/small", "train", "report"]
    seen = []
    again = go(stages(), root, machine, on_done=lambda stage, artifact, fresh: seen.append((stage.name, fresh)))
    assert machine.again() == []
    assert seen == [("shards/small", False), ("train", False), ("report", False)]
    assert again == first
    assert first["train"].uri == storage.join(root, "train")
    assert first["train"].result == {"read": 3}
    assert [action for _, action in actions(stages(), root)] == ["skip"] * 3


def test_what_is_beside_is_handed_over_and_built_first_but_another_rebuilds_nothing(root, machine):
    def beside(size: int) -> Stage:
        shards = Stage("shards/small", make, Config())
        return Stage("look", look, Config(), {"shards": shards}, beside={"other": Stage("other", make, Config(size))})

    first = go([beside(7)], root, machine)
    assert sorted(machine.again()) == ["look", "other", "shards/small"]
    assert first["look"].result == {"read": 3, "seen": 7}
    again = go([beside(9)], root, machine, rebuild=["other"])
    assert machine.again() == ["other"]
    assert again["look"] == first["look"]


def test_the_record_says_what_was_computed_from_what_and_by_whom(root, machine):
    done = go(stages("optim.lr=0.5", "threads=4"), root, machine)
    found = record.read(storage.join(root, "train"))
    assert found == Record(
        id=done["train"].id,
        stage="train",
        identity=stages("optim.lr=0.5")[0].needs["weights"].identity(),
        built_from={"shards": done["shards/small"].id},
        config={"size": 3, "optim": {"lr": 0.5}, "threads": 4},
        code="abc",
        result={"read": 3},
        wall_s=found.wall_s,
    )
    assert found.id == machine.builds["train"][0]


def test_what_is_execution_alone_does_not_make_an_output_stale(root, machine):
    go(stages(), root, machine)
    machine.again()
    go(stages("threads=8", shards=("threads=8",)), root, machine)
    assert machine.again() == []


def test_drift_is_refused_with_every_changed_value_before_anything_runs(root, machine):
    go(stages(), root, machine)
    storage.remove_tree(storage.join(root, "report"))
    machine.again()
    with pytest.raises(Drifted) as error:
        go(stages("optim.lr=0.002", "size=4"), root, machine)
    assert str(error.value) == (
        "train: is not what it would be now:\n"
        "  config.optim.lr: 0.001 -> 0.002\n"
        "  config.size: 3 -> 4\n"
        "Pass --rebuild train to compute it anew, or keep it and use another --root."
    )
    assert machine.again() == []
    assert storage.read(storage.join(root, "train", "weights")) == b"xxx"


def test_drift_late_in_the_graph_is_refused_before_an_early_stage_runs(root, machine):
    go(stages(), root, machine)
    storage.remove_tree(storage.join(root, "shards/small"))
    machine.again()
    with pytest.raises(Drifted, match=r"built from\.shards: \"[0-9a-f]{32}\" -> \"\(not built yet\)\""):
        go(stages(), root, machine)
    assert machine.again() == []


def test_a_changed_need_makes_what_read_it_drift_too(root, machine):
    go(stages(), root, machine)
    steps = runner.plan(stages(shards=("size=5",)), root=root)
    assert [step.action for step in steps] == ["refuse", "refuse", "refuse"]
    assert "config.size: 3 -> 5" in steps[0].why
    assert "needs.shards: " in steps[1].why


def test_a_rebuild_replaces_the_output_and_makes_what_read_it_stale(root, machine):
    before = go(stages(), root, machine)
    storage.write(storage.join(root, "shards/small", "left over"), b"")
    with pytest.raises(Drifted, match=r"train: is not .*\n  built from\.shards: .* -> \"\(to be rebuilt\)\""):
        go(stages(), root, machine, rebuild=["shards/small"])
    machine.again()
    after = go(stages(), root, machine, rebuild=["shards/small", "train", "report"])
    assert machine.again() == ["shards/small", "train", "report"]
    assert after["shards/small"].id != before["shards/small"].id
    assert not storage.exists(storage.join(root, "shards/small", "left over"))
    assert [action for _, action in actions(stages(), root)] == ["skip"] * 3


def test_what_was_rebuilt_by_somebody_else_makes_what_read_it_stale(root, machine):
    go(stages(), root, machine)
    made = stages()[0].needs["weights"].needs["shards"]
    go([made], root, machine, rebuild=["shards/small"])
    with pytest.raises(Drifted, match=r"built from\.shards"):
        go(stages(), root, machine)


def test_a_rebuild_of_an_unknown_stage_is_refused(root, machine):
    with pytest.raises(ValueError) as error:
        go(stages(), root, machine, rebuild=["trian"])
    assert str(error.value) == "--rebuild trian: no such stage in this recipe; it has shards/small, train, report"
    assert machine.again() == []


@pytest.mark.parametrize("killed", ["shards/small", "train"])
def test_a_stage_killed_between_its_work_and_its_record_goes_on_as_the_same_build(root, machine, killed):
    machine.kill = killed
    with pytest.raises(Killed):
        go(stages(), root, machine)
    assert record.read(storage.join(root, killed)) is None
    assert dict(actions(stages(), root))[killed] == "continue"
    machine.kill = ""
    machine.again()
    done = go(stages(), root, machine)
    assert machine.again()[0] == killed
    assert machine.builds[killed] == [done[killed].id] * 2


def test_execution_may_change_while_a_build_goes_on(root, machine):
    machine.kill = "train"
    with pytest.raises(Killed):
        go(stages(), root, machine)
    machine.kill = ""
    done = go(stages("threads=2"), root, machine)
    assert machine.builds["train"] == [done["train"].id] * 2
    assert record.read(done["train"].uri).config["threads"] == 2


def test_what_another_config_began_is_not_gone_on_with(root, machine):
    machine.kill = "train"
    with pytest.raises(Killed):
        go(stages(), root, machine)
    machine.again()
    assert dict(actions(stages("optim.lr=0.002"), root))["train"] == "refuse"
    with pytest.raises(Drifted) as error:
        go(stages("optim.lr=0.002"), root, machine)
    assert str(error.value) == (
        "train: was begun with another config and is not finished:\n"
        "  config.optim.lr: 0.001 -> 0.002\n"
        "Pass --rebuild train to compute it anew, or keep it and use another --root."
    )
    assert machine.again() == []
    machine.kill = ""
    go(stages("optim.lr=0.002"), root, machine, rebuild=["train"])
    assert machine.again() == ["train", "report"]


def test_what_was_begun_from_an_older_build_of_its_need_is_not_gone_on_with(root, machine):
    machine.kill = "train"
    with pytest.raises(Killed):
        go(stages(), root, machine)
    machine.kill = ""
    go([stages()[0].needs["weights"].needs["shards"]], root, machine, rebuild=["shards/small"])
    with pytest.raises(Drifted, match=r"was begun with another config .*\n  built from\.shards: "):
        go(stages(), root, machine)


@pytest.mark.parametrize("name", [record.DONE, record.BEGUN])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"id": "x"}', b"\xff\xfe", b'{"id": 1, "new": 2}'])
def test_a_damaged_record_is_named_and_can_be_rebuilt(tmp_path, machine, name, damage):
    root = str(tmp_path)
    go(stages(), root, machine)
    at = storage.join(root, "train", name)
    storage.write(at, damage)
    with pytest.raises(ValueError, match="not a record") as error:
        go(stages(), root, machine)
    assert str(error.value).startswith(f"{at}: not a record (")
    assert str(error.value).endswith("; remove it, or pass --rebuild for its stage")
    machine.again()
    go(stages(), root, machine, rebuild=["train", "report"])
    assert machine.again() == ["train", "report"]


def test_a_result_that_is_no_json_leaves_no_record(tmp_path, machine):
    bad = Stage("bad", lambda config, *, out, cluster, track: {"labels": {1, 2}}, Config())
    with pytest.raises(TypeError, match="not JSON serializable"):
        go([bad], str(tmp_path), machine)
    assert record.read(str(tmp_path / "bad")) is None


def test_an_output_is_cleared_so_that_no_moment_of_it_looks_done(root, machine, monkeypatch):
    """Killed at any of its removals, what is left is neither done nor without the config that began it."""
    go(stages(), root, machine)
    out = storage.join(root, "train")
    storage.write(storage.join(out, "checkpoints/step-1/manifest.json"), b"{}")
    moments = []
    for word in ("remove", "remove_tree"):
        monkeypatch.setattr(storage, word, _noting(getattr(storage, word), moments, out))
    record.clear(out)
    assert storage.listing(out) == []
    assert moments[0] == [record.BEGUN, "checkpoints/step-1/manifest.json", "weights"]
    assert all(record.DONE not in names for names in moments)
    assert all(record.BEGUN in names for names in moments[:-1])


def _noting(function, moments, out):
    def noted(uri):
        function(uri)
        moments.append(storage.listing(out))

    return noted


def test_records_are_json_that_people_can_read(tmp_path):
    written = Record("id", "train", {"config": {}}, {}, {}, "abc", {"loss": 0.5}, 1.5)
    record.write(str(tmp_path), written)
    text = (tmp_path / "record.json").read_text()
    assert json.loads(text) == dataclasses.asdict(written)
    assert text.startswith('{\n "built_from": {}')
    assert record.read(str(tmp_path)) == written
    assert record.read(str(tmp_path), record.BEGUN) is None


# Side by side


def met(config, *, out, cluster, track):
    """Returns only when `config.size` stages are here at once."""
    MEETING.wait(30)
    return {"thread": threading.current_thread().name}


def joined(config, *, out, cluster, track, **needs):
    return {"threads": sorted(need.result["thread"] for need in needs.values())}


def whose(config, *, out, cluster, track, **needs):
    return {"thread": threading.current_thread().name}


def fail(config, *, out, cluster, track):
    raise ValueError("no such luck")


def after_failure(config, *, out, cluster, track):
    """Ends only when the other one has failed."""
    FAILED.wait(30)
    return {}


def interrupted(config, *, out, cluster, track):
    _thread.interrupt_main()
    assert STOPPED.wait(30)
    raise KeyboardInterrupt


MEETING, FAILED, STOPPED = threading.Barrier(3), threading.Event(), threading.Event()
GANG = Resources(workers=1)


def test_stages_that_are_ready_together_run_at_the_same_time(tmp_path, machine):
    three = {name: Stage(name, met, Config()) for name in ("a", "b", "c")}
    done = go([Stage("all", joined, Config(), three)], str(tmp_path), machine)
    assert list(done) == ["a", "b", "c", "all"]
    assert len(set(done["all"].result["threads"])) == 3


def test_what_makes_a_gang_runs_alone_and_in_the_thread_that_is_interrupted(tmp_path, machine):
    first, second = (Stage(name, whose, Config(), resources=GANG) for name in ("first", "second"))
    beside = [Stage(name, whose, Config()) for name in ("x", "y")]
    done = go([first, second, *beside, Stage("last", whose, Config(), {"first": first})], str(tmp_path), machine)
    threads = {name: artifact.result["thread"] for name, artifact in done.items()}
    main = threading.main_thread().name
    assert [name for name, thread in threads.items() if thread == main] == ["first", "second", "last"]
    assert sorted(machine.again()[:2]) == ["x", "y"]


def test_after_a_failure_the_others_are_brought_to_their_end_and_nothing_else_is_begun(tmp_path, machine, caplog):
    broken, other = Stage("broken", fail, Config()), Stage("other", after_failure, Config())
    caplog.handler.addFilter(lambda record: FAILED.set() or True)  # the first line that is an error
    caplog.set_level(logging.ERROR)
    targets = [broken, other, Stage("gang", whose, Config(), resources=GANG)]
    with pytest.raises(ValueError, match="no such luck"):
        go(targets, str(tmp_path), machine)
    assert caplog.messages == ["broken failed: no such luck; first other are brought to an end"]
    assert sorted(machine.again()) == ["broken", "other"]
    assert [action for _, action in actions(targets, str(tmp_path))] == ["continue", "skip", "run"]


def test_an_interruption_stops_those_that_are_under_way(tmp_path, machine):
    machine.stopped = STOPPED
    with pytest.raises(KeyboardInterrupt):
        go([Stage("a", interrupted, Config()), Stage("b", whose, Config())], str(tmp_path), machine)
    assert STOPPED.is_set()
    assert record.read(storage.join(str(tmp_path), "a")) is None
