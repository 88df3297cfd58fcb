"""matplotlib's settings while a figure is drawn: they are those of the whole process, where stages run in threads."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

HEADING_IN = 0.62
_DRAWING = threading.Lock()


@contextlib.contextmanager
def styled(style: Mapping[Any, Any]) -> Iterator[None]:
    """Draw and save inside: one figure at a time, with these settings."""
    import matplotlib

    with _DRAWING, matplotlib.rc_context(dict(style)):
        yield


@contextlib.contextmanager
def headed(
    style: Mapping[Any, Any], what: str, more: str, *, width_in: float, height_in: float, quiet: str, **pads: Any
) -> Iterator[Any]:
    """A white figure to draw on and to save inside, `height_in` high below two lines that say what it is."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height_in += HEADING_IN
    with styled(style):
        layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - HEADING_IN / height_in), **pads)
        figure = Figure(figsize=(width_in, height_in), layout=layout, facecolor="white")
        left, at = 0.1 / width_in, {"va": "top", "in_layout": False}
        figure.text(left, 1 - 0.10 / height_in, what, **at, size=12, weight="bold")
        figure.text(left, 1 - 0.34 / height_in, more, **at, color=quiet)
        yield figure
