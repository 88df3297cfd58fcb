"""Findings as one self-contained HTML file: no scripts, nothing fetched; for light and dark screens and for paper."""

import base64
import html
from collections.abc import Iterable, Sequence
from string import Template

from pipeline.evals import chart, compare
from pipeline.evals.findings import Findings, Grid, Picture, Pretraining

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")

_LIGHT = (
    "--paper: #ffffff; --ink: #1b1f24; --ink-2: #57606a; --rule: #d8dde3; --wash: #f5f7f9;"
    " --pretrained: #1f6fb5; --random: #c2761a; --good: #1a7340; --bad: #b3261e;"
)
_DARK = (
    "--paper: #14181d; --ink: #e4e8ec; --ink-2: #a3adb8; --rule: #353c45; --wash: #1c2229;"
    " --pretrained: #6cb0ee; --random: #e3a354; --good: #63c98b; --bad: #f28b82;"
)

_STYLE = Template("""
:root { color-scheme: light dark; $light }
@media (prefers-color-scheme: dark) { :root { $dark } }
@media print { :root { color-scheme: light; $light } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: .95rem/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--rule); }
h3 { font-size: .95rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 44rem; }
.lead { font-size: 1.05rem; }
.small { color: var(--ink-2); font-size: .85rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 1px; margin: 0;
  border: 1px solid var(--rule); border-radius: 6px; overflow: hidden; }
dl div { padding: .6rem .8rem; box-shadow: 0 0 0 1px var(--rule); }
dl div.wide { grid-column: 1 / -1; }
dt { color: var(--ink-2); font-size: .78rem; }
dd { margin: 0; font-size: 1.05rem; font-weight: 600; overflow-wrap: anywhere; }
dl div.wide dd { font: .85rem/1.5 ui-monospace, monospace; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: .78rem; font-weight: 600; color: var(--ink-2); }
thead th { border-bottom: 2px solid var(--ink-2); }
th, td { padding: .35rem .9rem .35rem 0; vertical-align: baseline; }
td { border-bottom: 1px solid var(--rule); }
.number { text-align: right; }
.number, td.group, td span { white-space: nowrap; }
tr.group td { border-top: 2px solid var(--rule); }
tr:not(.group) td.group { color: var(--ink-2); }
.better { color: var(--good); font-weight: 600; }
.worse { color: var(--bad); font-weight: 600; }
.chosen { font-weight: 700; }
.break { overflow-wrap: anywhere; }
figure { margin: 1rem 0 1.5rem; }
figcaption { color: var(--ink-2); font-size: .85rem; margin-top: .25rem; }
svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
svg text { font-family: system-ui, sans-serif; }
pre { background: var(--wash); border: 1px solid var(--rule); border-radius: 6px; padding: .75rem 1rem;
  overflow-x: auto; font: .85rem/1.5 ui-monospace, monospace; }
code { font: .85em ui-monospace, monospace; }
a { color: var(--pretrained); }
@media print {
  :root { font-size: 12px; }
  main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  tr, figure, dl { break-inside: avoid; }
  pre { white-space: pre-wrap; }
}
""")


class Markup(str):
    """HTML that is already escaped; every other string is escaped where it enters the page."""


def page(findings: Findings) -> str:
    """The report as HTML. The same findings give the same bytes."""
    pairs = findings.pairs
    trained = [one for one in findings.pretrainings if len(one.history) > 1]
    sections = [
        _tag("h1", findings.title),
        _tag("p", compare.headline(pairs), role="lead"),
        *[_facts(one) for one in findings.pretrainings],
        *(_transfer(pairs) if pairs else []),
        *([_tag("h2", "Course of pre-training"), *map(_curves, trained)] if trained else []),
        *_pictures(findings.pictures),
        *([_grids(findings.grids)] if findings.grids else []),
        _sources(findings),
        _tag("h2", "How to run it again"),
        Markup(f"<pre>{html.escape(findings.command)}</pre>"),
    ]
    style = _STYLE.substitute(light=_LIGHT, dark=_DARK)
    return _PAGE.substitute(title=html.escape(findings.title), style=style, body="\n".join(sections))


def _facts(one: Pretraining) -> Markup:
    items = []
    for what, value in one.facts:
        wide = "wide" if what in ("Weights", "Digest") else ""
        items.append(_tag("div", Markup(_tag("dt", what) + _tag("dd", value)), wide))
    return Markup(_tag("h2", one.heading) + _tag("dl", Markup("".join(items))))


