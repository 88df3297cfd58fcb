"""Figures 3 to 5 of arXiv 2010.11929 of one's own points, the paper's beside them: PNG to look at, SVG to print.

Own points are filled and in colour, one colour for each model; the paper's are hollow. The paper's are drawn in the
same axes where they are of the same task under the same protocol, else in axes of their own.
"""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evals import paper
from pipeline.evals.findings import si
from pipeline.evals.study.point import FINETUNE, MEAN, Panels, Point, by_model
from pipeline.evals.style import headed

_INK, _QUIET, _RULE = "#1b1f24", "#57606a", "#d8dde3"
_COLOURS = ("#1f6fb5", "#c2761a", "#2a8f5b", "#8b4fb0", "#c23b4e", "#14808a")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_FAMILIES = (("ViT", "o", "#1b1f24"), ("ResNet", "s", "#a0522d"), ("hybrid", "D", "#6b7f1f"))
_DPI = 120
_OF_PAPER = " (paper)"
_UNITS = ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
_PRETRAINED_ON = {  # [ViT] 4.1 has the sizes
    paper.IMAGENET_1K: "ImageNet\n1.3 M",
    paper.IMAGENET_21K: "ImageNet-21k\n14 M",
    paper.JFT_300M: "JFT-300M\n303 M",
}
_PAPER_LINES = {  # the darker the larger; dashed: patches of 32 px
    "H/14": ("#1b1f24", "-"),
    "L/16": ("#57606a", "-"),
    "L/32": ("#57606a", "--"),
    "B/16": ("#8c96a1", "-"),
    "B/32": ("#8c96a1", "--"),
}
_PANEL_IN, _HEIGHT_IN = 4.7, 3.9
_COLUMNS = 2
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tessera",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


@dataclass(frozen=True)
class Figure:
    """A picture by its name, what it shows, and its bytes in both formats."""

    name: str
    caption: str
    png: bytes
    svg: bytes


def of_samples(panels: Panels) -> Figure:
    """Figure 4: few-shot accuracy against the number of samples that were pre-trained on, a line for each model."""

    def draw(figure: Any) -> None:
        for axes, (key, found) in zip(_axes(figure, len(panels)), panels.items(), strict=True):
            lines = by_model(sorted(found, key=lambda point: point.trained.samples))
            for place, line in enumerate(lines.values()):
                _line(axes, [point.trained.samples for point in line], line, place=place)
            sizes = sorted({point.trained.samples for point in found})
            axes.set(xscale="log", title=_title(*key), xlabel="samples pre-trained on", ylabel="top-1, %")
            axes.set_xticks(sizes, [si(size) for size in sizes])
            axes.minorticks_off()
            _name_lines(axes, lines, [_COLOURS[place % len(_COLOURS)] for place in range(len(lines))])

    what = "What more data for pre-training is worth, by model"
    more = "few-shot accuracy of frozen features; bars: standard deviation over the draws of the shots"
    return _figure("samples", draw, what, more, panels=len(panels))


def of_data(panels: Panels) -> Figure:
    """Figure 3: accuracy by what was pre-trained on, a line for each model; the paper's for ImageNet beside it.

    No bars, since these would have to begin at 0, where a per cent cannot be seen and no line crosses another.
    """

    def draw(figure: Any) -> None:
        *own, beside = _axes(figure, len(panels) + 1)
        for axes, (key, found) in zip(own, panels.items(), strict=True):
            ordered = sorted(found, key=lambda point: point.trained.samples)
            groups = {point.trained.data: f"{point.trained.data}\n{si(point.trained.samples)}" for point in ordered}
            lines = by_model(ordered)
            for place, line in enumerate(lines.values()):
                aside = 0.03 * (place - (len(lines) - 1) / 2)  # deviations do not cover each other
                _line(axes, [list(groups).index(p.trained.data) + aside for p in line], line, place=place)
            _by_data(axes, list(groups.values()), title=_title(*key))
            _name_lines(axes, lines, [_COLOURS[place % len(_COLOURS)] for place in range(len(lines))])
        _paper_by_data(beside)

    what = "Whether larger models need more data"
    more = "accuracy after transfer, by what was pre-trained on; bars: standard deviation over seeds"
    return _figure("data", draw, what, more, panels=len(panels) + 1)


def of_compute(panels: Panels) -> Figure:
    """Figure 5: accuracy against the FLOPs of pre-training, a line for each model; the paper's families beside it."""
    beside = {key: paper_of(*key) for key in panels}
    if not any(beside.values()):
        beside[paper.IMAGENET_1K, FINETUNE] = paper_of(paper.IMAGENET_1K, FINETUNE)

    def draw(figure: Any) -> None:
        for axes, (key, published) in zip(_axes(figure, len(beside)), beside.items(), strict=True):
            found = sorted(panels.get(key, ()), key=lambda point: point.trained.flops)
            flops = [point.trained.flops for point in found] + [flops for flops, *_ in published]
            unit, name = next((unit for unit in _UNITS if max(flops) >= unit[0]), _UNITS[-1])
            for place, (model, line) in enumerate(by_model(found).items()):
                _line(axes, [point.trained.flops / unit for point in line], line, place=place, label=model)
                for point in line:
                    at, text = (point.trained.flops / unit, 100 * point.mean), point.trained.epochs_text
                    axes.annotate(text, at, (5, -11), textcoords="offset points", fontsize=8, color=_QUIET)
            _families(axes, published, unit=unit)
            title = _title(*key) if found else f"{_title(*key)} (paper, Table 6)"
            axes.set(xscale="log", title=title, xlabel=f"compute of pre-training, {name}", ylabel="top-1, %")
            _log_ticks(axes, decades=math.log10(max(flops) / min(flops)))
        _legend(figure)

    what = "What compute for pre-training buys"
    numbered = "numbers: epochs of pre-training; " if panels else ""
    more = f"accuracy after transfer; {numbered}bars: standard deviation over seeds"
    return _figure("compute", draw, what, more, panels=len(beside))


