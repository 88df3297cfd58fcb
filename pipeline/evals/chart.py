"""Charts of findings as inline SVG whose colours are CSS variables of the page."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.evals import compare
from pipeline.evals.compare import Pair, Score
from pipeline.evals.findings import Point
from pipeline.evals.style import styled

# matplotlib wants colours, the page wants variables that follow light, dark and print: each stands for one.
_INK, _RULE, _PRETRAINED, _RANDOM, _PAPER = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05"
_VARIABLES = {_INK: "ink-2", _RULE: "rule", _PRETRAINED: "pretrained", _RANDOM: "random", _PAPER: "paper"}
_SIDES = (("pretrained", "pre-trained", _PRETRAINED, "o", "-"), ("random", "random init", _RANDOM, "s", "--"))

_WIDTH_IN = 9.5  # of the page's column, at 96 px to the inch

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tessera",
    "text.parse_math": False,
    "axes.prop_cycle": f"cycler('color', ['{_PRETRAINED}'])",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.6,
    "grid.color": _RULE,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def history(points: Sequence[Point]) -> str:
    """Loss, learning rate, images/s and time spent waiting for data, each against finished steps."""
    panels = (("Loss", 1, 1.0), ("Learning rate", 2, 1.0), ("Images/s", 3, 1.0), ("Waiting for data, %", 4, 100.0))

    def draw(figure: Any) -> None:
        for axes, (title, column, factor) in zip(figure.subplots(2, 2).flat, panels, strict=True):
            axes.plot([p[0] for p in points], [factor * p[column] for p in points], color=_PRETRAINED, linewidth=1.4)
            axes.set_title(title)
            axes.margins(x=0.01, y=0.12)
            axes.xaxis.set_major_locator(_locator(5, integer=True))
            if column != 1:
                axes.set_ylim(bottom=0)
        figure.supxlabel("finished steps", fontsize=9)

    return _svg("history", draw, width_in=_WIDTH_IN, height_in=4.8)


def few_shot(pairs: Sequence[Pair]) -> str:
    """Accuracy against shots, a panel for each task and metric; bars are standard deviations over seeds."""
    groups: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in pairs:
        if compare.shots(pair.protocol) is not None:
            groups.setdefault((pair.task, pair.metric, pair.note), []).append(pair)
    if not groups:
        return ""
    columns = 3 if len(groups) > 2 else 2
    rows = math.ceil(len(groups) / columns)

    def draw(figure: Any) -> None:
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, group in zip(panels, groups.values(), strict=False):
            _shots_panel(axes, group)
            axes.set_title(_row_label(group[0]))
            axes.set_ylabel(_unit(group[0].metric))
        for axes in panels[len(groups) :]:
            axes.set_axis_off()
        figure.supxlabel("images per class", fontsize=9)
        _legend(figure, panels)

    return _svg("few-shot", draw, width_in=_WIDTH_IN * columns / 3, height_in=0.7 + 2.3 * rows)


def _shots_panel(axes: Any, group: Sequence[Pair]) -> None:
    ticks = sorted({compare.shots(pair.protocol) or 0 for pair in group})
    for side, label, color, marker, line in _SIDES:
        found = [(compare.shots(pair.protocol), getattr(pair, side)) for pair in group]
        points = [(shots, *_scaled(score, group[0].metric)) for shots, score in found if score]
        if points:
            x, mean, std = zip(*points, strict=True)
            shape = {"color": color, "marker": marker, "linestyle": line, "markersize": 4.5, "linewidth": 1.4}
            axes.errorbar(x, mean, yerr=std, label=label, capsize=2.5, elinewidth=1, **shape)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)


def bars(pairs: Sequence[Pair]) -> str:
    """Every protocol but few-shot, a panel each: tasks as rows, the two initialisations as bars, in per cent."""
    chosen = [pair for pair in pairs if compare.shots(pair.protocol) is None and compare.is_share(pair.metric)]
    if not chosen:
        return ""
    tasks = list(dict.fromkeys(map(_row_label, chosen)))
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in chosen:
        groups.setdefault((pair.protocol, pair.metric), []).append(pair)
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)

    def draw(figure: Any) -> None:
        panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for axes, ((protocol, metric), group) in zip(panels, groups.items(), strict=False):
            _bars_panel(axes, group, [tasks.index(_row_label(pair)) for pair in group])
            axes.set_title(protocol)
            axes.set_xlabel(_unit(metric))
        for axes in panels[len(groups) :]:
            axes.set_axis_off()
        panels[0].set_yticks(range(len(tasks)), tasks)
        panels[0].set_ylim(len(tasks) - 0.5, -0.5)
        _legend(figure, panels)

    return _svg("bars", draw, width_in=_WIDTH_IN, height_in=0.5 + rows * (0.7 + 0.42 * len(tasks)))


def _bars_panel(axes: Any, group: Sequence[Pair], places: Sequence[int]) -> None:
    for offset, (side, label, color, _, _) in zip((-0.19, 0.19), _SIDES, strict=True):
        for place, pair in zip(places, group, strict=True):
            if score := getattr(pair, side):
                mean, std = _scaled(score, pair.metric)
                whisker = std if score.num_seeds > 1 else None
                shape = {"color": color, "ecolor": _INK, "capsize": 2, "error_kw": {"elinewidth": 1}}
                axes.barh(place + offset, mean, 0.34, xerr=whisker, label=label, **shape)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 100)


def _row_label(pair: Pair) -> str:
    return " · ".join(part for part in (pair.task, pair.note) if part)


def _legend(figure: Any, panels: Sequence[Any]) -> None:
    """One legend over all panels, an entry for each side that any of them shows."""
    handles = {}
    for axes in panels:
        shown, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, shown, strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=2)


def _scaled(score: Score, metric: str) -> tuple[float, float]:
    factor = 100.0 if compare.is_share(metric) else 1.0
    return factor * score.mean, factor * score.std


def _unit(metric: str) -> str:
    name = metric.replace("_", " ").replace("top1", "top-1").replace("top5", "top-5")
    return f"{name}, %" if compare.is_share(metric) else name


def _locator(bins: int, *, integer: bool) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(bins, integer=integer)


def _svg(name: str, draw: Callable[[Any], None], *, width_in: float, height_in: float) -> str:
    """The drawing as an <svg> element: the same bytes for the same input, colours as variables, ids of its own."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    nothing: Mapping[str, None] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    buffer = io.StringIO()
    with styled(_STYLE):
        figure = Figure(
            figsize=(width_in, height_in), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.07, wspace=0, hspace=0)
        )
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    svg = buffer.getvalue()
    svg = re.sub(r"<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)  # would style the whole page
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    slug = re.sub(r"\W+", "-", name)
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{slug}-", svg)
    # The page sets the size: as wide as its column, at most as wide as drawn.
    return re.sub(
        r'<svg(.*?) width=".*?" height=".*?"', rf'<svg\1 style="max-width: {96 * width_in:.0f}px"', svg, count=1
    )
