"""Where an error becomes one message and an exit code. Importing this loads the standard library and typer."""

import logging
import signal
import sys
from typing import Any, Literal, NoReturn

import typer

log = logging.getLogger("tessera")

FAILED, USAGE, NOT_FOUND, PRECONDITION = 1, 2, 3, 4
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class errors:  # noqa: N801  a `with` that reads like a phrase
    """The process border: what a user can mend becomes one message and an exit code; the rest keeps its traceback.

    Being terminated is being interrupted, but for the exit code: Ray passes on a KeyboardInterrupt out of a handler of
    signals, and makes a SystemExit one with the code 1. What a KeyboardInterrupt says is what a gang has saved before.
    """

    def __init__(self, *, debug: bool, log_format: Literal["text", "json"] = "text") -> None:
        from pipeline import log as lines

        self._debug, self._is_terminated = debug, False
        lines.setup(level=logging.DEBUG if debug else logging.INFO, style=log_format)

    def __enter__(self) -> None:
        self._handler = signal.signal(signal.SIGTERM, self._terminate)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        signal.signal(signal.SIGTERM, self._handler or signal.SIG_DFL)
        if error is None or isinstance(error, typer.Exit | SystemExit):
            return
        if isinstance(error, KeyboardInterrupt):
            how = "terminated" if self._is_terminated else "interrupted"
            log.error("%s; the same command goes on from here", ", ".join([how, *map(str, error.args)]))
            sys.exit(TERMINATED if self._is_terminated else INTERRUPTED)
        code = _code_of(error)
        if code is None:
            return  # a bug of ours: Python's traceback is the message, and its exit code is 1
        _fail(error, code, debug=self._debug)

    def _terminate(self, *_: object) -> NoReturn:
        self._is_terminated = True
        raise KeyboardInterrupt


def _code_of(error: BaseException) -> int | None:
    from launch.recipe import NoRecipe
    from launch.run import Busy
    from launch.status import NothingThere
    from pipeline.record import Drifted
    from pipeline.storage import StorageError
    from pipeline.tracking import Outrun

    if isinstance(error, NoRecipe | NothingThere | FileNotFoundError) and not isinstance(error, StorageError):
        return NOT_FOUND
    if isinstance(error, StorageError | Busy | Outrun | PermissionError | ConnectionError):
        return PRECONDITION
    if isinstance(error, ValueError | Drifted):
        return USAGE
    if type(error).__name__ == "GangFailed":  # launch.cluster would load Ray
        return FAILED
    return None


def _fail(error: BaseException, code: int, *, debug: bool) -> NoReturn:
    log.error("%s", error, exc_info=error if debug else None)
    sys.exit(code)