def _transfer(pairs: Sequence[compare.Pair]) -> list[Markup]:
    rows = []
    for pair in pairs:
        *cells, verdict = compare.cells(pair)
        rows.append([*cells, _tag("span", verdict, role=verdict.split()[0] if verdict else "")])
    parts = [_tag("h2", "Transfer"), _table(compare.COLUMNS, rows, numbers=(3, 4, 5), grouped=True)]
    parts += [_tag("p", compare.LEGEND, role="small")]
    parts += [
        _figure(chart.few_shot(pairs), "Few-shot accuracy of frozen features, by images per class; ± one std."),
        _figure(chart.bars(pairs), "The other protocols, from both initialisations; whiskers are ± one std."),
    ]
    return [part for part in parts if part]


def _curves(one: Pretraining) -> Markup:
    caption = f"Stage {one.stage} over its finished steps."
    return _figure(chart.history(one.history), caption)


def _pictures(pictures: Sequence[Picture]) -> list[Markup]:
    """Within the page, on white on a dark one too; a heading for each stage that drew some."""
    parts = []
    for place, one in enumerate(pictures):
        if place == 0 or one.stage != pictures[place - 1].stage:
            name = "" if one.stage == "inspect" else f": {one.stage}"
            parts.append(_tag("h2", f"What the model has learned{name}"))
        source, label = base64.b64encode(one.png).decode(), html.escape(one.caption)
        image = f'<img src="data:image/png;base64,{source}" alt="{label}">'
        parts.append(Markup(f"<figure>{image}<figcaption>{label}</figcaption></figure>"))
    return parts


def _grids(grids: Iterable[Grid]) -> Markup:
    rows = []
    for grid in grids:
        tried = ", ".join(
            _tag(
                "span",
                f"{value:g}: {compare.figure(score, metric=grid.metric)}",
                role="chosen" if value == grid.chosen else "",
            )
            for value, score in grid.tried
        )
        chosen = f"{grid.parameter} {grid.chosen:g}{' (edge of the grid)' if grid.on_edge else ''}"
        rows.append([grid.task, grid.protocol, grid.init, chosen, Markup(tried)])
    head = ("task", "protocol", "init", "chosen", "held-out score of each value")
    return Markup(_tag("h2", "Hyper-parameters chosen on held-out images") + _table(head, rows))


def _sources(findings: Findings) -> Markup:
    rows = []
    for one in findings.sources:
        uri = html.escape(one.record_uri)
        record = f'<a href="{html.escape(one.href)}">{uri}</a>' if one.href else f"<code>{uri}</code>"
        rows.append([one.stage, Markup(f"<code>{html.escape(one.build)}</code>"), one.code, Markup(record)])
    return Markup(_tag("h2", "Where this comes from") + _table(("stage", "build", "code", "record"), rows, breaks=(3,)))


def _figure(svg: str, caption: str) -> Markup:
    if not svg:
        return Markup()
    label = html.escape(caption)
    return Markup(f'<figure role="img" aria-label="{label}">{svg}<figcaption>{label}</figcaption></figure>')


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    breaks: Sequence[int] = (),
    grouped: bool = False,
) -> Markup:
    """Columns in `numbers` are set right, those in `breaks` may break inside a word.

    `grouped` rules off rows by their first cell and dims its repetitions.
    """
    roles = ["number" if i in numbers else "break" if i in breaks else "" for i in range(len(head))]
    if grouped:
        roles[0] = "group"

    def line(tag: str, cells: Sequence[str], role: str = "") -> str:
        return _tag("tr", Markup("".join(map(_tag, [tag] * len(cells), cells, roles))), role)

    lines, before = [], None
    for row in rows:
        lines.append(line("td", row, "group" if grouped and row[0] != before else ""))
        before = row[0]
    body = "\n".join(lines)
    return Markup(f'<div class="scroll"><table><thead>{line("th", head)}</thead><tbody>{body}</tbody></table></div>')


def _tag(tag: str, text: str, role: str = "") -> Markup:
    inner = text if isinstance(text, Markup) else html.escape(text)
    return Markup(f'<{tag} class="{role}">{inner}</{tag}>' if role else f"<{tag}>{inner}</{tag}>")
