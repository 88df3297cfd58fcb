"""`tessera results` and `tessera champion` as a shell runs them: what is on stdout, what on stderr, and exit codes."""

import csv
import io
import json

import pytest

from tests.mlflow_server import free_port
from tests.mlflow_store import Made, fill

DAY_S = 86_400


def scores(base: float):
    return {(task, "finetune", "top1"): [base + seed / 1000 for seed in range(3)] for task in ("cifar10", "pets")}


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    made = [
        Made("nightly", "aaaa", 0, scores(0.8), model="L/16", data="imagenet21k"),
        Made("nightly", "bbbb", DAY_S, scores(0.9), model="L/16", data="imagenet21k", ends={"transfer/dtd": "FAILED"}),
        Made("nightly", "", 0, scores(0.1)),
    ]
    return fill(tmp_path_factory.mktemp("command") / "mlflow.db", made)


def test_the_answer_comes_first_and_the_table_after_it(tessera, uri):
    ended = tessera("results", "nightly", "--tracking", uri)
    assert ended.code == 0, ended.err
    first, second, empty, *table = ended.out.splitlines()
    assert first.startswith("Better at 2 of 2 (cifar10 +10.00, pets +10.00): nightly@bbbb of 2026-11-25 07:00 against ")
    assert second == "Not finished: nightly: transfer/dtd failed, 2026-11-25 07:00 (RuntimeError: loss is nan)"
    assert empty == ""
    assert [line.split("  ")[0] for line in table] == [
        *("checkpoint", "", "-" * 25, "nightly@bbbb", "", "", "nightly@aaaa", "", "", "nightly (random init)"),
    ]
    assert ended.err.startswith("Mean ± sample standard deviation over (so many) seeds")


@pytest.mark.parametrize("output", ["json", "csv"])
def test_programs_get_a_row_for_each_result(tessera, uri, output):
    ended = tessera("results", "--tracking", uri, "--output", output)
    assert (ended.code, ended.err) == (0, "")
    rows = json.loads(ended.out) if output == "json" else list(csv.DictReader(io.StringIO(ended.out)))
    assert len(rows) == 6
    best = next(row for row in rows if (row["checkpoint_digest"], row["task"]) == ("bbbb", "pets"))
    assert float(best["mean"]) == pytest.approx(0.901)
    assert float(best["paper"]) == pytest.approx(0.9473)
    assert float(best["difference"]) == pytest.approx(0.901 - 0.9473)


def test_two_are_compared_with_a_note_on_the_test(tessera, uri):
    ended = tessera("results", "--tracking", uri, "--compare", "newest", "random", "--output", "md")
    assert ended.code == 0
    first, _, header, _, cifar10, pets = ended.out.splitlines()
    assert first.startswith(
        "Better at 2 of 2 (cifar10 +80.00, pets +80.00): nightly@bbbb against nightly (random init)"
    )
    assert header.startswith(
        "| task | protocol | metric | nightly@bbbb | nightly (random init) | difference | seeds | p |"
    )
    assert cifar10.endswith("| 3 / 3 | < 0.001 | better |")
    assert pets.startswith("| pets | finetune | top1 | 90.10 ± 0.10 | 10.10 ± 0.10 | +80.00 |")
    assert "Welch's t over seeds, two-sided" in ended.err


def test_the_best_of_each_task_is_a_table_too(tessera, uri):
    ended = tessera("results", "--tracking", uri, "--best", "--task", "pets")
    assert ended.code == 0
    assert ended.out.splitlines()[-1].split() == [
        *("pets", "finetune", "top1", "nightly@bbbb", "90.10", "±", "0.10", "nightly@aaaa", "80.10", "±", "0.10"),
        *("+10.00", "better", "94.73", "−4.63"),
    ]


