"""The first sentence of an answer and the tables below it, from an MLflow with some hundred runs."""

import pytest

from launch import answer, matrix
from launch.checkpoint import NAMES, resolve, resolve_both, variant
from launch.query import Asked
from pipeline.evals import vtab
from pipeline.tracking import read
from pipeline.tracking.client import connect
from tests.mlflow_store import START_S, Made, fill

DAY_S = 86_400
TASKS = ("cifar10", "pets", "flowers102")


def scores(*shift: float, base: float = 0.9, tasks=TASKS, protocol="finetune", metric="top1"):
    """Three seeds a task, a tenth of a per cent apart; the i-th task is better by the i-th shift."""
    by_task = zip(tasks, [*shift, *[0.0] * len(tasks)], strict=False)
    return {(task, protocol, metric): [base + own + seed / 1000 for seed in range(3)] for task, own in by_task}


def nights(number: int, **more) -> list[Made]:
    """Checkpoints of `nightly`, 0000 the first; each is better than the one before at pets and worse at cifar10."""
    return [
        Made("nightly", f"{night:04x}", night * DAY_S, scores(-night / 200, night / 100), **more)
        for night in range(number)
    ]


@pytest.fixture
def store(tmp_path):
    return lambda *made: fill(tmp_path / "mlflow.db", made)


def told(uri: str, asked: Asked = Asked(), **more) -> str:  # noqa: B008  it is frozen
    return answer.headline(uri, asked, answer.gather(uri, asked, **more))


def test_the_first_sentence_is_what_the_newest_is_better_at_than_the_one_before(store):
    assert told(store(*nights(3))) == (
        "Better at 1 of 3 (pets +1.00), worse at 1 (cifar10 −0.50), no clear difference at 1: nightly@0002 of "
        "2026-11-26 07:00 against the one before, nightly@0001 of 2026-11-25 07:00."
    )


def test_the_newest_is_the_one_made_last_and_not_the_one_measured_last(store):
    late = Made("nightly", "0000", 9 * DAY_S, scores(tasks=("dtd",)), is_new=False)
    assert told(store(*nights(2), late)).partition(": ")[2].startswith("nightly@0001 of 2026-11-25 07:00 against")


def test_weights_that_nothing_was_measured_of_are_told_first(store):
    uri = store(*nights(2), Made("nightly", "ffff", 5 * DAY_S))
    assert told(uri).startswith("Not measured yet: nightly@ffff of 2026-11-29 07:00. Before it: better at 1 of 3 (")


def test_with_one_checkpoint_a_draw_is_what_it_is_compared_with(store):
    uri = store(nights(1)[0], Made("nightly", "", DAY_S, scores(base=0.5)))
    assert told(uri).startswith("Better at 3 of 3 (cifar10 +40.00, ")
    assert told(uri).endswith("against nightly (random init).")


def test_one_alone_and_draws_alone_and_nothing_are_called_that(store, tmp_path):
    assert told(store(nights(1)[0])).startswith("Nothing to compare with: nightly@0000 of 2026-11-24 07:00 is the only")
    draws = fill(tmp_path / "draws.db", [Made("nightly", "", 0, scores())])
    assert told(draws) == "Only random initialisations have such results."
    assert told(fill(tmp_path / "empty.db", [])) == "There are no results."


def test_since_chooses_what_is_shown_and_not_what_it_is_compared_with(store):
    uri = store(*nights(3))
    since = Asked(since_ms=(START_S + 2 * DAY_S) * 1000)
    assert told(uri, since) == told(uri)
    assert {one.digest for one in answer.gather(uri, since).checkpoints} == {"0002"}


def test_stages_that_did_not_finish_since_are_told_with_the_reason(store):
    ends = {"transfer/pets": "FAILED", "transfer/dtd": "KILLED", "transfer/svhn": "RUNNING", "report": "FINISHED"}
    before = Made("nightly", "0000", 0, scores(), data="i21k", ends={"transfer/old": "FAILED"})
    uri = store(before, Made("nightly", "0001", DAY_S, data="i21k", ends=ends))
    found = answer.gather(uri, Asked())
    assert sorted(answer.remarks(uri, Asked(), found)) == [
        "nightly: transfer/dtd was stopped, 2026-11-25 07:00",
        "nightly: transfer/pets failed, 2026-11-25 07:00 (RuntimeError: loss is nan)",
        "nightly: transfer/svhn is running since 2026-11-25 07:00, or its process was lost",
    ]


