"""Seconds to answer `tessera results` from a database of many runs: ours against bare queries of MLflow, in one run.

    python tests/bench/results_query.py                         # 10,000 runs, 344 checkpoints among them
    python tests/bench/results_query.py --runs 600 --rounds 2 --out results_query.json

All contenders are timed in turn, round after round; figures are medians of rounds, ratios those of the rounds
themselves. Importing MLflow, which every one of them needs, is told apart. `requests` is how many searches the client
made, `found` how many results. Prints one JSON object, and the table on stderr. `--out` is rewritten after every round.
"""

import argparse
import contextlib
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

from launch import answer, matrix
from launch.query import Asked
from pipeline.evals import vtab
from pipeline.tracking.client import connect
from tests.mlflow_store import Made, fill

COLUMNS = [(task, "finetune", "top1") for task in ("cifar10", "cifar100", "pets", "flowers102", "imagenet1k")]
COLUMNS += [(f"vtab/{task}", "finetune", "top1") for task in vtab.TASKS]
COLUMNS += [("imagenet1k", f"{shots}-shot", "top1") for shots in (1, 5, 10, 25)]
SEARCHES = ("search_runs", "search_logged_models", "search_registered_models", "search_model_versions", "get_run")

Contender = Callable[[str], int]  # from the URI to how many results it has found


def ours(uri: str) -> int:
    """All that the command prints: the first sentence, and the newest checkpoints beside the paper and VTAB's means."""
    return _answered(uri, newest=matrix.MOST_ROWS)


def ours_all(uri: str) -> int:
    """The same with --all: every checkpoint there ever was."""
    return _answered(uri, newest=None)


def _answered(uri: str, *, newest: int | None) -> int:
    asked = Asked("nightly")
    found = answer.gather(uri, asked, newest=newest)
    answer.headline(uri, asked, found)
    answer.remarks(uri, asked, found)
    shown = matrix.columns(found.rows, asked)
    matrix.table(found.rows, found.checkpoints, shown=shown, champions=found.champions, most=newest)
    return sum(bool(row.run_id) for row in found.rows)


def bare(uri: str) -> int:
    """The one query that results need, page by page, and nothing made of it."""
    return sum(1 for _ in _results(uri))


def frame(uri: str) -> int:
    """The same as a pandas table, as MLflow's documentation has it."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    return len(mlflow.search_runs(search_all_experiments=True, filter_string=str(Asked("nightly").query)))


def one_by_one(uri: str) -> int:
    """The ids first, and then every run by itself."""
    client = connect(uri, create=False)
    return sum(client.get_run(run.info.run_id) is not None for run in _results(uri))


CONTENDERS: dict[str, Contender] = {
    "ours": ours,
    "ours, --all": ours_all,
    "bare search_runs": bare,
    "mlflow.search_runs, pandas": frame,
    "get_run for each": one_by_one,
}


def _results(uri: str) -> Iterator[Any]:
    client, token = connect(uri, create=False), None
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    while True:
        page = client.search_runs(ids, str(Asked("nightly").query), max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def made(num_runs: int) -> Iterator[Made]:
    """Checkpoints of one recipe, a night apart, each measured once in every column."""
    draw = random.Random(0)
    for night in range(max(1, num_runs // (len(COLUMNS) + 1))):
        scores = {column: [draw.gauss(0.9, 0.01) for _ in range(3)] for column in COLUMNS}
        yield Made("nightly", f"{night:016x}", night * 86_400, scores, model="L/16", data="imagenet21k")


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """The searches that clients make meanwhile."""
    from mlflow import MlflowClient

    told: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        original = getattr(MlflowClient, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            told.append(name)
            return original(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for name in SEARCHES:
            stack.enter_context(mock.patch.object(MlflowClient, name, watched(name)))
        yield told


def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    import mlflow  # noqa: F401  to be timed

    imported_s = time.perf_counter() - started
    uri = fill(folder / "mlflow.db", made(asked.runs))
    seen: dict[str, Any] = {"bench": "results_query", **_about(), "runs": asked.runs, "import_s": round(imported_s, 3)}
    names = [name for name in CONTENDERS if name != "get_run for each" or asked.runs <= asked.one_by_one]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    searches, found = {}, {}
    for _ in range(asked.rounds):
        for name in names:
            with counted() as told:
                begun = time.perf_counter()
                found[name] = CONTENDERS[name](uri)
                seconds[name].append(time.perf_counter() - begun)
            searches[name] = len(told)
        seen["results"] = [_row(name, seconds, found[name], searches[name]) for name in names]
        if asked.out:
            Path(asked.out).write_text(json.dumps(seen, indent=1) + "\n")
    return seen


def _row(name: str, seconds: dict[str, list[float]], found: int, searches: int) -> dict[str, Any]:
    ratios = [mine / other for mine, other in zip(seconds["ours"], seconds[name], strict=True)]
    told = {"contender": name, "found": found, "requests": searches, "seconds": [round(s, 4) for s in seconds[name]]}
    median = round(statistics.median(seconds[name]), 4)
    return told | {"median_s": median, "ours_over_this": round(statistics.median(ratios), 3)}


def _about() -> dict[str, Any]:
    from mlflow.version import VERSION

    command = "python " + " ".join(["tests/bench/results_query.py", *sys.argv[1:]])
    return {"device": platform.machine(), "mlflow": VERSION, "date": time.strftime("%Y-%m-%d"), "command": command}


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--runs", type=int, default=10_000)
    told.add_argument("--rounds", type=int, default=5)
    told.add_argument("--one-by-one", type=int, default=2_000, help="leave out the slowest for more runs than these")
    told.add_argument("--out", help="a file for the JSON, rewritten after every round")
    asked = told.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = run(asked, Path(folder))
    for row in seen["results"]:
        print(
            f"{row['contender']:28} {row['median_s']:8.3f} s  {row['requests']:5} requests  {row['found']:6} results   "
            f"ours / this {row['ours_over_this']:.2f}",
            file=sys.stderr,
        )
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
