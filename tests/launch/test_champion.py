"""The champion of a recipe: judged by a declared rule, moved by a command alone, with a history that stays."""

import dataclasses
import json
from pathlib import Path

import pytest

from launch import answer, champion
from launch.query import Asked
from launch.recipe import champion_rule
from pipeline.config import ConfigError
from pipeline.evals.champion import Rule
from pipeline.tracking import lines
from tests.mlflow_store import Made, fill

DAY_S = 86_400
RULE = Rule(("cifar10", "pets"))


def scores(base: float, *, tasks=("cifar10", "pets")):
    return {(task, "finetune", "top1"): [base + seed / 1000 for seed in range(3)] for task in tasks}


@pytest.fixture
def uri(tmp_path):
    """Three nights: a good one, one that is hardly better, and one that is better by far."""
    means = {"aaaa": 0.80, "bbbb": 0.8005, "cccc": 0.85}
    made = [Made("nightly", digest, n * DAY_S, scores(mean)) for n, (digest, mean) in enumerate(means.items())]
    return fill(
        tmp_path / "mlflow.db", [*made, Made("nightly", "", 0, scores(0.1)), Made("other", "dddd", 0, scores(0.9))]
    )


def decide(uri: str, checkpoint: str = "newest", *, rule: Rule | None = RULE, because: str = "") -> champion.Decision:
    found = answer.gather(uri, Asked("nightly"))
    return champion.decide(found, recipe="nightly", rule=rule, checkpoint=checkpoint, because=because)


def move(uri: str, checkpoint: str, **more) -> str:
    return champion.move(uri, decide(uri, checkpoint, **more))


def history(uri: str) -> list[tuple[str, str]]:
    return [(one.checkpoint_digest, one.before) for line in lines(uri, name="nightly") for one in line.moves]


def test_to_decide_moves_nothing(uri):
    assert decide(uri).ruling.moves
    assert decide(uri).text == "nightly@cccc of 2026-11-26 07:00 is to be champion: there was none; its mean is 85.10."
    assert lines(uri) == []


def test_it_moves_by_the_rule_and_stays_by_it_and_every_move_is_kept(uri):
    assert move(uri, "aaaa").startswith("Moved: nightly@aaaa is champion, version 1: there was none")
    stays = (
        "nightly@bbbb of 2026-11-25 07:00 is not to be champion: mean 80.10 -> 80.15, better by +0.05; asked is more "
    )
    assert move(uri, "bbbb").startswith(f"{stays}than 0.10.")
    assert history(uri) == [("aaaa", "")]
    assert move(uri, "newest").startswith("Moved: nightly@cccc is champion in place of nightly@aaaa, version 2: mean")
    assert move(uri, "newest") == "nightly@cccc is the champion, and the newest that can be judged."
    assert history(uri) == [("aaaa", ""), ("cccc", "aaaa")]
    (line,) = lines(uri, name="nightly")
    assert json.loads(line.moves[1].rule)["tasks"] == ["cifar10", "pets"]


def test_somebody_may_decide_otherwise_with_a_reason_that_is_kept(uri):
    move(uri, "cccc")
    told = move(uri, "aaaa", rule=None, because="cccc fails on our own photographs")
    assert told == (
        "Moved: nightly@aaaa is champion in place of nightly@cccc, version 2: cccc fails on our own photographs."
    )
    text = champion.show(lines(uri, name="nightly")[0])
    assert text.splitlines()[0].startswith("nightly: nightly@aaaa is champion since 20")
    assert "said so: cccc fails on our own photographs" in text.splitlines()[2]
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["2*", "1"]


def test_the_rule_is_shown_in_words_also_one_of_another_version_of_this_code(uri):
    move(uri, "aaaa")
    (line,) = lines(uri, name="nightly")
    assert "by the rule: better on the mean of cifar10, pets (finetune, top1) by more than 1 x" in champion.show(line)
    assert champion._by(dataclasses.replace(line.moves[0], rule='{"mood": 1}')) == 'by the rule: {"mood": 1}'


