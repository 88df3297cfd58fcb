"""Two checkpoints side by side, result by result: what differs, whether by more than seeds do, and in one sentence.

The test is Welch's t over seeds (`pipeline.evals.welch`): two-sided, at 5 %, for each result by itself.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from launch.checkpoint import Checkpoint
from launch.query import Row, finite
from pipeline.evals import compare, vtab
from pipeline.evals.welch import LEVEL, Sample, Welch, welch

MOST_NAMED = 3  # results of one kind in a sentence

NOTE = (
    f"Better or worse: p < {LEVEL:g} by Welch's t over seeds, two-sided, each result by itself, so that about one in "
    f"{round(1 / LEVEL)} differs by chance. One seed, no spread: no test is possible. Seeds are of the transfer: how "
    "much another pre-training would differ is not in them."
)

_SAID = {"unclear": "no clear difference", "one seed": "not tested, with one seed,"}
_ORDER = ("better", "worse", "unclear", "equal", "one seed", "no spread", "not finite")


@dataclasses.dataclass(frozen=True)
class Duel:
    """One result of both; `a` or `b` is None where only the other has it. `test` is None where none is possible."""

    column: tuple[str, str, str]
    a: Row | None
    b: Row | None

    @property
    def difference(self) -> float | None:
        """a's mean less b's."""
        if self.a is None or self.b is None:
            return None
        return finite(self.a.mean - self.b.mean)

    @property
    def test(self) -> Welch | None:
        return None if self.a is None or self.b is None else welch(sample(self.a), sample(self.b))

    @property
    def verdict(self) -> str:
        """Of a: better, worse, unclear, equal, one seed, no spread, not finite, or '' where there is no pair."""
        if self.a is None or self.b is None:
            return ""
        if self.difference is None:
            return "not finite"
        if min(len(self.a.seeds), len(self.b.seeds)) < 2:
            return "one seed"
        if self.test is None:
            return "no spread" if self.difference else "equal"
        if self.test.p >= LEVEL:
            return "unclear"
        return "better" if self.is_ahead else "worse"

    @property
    def is_ahead(self) -> bool:
        return bool(self.difference) and ((self.difference or 0.0) > 0) != compare.lower_is_better(self.column[2])

    @property
    def is_mean(self) -> bool:
        """A mean of other results, which are there too."""
        task = self.column[0]
        return task.startswith(vtab.PREFIX) and task.removeprefix(vtab.PREFIX) not in vtab.TASKS


def sample(row: Row) -> Sample:
    return Sample(row.mean, row.std, len(row.seeds))


def duels(a: Iterable[Row], b: Iterable[Row]) -> list[Duel]:
    """Every result of either, in the order of `column_order`."""
    ours, theirs = ({row.column: row for row in rows} for rows in (a, b))
    columns = sorted({*ours, *theirs}, key=column_order)
    return [Duel(column, ours.get(column), theirs.get(column)) for column in columns]


def column_order(column: tuple[str, str, str]) -> tuple[Any, ...]:
    """Tasks by name, VTAB's last and as papers have them, means before them; shots by number, top-1 first."""
    task, protocol, metric = column
    name = task.removeprefix(vtab.PREFIX)
    known = [vtab.ALL, *vtab.GROUPS, *vtab.TASKS]
    place = known.index(name) if name != task and name in known else -1
    return (place, task, compare.shots(protocol) or 0, protocol, metric != "top1", metric)


def chief(found: Sequence[Duel]) -> list[Duel]:
    """Those that a sentence counts: what both have, no mean beside its tasks, and top-1 where there is any."""
    both = [duel for duel in found if duel.a is not None and duel.b is not None]
    pairs = [duel for duel in both if not duel.is_mean] or both
    return [duel for duel in pairs if duel.column[2] == "top1"] or pairs


