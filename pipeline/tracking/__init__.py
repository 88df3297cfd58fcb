"""MLflow as a view of what happens here: the only room that knows MLflow, and nothing waits for it.

`Tracker` writes every event to a local journal and a background thread brings the journals to MLflow; `search` reads
runs back, `models` their checkpoints, `lines` and `move` their champions; `log_result` makes a row of the transfer
table. Importing this room does not import MLflow.
"""

from pipeline.tracking.model import models
from pipeline.tracking.read import Query, search
from pipeline.tracking.redact import redact
from pipeline.tracking.registry import Line, Move, Outrun, line_name, lines, move
from pipeline.tracking.result import Result, log_result
from pipeline.tracking.track import Run, Tracker

__all__ = [
    "Line",
    "Move",
    "Outrun",
    "Query",
    "Result",
    "Run",
    "Tracker",
    "line_name",
    "lines",
    "log_result",
    "models",
    "move",
    "redact",
    "search",
]
