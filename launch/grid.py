"""Tables of text: aligned for a terminal, as Markdown or as CSV. Knows nothing of what is in them."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

Cells = Sequence[str]


def cell(text: str) -> str:
    """Names come from anywhere: line ends, tabs and whatever steers a terminal become visible."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: f"\\x{ord(found[0]):02x}", text)


def comma_separated(lines: Sequence[Cells]) -> str:
    """CSV, lines ended by a line feed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def aligned(lines: Sequence[Cells], *, headers: int = 1, width: int | None = None) -> str:
    """Lines below `headers` of them and a rule. Where `width` is less than they need, one part below the other, each
    with the first column."""
    from rich.cells import cell_len

    clean = [[cell(text) for text in line] for line in lines]
    widths = [max(map(cell_len, column)) for column in zip(*clean, strict=True)]
    parts = []
    for columns in _parts(widths, width):
        rows = [[(line[at], widths[at]) for at in columns] for line in clean]
        rows.insert(headers, [("-" * widths[at], widths[at]) for at in columns])
        padded = ("  ".join(text + " " * (wide - cell_len(text)) for text, wide in row).rstrip() for row in rows)
        parts.append("".join(f"{line}\n" for line in padded))
    return "\n".join(parts)


def markdown(lines: Sequence[Cells], *, headers: int = 1) -> str:
    """A table of GitHub's. Several headers become one, and what would end a cell is escaped."""
    clean = [[cell(text).replace("\\", "\\\\").replace("|", r"\|") for text in line] for line in lines]
    head = [" ".join(filter(None, column)) for column in zip(*clean[:headers], strict=True)]
    rows = [head, ["---"] * len(head), *clean[headers:]]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _parts(widths: Sequence[int], width: int | None) -> Iterator[list[int]]:
    """The columns of every part."""
    part = [0]
    for at in range(1, len(widths)):
        if width is not None and len(part) > 1 and sum(widths[i] + 2 for i in (*part, at)) - 2 > width:
            yield part
            part = [0]
        part.append(at)
    yield part
