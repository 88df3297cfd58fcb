"""MLflow as a view of what happens here: the only room that knows MLflow, and nothing waits for it.

`Tracker` writes every event to a local journal and a background thread brings the journals to MLflow; `search` reads
runs back; `log_result` makes a row of the transfer table. Importing this room does not import MLflow.
"""

from pipeline.tracking.read import search
from pipeline.tracking.redact import redact
from pipeline.tracking.result import Result, log_result
from pipeline.tracking.track import Run, Tracker

__all__ = ["Result", "Run", "Tracker", "log_result", "redact", "search"]