def test_what_is_asked_of_mlflow_can_be_seen_without_asking(tessera):
    ended = tessera("results", "nightly", "--task", "vtab/*", "--show-query", "--tracking", "http://127.0.0.1:1")
    assert (ended.code, ended.err) == (0, "")
    assert "tags.`recipe` = 'nightly' AND tags.`tessera.kind` = 'result' AND tags.`task` LIKE 'vtab/%'" in ended.out
    assert "search_logged_models(" in ended.out


def test_nothing_found_ends_with_3_and_what_there_is(tessera, uri):
    ended = tessera("results", "--tracking", uri, "--task", "cifr10")
    assert ended.code == 3
    assert "no results match; there are recipe nightly; task cifar10, pets; protocol finetune; metric top1" in ended.err
    data = tessera("results", "--tracking", uri, "--task", "cifr10", "--output", "json")
    assert (data.code, data.out) == (3, "[]\n")


def test_a_store_without_runs_ends_with_3(tessera, tmp_path):
    ended = tessera("results", "--tracking", fill(tmp_path / "empty.db", []))
    assert (ended.code, ended.out) == (3, "There are no results.\n")
    assert "none were written yet; stages that fine-tune or transfer do that" in ended.err


def test_a_store_that_is_not_there_ends_with_3(tessera, tmp_path):
    ended = tessera("results", "--tracking", f"sqlite:///{tmp_path}/absent.db")
    assert (ended.code, ended.out) == (3, "")
    assert "absent.db: no tracking database; run a recipe first" in ended.err


def test_a_server_that_is_away_ends_with_4(tessera):
    ended = tessera("results", "--tracking", f"http://me:hidden@127.0.0.1:{free_port()}")
    assert (ended.code, ended.out) == (4, "")
    assert "does not answer" in ended.err
    assert "is the server running?" in ended.err
    assert "hidden" not in ended.err
    assert "Traceback" not in ended.err


def test_a_file_that_is_no_database_ends_with_4(tessera, tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database, and never was one\n" * 100)
    ended = tessera("results", "--tracking", f"sqlite:///{tmp_path}/mlflow.db")
    assert (ended.code, ended.out) == (4, ""), ended.err
    assert "mlflow.db" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("results", "--since", "last night"), 2, "since: 'last night' is no time; '24h'"),
        (("results", "--compare", "a", "b", "--best"), 2, "compare: names its two checkpoints"),
        (("champion", "--move"), 2, "recipe: none is named"),
        (("champion", "quickstart", "--task", "a", "--task", "a"), 2, "tasks: must be one or more different ones"),
    ],
)
def test_a_wrong_question_is_told_before_mlflow_is_asked(tessera, words, code, message):
    ended = tessera(*words, "--tracking", "http://127.0.0.1:1")
    assert (ended.code, ended.out) == (code, "")
    assert ended.said[0].startswith(f"error: {message}")


def test_a_champion_is_judged_moved_and_shown(tessera, tmp_path):
    made = [Made("nightly", "aaaa", 0, scores(0.8)), Made("nightly", "bbbb", DAY_S, scores(0.9))]
    uri = fill(tmp_path / "mlflow.db", made)
    none = tessera("champion", "nightly", "--tracking", uri)
    assert (none.code, none.out) == (3, "")
    assert "nightly has no champion yet; `tessera champion nightly --move` makes one" in none.err
    rule = ("--task", "cifar10", "--task", "pets", "--tracking", uri)
    assert "is to be champion: there was none" in tessera("champion", "nightly", *rule).out
    moved = tessera("champion", "nightly", "--move", *rule, "--output", "json")
    told = json.loads(moved.out)
    assert (moved.code, told["moved"], told["line"]["champion"]["checkpoint_digest"]) == (0, True, "bbbb")
    assert json.loads(tessera("champion", "nightly", "--move", *rule, "--output", "json").out)["moved"] is False
    shown = tessera("champion", "--tracking", uri)
    assert shown.code == 0
    assert shown.out.startswith("nightly: nightly@bbbb is champion since 20")
    assert "there was none; its mean is 90.10" in shown.out
