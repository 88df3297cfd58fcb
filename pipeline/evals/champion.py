"""When a new checkpoint takes the place of the one in use: a rule that is declared, and what it says of two of them.

Standard library only: a recipe declares its rule as `champion()`, beside `stages()`. Nothing here moves anything.
"""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pipeline.evals import compare
from pipeline.evals.welch import Sample


@dataclass(frozen=True)
class Rule:
    """Better on the mean over `tasks` by more than `stds` pooled standard deviations, and by more than `least`.

    All tasks are of one `protocol` and one `metric`; `least` is in the metric's own unit (0.001: a tenth of a per cent
    point of top-1). The pooled standard deviation is s = sqrt(mean over tasks of s_t^2), with
    s_t^2 = ((n - 1) s^2 + (n' - 1) s'^2) / (n + n' - 2) over the seeds of both. It is that of one task, not of the
    mean, which would be smaller by sqrt(number of tasks): a champion is not to change with the weather.
    With one seed a side s is unknown, and only a rule without it (`stds` 0, a `least`) can be followed.
    """

    tasks: tuple[str, ...]
    protocol: str = "finetune"
    metric: str = "top1"
    stds: float = 1.0
    least: float = 0.0

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(
                f"tasks: must be one or more different ones, such as ('cifar10', 'pets'), got {self.tasks}"
            )
        for name in ("stds", "least"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name}: must be 0 or more, got {getattr(self, name)}")
        if self.stds == self.least == 0:
            raise ValueError("stds, least: both are 0, and chance alone would move the champion; give one of them")

    @property
    def text(self) -> str:
        """In words."""
        by = [f"{self.stds:g} x the pooled std over seeds"] if self.stds else []
        by += [compare.figure(self.least, metric=self.metric)] if self.least else []
        return (
            f"better on the mean of {', '.join(self.tasks)} ({self.protocol}, {self.metric}) by more than "
            f"{' and by more than '.join(by)}"
        )

    def json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Ruling:
    """`moves`: whether the challenger is to be champion, and in `why` one sentence with the figures."""

    moves: bool
    why: str


def judge(rule: Rule, *, challenger: Mapping[str, Sample], champion: Mapping[str, Sample] | None) -> Ruling:
    """What the rule says, of each task's sample by name; `champion` is None where there is none yet."""
    if missing := [task for task in rule.tasks if not _is_sound(challenger.get(task))]:
        return Ruling(False, f"it has no {rule.protocol} {rule.metric} of {', '.join(missing)}")
    if champion is None:
        return Ruling(True, f"there was none; its mean is {_figure(rule, _mean(rule, challenger))}")
    if missing := [task for task in rule.tasks if not _is_sound(champion.get(task))]:
        return Ruling(False, f"the champion has no {rule.protocol} {rule.metric} of {', '.join(missing)}")
    new, old = _mean(rule, challenger), _mean(rule, champion)
    ahead = old - new if compare.lower_is_better(rule.metric) else new - old
    spread = pooled_std(rule, challenger, champion) if rule.stds else 0.0
    if spread is None:
        return Ruling(
            False,
            f"the mean is {_figure(rule, ahead, sign=True)}, but one seed a side has no standard deviation to be above",
        )
    asked = max(rule.stds * spread, rule.least)
    told = f"mean {_figure(rule, old)} -> {_figure(rule, new)}, better by {_figure(rule, ahead, sign=True)}"
    return Ruling(ahead > asked, f"{told}; asked is more than {_figure(rule, asked)}")


def pooled_std(rule: Rule, a: Mapping[str, Sample], b: Mapping[str, Sample]) -> float | None:
    """s of `Rule`; None where a task has one seed on both sides."""
    variances = []
    for task in rule.tasks:
        one, other = a[task], b[task]
        free = one.num + other.num - 2
        if free < 1:
            return None
        variances.append(((one.num - 1) * one.std**2 + (other.num - 1) * other.std**2) / free)
    spread = math.sqrt(statistics.fmean(variances))
    return spread if math.isfinite(spread) else None


def _is_sound(sample: Sample | None) -> bool:
    return sample is not None and math.isfinite(sample.mean)


def _mean(rule: Rule, samples: Mapping[str, Sample]) -> float:
    return statistics.fmean(samples[task].mean for task in rule.tasks)


def _figure(rule: Rule, value: float, *, sign: bool = False) -> str:
    return compare.figure(value, metric=rule.metric, sign=sign)