def headline(found: Sequence[Duel], a: str, b: str) -> str:
    """One sentence: at what a is better than b, and at what worse."""
    pairs = chief(found)
    if not pairs:
        return f"Nothing to compare: {a} and {b} have no result in common."
    by_verdict = {word: [duel for duel in pairs if duel.verdict == word] for word in _ORDER}
    first, *others = ((word, duels) for word, duels in by_verdict.items() if duels)
    told = ", ".join([_part(*first, of=pairs, total=f" of {len(pairs)}"), *(_part(*one, of=pairs) for one in others)])
    tested = sum(len(by_verdict[word]) for word in ("better", "worse", "unclear"))
    chance = f" About {tested * LEVEL:.0f} of {tested} differ by chance." if tested * LEVEL > 1 else ""
    return f"{told[0].upper()}{told[1:]}: {a} against {b}.{_mean_of_vtab(found)}{chance}"


def _part(word: str, duels: Sequence[Duel], *, of: Sequence[Duel], total: str = "") -> str:
    """'better at 2 of 6 (pets +0.62, cifar10 +0.41)', the largest differences first."""
    count = f"{_SAID.get(word, word)} at {len(duels)}{total}"
    if word in ("unclear", "equal", "not finite"):
        return count
    largest = sorted(duels, key=lambda duel: -abs(duel.difference or 0.0))
    named = ", ".join(f"{_named(duel, of)} {difference(duel)}" for duel in largest[:MOST_NAMED])
    return f"{count} ({named}{f' and {len(duels) - MOST_NAMED} more' if len(duels) > MOST_NAMED else ''})"


def _named(duel: Duel, of: Sequence[Duel]) -> str:
    task, protocol, metric = duel.column
    several = sum(other.column[0] == task for other in of) > 1
    return f"{task} {protocol}{f' {metric}' if metric != 'top1' else ''}" if several else task


def _mean_of_vtab(found: Sequence[Duel]) -> str:
    for duel in found:
        if duel.column[0] == f"{vtab.PREFIX}{vtab.ALL}" and duel.difference is not None:
            return f" Mean of VTAB-1k {difference(duel)}{f' ({duel.verdict})' if duel.verdict else ''}."
    return ""


def difference(duel: Duel) -> str:
    """'+0.41', or a dash where there is none."""
    found = duel.difference
    return "–" if found is None else compare.figure(found, metric=duel.column[2], sign=True)


def score(row: Row | None) -> str:
    """'97.56 ± 0.03', a dash where there is nothing."""
    if row is None:
        return "–"
    return compare.score_text(compare.Score(row.mean, row.std, len(row.seeds), "", "", ""), metric=row.metric)


def cells(found: Sequence[Duel], a: str, b: str) -> list[tuple[str, ...]]:
    """The table, with its header."""
    lines = [("task", "protocol", "metric", a, b, "difference", "seeds", "p", "verdict")]
    for duel in found:
        seeds = " / ".join("–" if row is None else str(len(row.seeds)) for row in (duel.a, duel.b))
        p = "–" if duel.test is None else f"{duel.test.p:.3f}" if duel.test.p >= 0.001 else "< 0.001"
        told = (score(duel.a), score(duel.b), difference(duel), seeds, p, duel.verdict or "only one has it")
        lines.append((*duel.column, *told))
    return lines


def as_data(found: Sequence[Duel], a: Checkpoint, b: Checkpoint) -> dict[str, Any]:
    """The same for programs."""
    return {
        "headline": headline(found, a.name, b.name),
        "a": {"name": a.name, **dataclasses.asdict(a)},
        "b": {"name": b.name, **dataclasses.asdict(b)},
        "test": "Welch's t over seeds, two-sided",
        "level": LEVEL,
        "comparisons": [_plain(duel) for duel in found],
    }


def _plain(duel: Duel) -> dict[str, Any]:
    told: dict[str, Any] = dict(zip(("task", "protocol", "metric"), duel.column, strict=True))
    for side, row in (("a", duel.a), ("b", duel.b)):
        told[side] = row and {
            "mean": finite(row.mean),
            "std": finite(row.std),
            "seeds": row.seeds,
            "run_id": row.run_id,
        }
    test = duel.test
    told |= {"difference": duel.difference, "t": test and finite(test.t), "df": test and test.df, "p": test and test.p}
    return told | {"verdict": duel.verdict or None}