def test_the_champion_is_who_the_newest_is_compared_with(uri):
    move(uri, "aaaa")
    found = answer.gather(uri, Asked("nightly"))
    told = answer.headline(uri, Asked("nightly"), found)
    assert told.endswith("nightly@cccc of 2026-11-26 07:00 against the champion nightly@aaaa of 2026-11-24 07:00.")
    move(uri, "cccc")
    told = answer.headline(uri, Asked("nightly"), answer.gather(uri, Asked("nightly")))
    assert "nightly@cccc of 2026-11-26 07:00, the champion, against the one before, nightly@bbbb" in told


def test_a_champion_that_is_older_than_what_is_read_is_read_too(uri):
    move(uri, "aaaa")
    late = [Made("nightly", f"{n:04x}", n * DAY_S, scores(0.8), data="imagenet21k") for n in range(5, 12)]
    fill(Path(uri.removeprefix("sqlite:///")), late)
    found = answer.gather(uri, Asked("nightly"), newest=3)
    assert found.is_part
    assert [one.digest for one in found.checkpoints] == ["000b", "000a", "0009", "aaaa"]
    assert champion.decide(found, recipe="nightly", rule=RULE, checkpoint="newest", because="").ruling.why.startswith(
        "mean"
    )


def test_without_rule_and_without_reason_nothing_is_judged(uri):
    with pytest.raises(ValueError, match=r"nightly: no rule says when its champion moves; name --task, declare champ"):
        decide(uri, rule=None)


def test_what_is_no_model_in_mlflow_cannot_be_champion(uri, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nightly \(random init\): is no model in MLflow"):
        decide(uri, "random")
    fill(Path(uri.removeprefix("sqlite:///")), [Made("nightly", "eeee", 9 * DAY_S, scores(0.9), is_new=False)])
    with pytest.raises(FileNotFoundError, match="nightly@eeee: is no model in MLflow"):
        decide(uri, "eeee")


def test_what_was_not_measured_in_full_is_refused_with_what_is_missing(uri):
    fill(Path(uri.removeprefix("sqlite:///")), [Made("nightly", "ffff", 9 * DAY_S, scores(0.9, tasks=("pets",)))])
    assert decide(uri, "ffff").ruling.why == "it has no finetune top1 of cifar10"


def test_programs_get_the_same(uri):
    decision = decide(uri)
    told = json.loads(json.dumps(champion.as_data(None, decision, is_moved=False)))
    assert (told["line"], told["moves"], told["moved"]) == (None, True, False)
    assert (told["challenger"]["digest"], told["rule"]["stds"]) == ("cccc", 1.0)
    champion.move(uri, decision)
    told = json.loads(json.dumps(champion.as_data(lines(uri)[0], None, is_moved=True)))
    assert told["line"]["champion"]["checkpoint_digest"] == "cccc"
    assert told["line"]["is_by_hand"] is False


RECIPE = """
from pipeline.evals.champion import Rule
def stages():
    raise AssertionError("nobody asked for stages")
def champion():
    return {}
"""


def test_a_recipe_declares_its_rule_beside_its_stages(tmp_path):
    (tmp_path / "mine.py").write_text(RECIPE.format("Rule(('pets',), least=0.001)"))
    assert champion_rule(str(tmp_path / "mine.py")) == ("mine", Rule(("pets",), least=0.001))
    (tmp_path / "mine.py").write_text(RECIPE.format("'pets'"))
    with pytest.raises(
        ConfigError, match=r"champion\(\) returned 'pets'; a Rule of pipeline.evals.champion would be right"
    ):
        champion_rule(str(tmp_path / "mine.py"))


def test_a_recipe_without_a_rule_or_without_a_file_has_a_name_all_the_same():
    assert champion_rule("quickstart") == ("quickstart", None)
    assert champion_rule("run by somebody else") == ("run by somebody else", None)