def paper_of(task: str, protocol: str) -> list[tuple[float, float, str]]:
    """(FLOPs, top-1, family) of the models of Table 6 on a task; none where the paper has no such number."""
    if protocol != FINETUNE:
        return []
    tops = [(one, one.mean if task == MEAN else one.top1.get(task)) for one in paper.TABLE_6]
    return [(1e18 * one.exaflops, top1, one.family) for one, top1 in tops if top1 is not None]


def _paper_by_data(axes: Any) -> None:
    """Figure 3 as its numbers are printed."""
    lines: dict[str, list[paper.Reported]] = {model: [] for model in _PAPER_LINES}
    for one in paper.figure_3():
        lines[one.model].append(one)
    for (model, line), marker in zip(lines.items(), _MARKERS, strict=False):
        colour, linestyle = _PAPER_LINES[model]
        shape = {"marker": marker, "markerfacecolor": "white", "linestyle": linestyle, "linewidth": 1.2}
        x = [list(_PRETRAINED_ON).index(one.data) for one in line]
        axes.plot(x, [100 * one.mean for one in line], color=colour, markersize=6, **shape)
    _by_data(axes, list(_PRETRAINED_ON.values()), title=f"{_title(paper.IMAGENET_1K, FINETUNE)} (paper, Table 5)")
    _name_lines(axes, lines, [colour for colour, _ in _PAPER_LINES.values()])


def _by_data(axes: Any, groups: Sequence[str], *, title: str) -> None:
    axes.set(title=title, xlabel="pre-trained on", ylabel="top-1, %", xlim=(-0.3, len(groups) - 0.7))
    axes.set_xticks(range(len(groups)), groups)


def _families(axes: Any, published: Sequence[tuple[float, float, str]], *, unit: float) -> None:
    for family, marker, colour in _FAMILIES:
        if chosen := [(flops / unit, 100 * top1) for flops, top1, other in published if other == family]:
            shape = {"marker": marker, "linestyle": "none", "markerfacecolor": "none", "color": colour}
            axes.plot(*zip(*chosen, strict=True), label=f"{family}{_OF_PAPER}", markersize=5.5, alpha=0.8, **shape)


def _line(axes: Any, x: Sequence[float], line: Sequence[Point], *, place: int, label: str | None = None) -> None:
    """The points of one model, each with its deviation where it has one."""
    colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
    mean = [100 * point.mean for point in line]
    std = [100 * point.std if point.num_seeds > 1 else 0.0 for point in line]
    shape = {"color": colour, "marker": marker, "markersize": 6, "linewidth": 1.6}
    axes.errorbar(x, mean, yerr=std, label=label, elinewidth=1, capsize=2.5, zorder=3, **shape)


def _name_lines(axes: Any, lines: Mapping[str, Sequence[Any]], colours: Sequence[str]) -> None:
    """The name of each line at the right of the panel, as high as its end where the others leave room."""
    ends = [100 * line[-1].mean for line in lines.values()]
    low, high = axes.get_ylim()
    for name, y, colour in zip(lines, apart(ends, gap=0.06 * (high - low)), colours, strict=True):
        at = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "va": "center"}
        axes.annotate(name, (1.0, y), (4, 0), color=colour, fontweight="bold", fontsize=9.5, **at)


def apart(values: Sequence[float], *, gap: float) -> list[float]:
    """The values moved as little as keeps neighbours `gap` apart, in the order that they have."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    up, down = list(values), list(values)
    for below, above in itertools.pairwise(order):
        up[above] = max(up[above], up[below] + gap)
    for above, below in itertools.pairwise(reversed(order)):
        down[below] = min(down[below], down[above] - gap)
    return [(higher + lower) / 2 for higher, lower in zip(up, down, strict=True)]


def _log_ticks(axes: Any, *, decades: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    subs = (1.0, 2.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 2.6 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _title(task: str, protocol: str) -> str:
    return f"{'mean of five tasks' if task == MEAN else task}, {protocol}"


def _axes(figure: Any, number: int) -> list[Any]:
    columns = min(_COLUMNS, number)
    panels = list(figure.subplots(math.ceil(number / columns), columns, squeeze=False).flat)
    for axes in panels[number:]:
        axes.set_axis_off()
    return panels[:number]


def _legend(figure: Any) -> None:
    """One for all panels: a name is an entry, wherever it is shown; own ones first."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        shown, labels = axes.get_legend_handles_labels()
        handles |= {label: handle for label, handle in zip(labels, shown, strict=True) if label not in handles}
    names = sorted(handles, key=lambda label: label.endswith(_OF_PAPER))
    figure.legend(
        [handles[name] for name in names], names, loc="outside lower left", ncols=len(names) if len(names) < 7 else 5
    )


def _figure(name: str, draw: Callable[[Any], None], what: str, more: str, *, panels: int) -> Figure:
    """The drawing below two lines that say what it is; the same bytes for the same points."""
    columns = min(_COLUMNS, panels)
    width_in, height_in = max(_PANEL_IN * columns, 7.4), _HEIGHT_IN * math.ceil(panels / columns)
    png, svg = io.BytesIO(), io.BytesIO()
    pads = {"w_pad": 0.08, "h_pad": 0.06, "wspace": 0.04, "hspace": 0.04}
    with headed(_STYLE, what, more, width_in=width_in, height_in=height_in, quiet=_QUIET, **pads) as canvas:
        draw(canvas)
        canvas.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
        canvas.savefig(svg, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Figure(name, f"{what}: {more}", png.getvalue(), svg.getvalue())
