"""matplotlib's settings while a figure is drawn: they are those of the whole process, where stages run in threads."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

_DRAWING = threading.Lock()


@contextlib.contextmanager
def styled(style: Mapping[Any, Any]) -> Iterator[None]:
    """Draw and save inside: one figure at a time, with these settings."""
    import matplotlib

    with _DRAWING, matplotlib.rc_context(dict(style)):
        yield
