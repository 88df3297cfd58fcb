"""Results side by side: pre-trained against random initialisation. Standard library only, so a terminal may use it.

A row says how one initialisation did at one task under one protocol, over its seeds. `row` makes one, `table` pairs
them, `cells` formats a pair; report, tracking and the command line all show these cells.
"""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PRETRAINED, RANDOM = "pretrained", "random"

COLUMNS = ("task", "protocol", "metric", "pre-trained", "random init", "difference", "verdict")

LEGEND = (
    "Mean ± sample standard deviation over seeds. Better or worse: the difference exceeds the two standard deviations "
    "together; unclear: it does not; one seed: there is no standard deviation to compare it with."
)

_SHARES = {"top1", "top5", "mean_per_class", "accuracy", "real"}  # shown in per cent
_LOWER_IS_BETTER = {"loss", "ece", "error"}


@dataclass(frozen=True)
class Score:
    """One initialisation at one task: `mean` and `std` over `num_seeds` values, in the metric's own unit."""

    mean: float
    std: float
    num_seeds: int
    checkpoint: str
    checkpoint_digest: str
    stage: str


@dataclass(frozen=True)
class Pair:
    """The two initialisations at one task under one protocol; either may be missing.

    `note` tells pairs of one task, protocol and metric apart: the stage that the pre-trained score is from.
    """

    task: str
    protocol: str
    metric: str
    pretrained: Score | None
    random: Score | None
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Pre-trained minus random, or None where one is missing or not a number."""
        if self.pretrained is None or self.random is None:
            return None
        difference = self.pretrained.mean - self.random.mean
        return difference if math.isfinite(difference) else None

    @property
    def verdict(self) -> str:
        """'better', 'worse', 'unclear', 'one seed', or '' where there is nothing to compare."""
        if self.difference is None or self.pretrained is None or self.random is None:
            return ""
        if min(self.pretrained.num_seeds, self.random.num_seeds) < 2:
            return "one seed"
        if not abs(self.difference) > self.pretrained.std + self.random.std:
            return "unclear"
        return "better" if (self.difference > 0) != lower_is_better(self.metric) else "worse"


def row(
    *,
    task: str,
    protocol: str,
    metric: str,
    values: Sequence[float],
    seeds: Sequence[int],
    init: str,
    checkpoint: str,
    checkpoint_digest: str,
    **more: Any,
) -> dict[str, Any]:
    """A row as stages return it: `values[i]` came of `seeds[i]`; `mean` and `std` (n - 1) are added.

    `protocol` is 'finetune', 'linear', 'knn-20', or '5-shot', the number being what `shots` reads. `init` is
    'pretrained' or 'random'. Shares are in [0, 1]. ValueError where values and seeds do not match.
    """
    if not values or len(values) != len(seeds):
        raise ValueError(f"{task}, {protocol}: {len(values)} values for {len(seeds)} seeds; expected one for each")
    if init not in (PRETRAINED, RANDOM):
        raise ValueError(f"{task}, {protocol}: init is {init!r}; expected {PRETRAINED!r} or {RANDOM!r}")
    return {
        "task": task,
        "protocol": protocol,
        "metric": metric,
        "mean": statistics.fmean(values),
        "std": _deviation(values),
        "values": list(values),
        "seeds": list(seeds),
        "init": init,
        "checkpoint": checkpoint,
        "checkpoint_digest": checkpoint_digest,
        **more,
    }


def _deviation(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(rows: Iterable[Mapping[str, Any]]) -> list[Pair]:
    """Every pre-trained row beside its random counterpart, tasks in the order of their first row.

    Rows may carry `stage`, the stage that measured them: where several random rows fit, the one of the same stage is
    taken, else the first. Several pre-trained rows of one task and protocol give a pair each.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for one in rows:
        groups.setdefault((one["task"], one["protocol"], one["metric"]), []).append(one)
    first = {task: place for place, task in reversed(list(enumerate(task for task, _, _ in groups)))}
    ordered = sorted(groups, key=lambda key: (first[key[0]], shots(key[1]) is None, shots(key[1]) or 0))
    return [pair for key in ordered for pair in _pairs(key, groups[key])]


def _pairs(key: tuple[str, str, str], rows: Sequence[Mapping[str, Any]]) -> list[Pair]:
    pretrained = [_score(one) for one in rows if one["init"] != RANDOM]
    random = [_score(one) for one in rows if one["init"] == RANDOM]
    pairs, matched = [], set()
    for score in pretrained:
        other = next((one for one in random if one.stage == score.stage), random[0] if random else None)
        matched.add(other)
        pairs.append(Pair(*key, score, other, score.stage if len(pretrained) > 1 else ""))
    return pairs + [Pair(*key, None, one, one.stage) for one in random if one not in matched]


def _score(one: Mapping[str, Any]) -> Score:
    return Score(
        mean=_number(one["mean"]),
        std=_number(one["std"]),
        num_seeds=len(one["values"]),
        checkpoint=str(one.get("checkpoint") or ""),
        checkpoint_digest=str(one.get("checkpoint_digest") or ""),
        stage=str(one.get("stage") or ""),
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def cells(pair: Pair) -> tuple[str, ...]:
    """A pair as text, one cell for each of `COLUMNS`; a missing side is a dash."""
    protocol = f"{pair.protocol} ({pair.note})" if pair.note else pair.protocol
    difference = "–" if pair.difference is None else figure(pair.difference, metric=pair.metric, sign=True)
    sides = (score_text(side, metric=pair.metric) for side in (pair.pretrained, pair.random))
    return (pair.task, protocol, pair.metric, *sides, difference, pair.verdict)


def score_text(score: Score | None, *, metric: str) -> str:
    """'97.56 ± 0.03', without the deviation where there was one seed."""
    if score is None:
        return "–"
    mean = figure(score.mean, metric=metric)
    return f"{mean} ± {figure(score.std, metric=metric)}" if score.num_seeds > 1 else mean


def figure(value: float, *, metric: str, sign: bool = False) -> str:
    """A value of a metric as text: shares in per cent with two decimals, everything else as it is, with four."""
    if not math.isfinite(value):
        return "not finite"
    scaled, decimals = (100 * value, 2) if is_share(metric) else (value, 4)
    text = f"{scaled:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", "−")


def is_share(metric: str) -> bool:
    """Whether a metric is a share in [0, 1] that is shown in per cent."""
    return metric.rsplit("/", 1)[-1] in _SHARES


def lower_is_better(metric: str) -> bool:
    return metric.rsplit("/", 1)[-1] in _LOWER_IS_BETTER


def shots(protocol: str) -> int | None:
    """5 of '5-shot', None of any other protocol."""
    found = re.fullmatch(r"(\d+)[-_ ]?shots?", protocol)
    return int(found[1]) if found else None


def headline(pairs: Iterable[Pair]) -> str:
    """One sentence that sums the pairs up."""
    verdicts = [pair.verdict for pair in pairs if pair.difference is not None]
    if not verdicts:
        return "Nothing here was measured from both initialisations."
    told = {word: verdicts.count(word) for word in ("better", "worse", "unclear", "one seed")}
    parts = [
        f"clearly better in {told['better']}",
        f"clearly worse in {told['worse']}",
        f"unclear in {told['unclear']}",
        f"measured with one seed in {told['one seed']}",
    ]
    shown = [part for part, count in zip(parts, told.values(), strict=True) if count]
    noun = "comparison" if len(verdicts) == 1 else "comparisons"
    return f"Pre-trained against random initialisation, {len(verdicts)} {noun}: {', '.join(shown)}."