def test_a_stage_that_was_run_again_and_finished_is_no_failure(store):
    again = Made("nightly", "0001", DAY_S, ends={"transfer/pets": "FINISHED"})
    uri = store(Made("nightly", "0000", 0, ends={"transfer/pets": "FAILED"}), again)
    assert answer.unfinished(uri, recipe=None, since_ms=None) == []


def test_what_papers_report_stands_beside_models_and_data_that_they_name(store):
    ours = {**scores(tasks=("cifar10",), base=0.99), **scores(tasks=("cifar10",), protocol="5-shot")}
    uri = store(
        Made("nightly", "aaaa", 0, ours, model="L/16", data="ImageNet-21k"),
        Made("nightly", "bbbb", DAY_S, ours, model="L/16", data="own photographs"),
        Made("nightly", "cccc", 2 * DAY_S, ours, data="imagenet21k"),
    )
    found = answer.gather(uri, Asked())
    beside = {(row.checkpoint_digest, row.protocol): (row.paper, row.paper_table, row.model) for row in found.rows}
    assert beside["aaaa", "finetune"] == (pytest.approx(0.9916), "[ViT] Table 5", "L/16")
    assert beside["bbbb", "finetune"] == (None, "", "L/16")
    assert beside["cccc", "finetune"] == (None, "", "")
    assert beside["aaaa", "5-shot"] == (None, "", "L/16")
    shown = matrix.columns(found.rows, Asked())
    lines = matrix.table(found.rows, found.checkpoints, shown=shown, champions=found.champions)
    assert [line[0].strip() for line in lines] == [
        *("checkpoint", "", "nightly@cccc", "nightly@bbbb", "nightly@aaaa"),
        *("[ViT] L/16, ImageNet-21k", "difference"),
    ]
    assert [line[2] for line in lines[-3:]] == ["99.10 ± 0.10 (3)", "99.16", "−0.06"]


def test_a_variant_is_named_by_its_sizes():
    sizes = {"width": "1024", "depth": "24", "heads": "16", "mlp_dim": "4096", "patch_px": "32"}
    assert variant(sizes) == "L/32"
    assert variant({**sizes, "depth": "23"}) == variant({}) == ""


def test_vtab_is_shown_by_its_groups_and_a_mean_of_fewer_tasks_is_none(store):
    whole = scores(tasks=tuple(f"vtab/{task}" for task in vtab.TASKS))
    fewer = {column: values for column, values in whole.items() if column[0] != "vtab/svhn"}
    uri = store(Made("nightly", "aaaa", 0, whole), Made("nightly", "bbbb", DAY_S, fewer))
    found = answer.gather(uri, Asked())
    shown = matrix.columns(found.rows, Asked())
    assert [task for task, _, _ in shown] == [f"vtab/{name}" for name in ("all", *vtab.GROUPS)]
    lines = matrix.table(found.rows, found.checkpoints, shown=shown, champions=())
    assert lines[2][2:5] == ("18 of 19 tasks", "6 of 7 tasks", "90.10 ± 0.10 (3)")
    assert lines[3][2:5] == ("90.10 ± 0.10 (3)",) * 3
    single = answer.gather(uri, Asked(task="vtab/*"))
    assert len(matrix.columns(single.rows, Asked(task="vtab/*"))) == 19 + 4


def test_top_1_and_real_are_shown_unless_others_are_asked_for(store):
    ours = scores() | scores(metric="real") | scores(metric="ece")
    rows = answer.gather(store(Made("nightly", "aaaa", 0, ours)), Asked()).rows
    assert {column[2] for column in matrix.columns(rows, Asked())} == {"top1", "real"}
    assert {column[2] for column in matrix.columns(rows, Asked(metric="ece"))} == {"top1", "real", "ece"}
    only = [row for row in rows if row.metric == "ece"]
    assert {column[2] for column in matrix.columns(only, Asked())} == {"ece"}


def test_the_best_of_each_task_stands_beside_the_next(store):
    draw = Made("nightly", "", 0, scores(base=0.1) | scores(metric="loss", base=0.1))
    uri = store(
        *nights(3), draw, Made("nightly", "0009", 3 * DAY_S, scores(base=0.8) | scores(metric="loss", base=0.4))
    )
    found = answer.gather(uri, Asked())
    best = {line[:3]: line[3:] for line in matrix.best_table(found.rows, found.checkpoints)[1:]}
    assert best["pets", "finetune", "top1"][:6] == (
        *("nightly@0002", "92.10 ± 0.10", "nightly@0001", "91.10 ± 0.10"),
        *("+1.00", "better"),
    )
    assert best["cifar10", "finetune", "top1"][0] == "nightly@0000"
    assert best["pets", "finetune", "loss"][0] == "nightly (random init)"


def test_names_of_checkpoints(store):
    odd = Made("study", "dddd", 5 * DAY_S, scores(), uri="/runs/study/half-data/weights.safetensors")
    uri = store(*nights(3), Made("nightly", "", 0, scores(base=0.1)), Made("study", "", 0, scores()), odd)
    found = answer.gather(uri, Asked())

    def one(name: str, recipe: str = "nightly") -> str:
        return resolve(name, found.checkpoints, lines=found.lines, recipe=recipe).name

    assert [one(name) for name in ("newest", "previous", "random")] == [
        *("nightly@0002", "nightly@0001", "nightly (random init)"),
    ]
    assert one("newest", recipe="") == one("dd") == one("study") == "study/half-data@dddd"
    assert one("0001") == one("nightly@0001") == "nightly@0001"
    assert one("/runs/study/half-data/weights.safetensors") == "study/half-data@dddd"
    both = resolve_both("random", "study", found.checkpoints, lines=found.lines)
    assert [side.name for side in both] == ["study (random init)", "study/half-data@dddd"]
    with pytest.raises(ValueError, match="'000': may be nightly@0002 or nightly@0001 or nightly@0000; say more"):
        one("000")
    with pytest.raises(ValueError, match=r"'random': may be .*random init.* or .*random init"):
        one("random", recipe="")
    for name in ("", "beef", "champion"):
        with pytest.raises(
            FileNotFoundError, match="no such checkpoint has results; there are study/half-data@dddd, n"
        ):
            one(name)
    assert "champion" in NAMES


def test_a_recipe_with_odd_characters_is_answered_like_any_other(store):
    name = "it's a|b\n100% x; -- _"
    uri = store(Made(name, "aaaa", 0, scores()), Made(name, "bbbb", DAY_S, scores(0.1)))
    assert told(uri, Asked(name)).startswith("Better at 1 of 3 (cifar10 +10.00)")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Forty nights of twenty results: eight hundred and forty runs."""
    tasks = tuple(f"task{number}" for number in range(20))
    made = [Made("nightly", f"{n:04x}", n * DAY_S, scores(n / 1000, tasks=tasks), data="i21k") for n in range(40)]
    return fill(tmp_path_factory.mktemp("many") / "mlflow.db", made)


@pytest.fixture
def requests(monkeypatch):
    """The names of MLflow's functions that are called."""
    seen, ask = [], read.ask

    def spy(uri, function, *args, **kwargs):
        seen.append(function.__name__)
        return ask(uri, function, *args, **kwargs)

    monkeypatch.setattr(read, "ask", spy)
    return seen


def test_the_number_of_requests_is_that_of_pages_and_not_of_checkpoints(many, requests, tmp_path, monkeypatch):
    told(many)
    of_many = len(requests)
    requests.clear()
    told(fill(tmp_path / "few.db", nights(2)))
    assert of_many == len(requests) + 1  # a second page of results
    monkeypatch.setattr(read, "PAGE_RUNS", 100)
    requests.clear()
    assert len(answer.gather(many, Asked()).rows) == 800
    assert requests.count("search_runs") == 8 + 1


def test_of_many_checkpoints_the_newest_are_read_and_their_results_are_whole(many, requests):
    found = answer.gather(many, Asked(), newest=5)
    assert found.is_part
    assert [one.digest for one in found.checkpoints] == [f"{n:04x}" for n in range(39, 34, -1)]
    assert all(len(found.of(one)) == 20 for one in found.checkpoints)
    assert answer.headline(many, Asked(), found) == told(many)
    assert not answer.gather(many, Asked(), newest=40).is_part
    lines = matrix.table(found.rows, found.checkpoints, shown=matrix.columns(found.rows, Asked()), champions=(), most=3)
    assert len(lines) == 2 + 3


def test_whoever_finds_nothing_is_told_what_there_is(many, tmp_path):
    assert answer.choices(many).startswith("there are recipe nightly; task task0, task1, task10, ")
    assert "..., " not in answer.choices(many)
    assert "; protocol finetune; metric top1; the newest of 2027-01-02T" in answer.choices(many)
    assert answer.choices(fill(tmp_path / "empty.db", [])).startswith("none were written yet")


def test_queries_are_what_mlflow_takes(many):
    client, asked = connect(many, create=False), Asked("nightly", task="task1*")
    assert repr(str(asked.query)) in answer.queries(asked)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    assert len(client.search_runs(ids, str(asked.query), max_results=1000)) == 40 * 11
