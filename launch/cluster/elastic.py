"""How an elastic gang changes its size. Ray Train decides; here is what it leaves out, as a callback of its controller.

* Its view of the machines is up to 20 s old, and a gang that no longer fits waits in vain: it looks again first.
* It ends a gang that is to grow wherever that is: the gang saves before.

Imports Ray when it is imported.
"""

import logging
import time
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ReschedulingState, ResizingState, RestartingState

from pipeline.stage import Notice

log = logging.getLogger(__name__)

COORDINATOR = "AutoscalingCoordinator"  # Ray's actor, in a namespace of the same name
ANSWER_S = 5.0
LOOK_S = 0.25


class Resizing(ControllerCallback):
    """Runs in the controller's process, which is the one that may wait: the gang goes on meanwhile."""

    def __init__(self, mailbox: Any, *, grace_s: float) -> None:
        self._mailbox, self._grace_s = mailbox, grace_s

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray Train; must not fail, for that would end the run."""
        try:
            if isinstance(current_state, RestartingState | ReschedulingState):
                _look_again()
            elif isinstance(current_state, ResizingState):
                decision: Any = current_state.scaling_decision
                self._save(f"the gang goes on with {decision.num_workers} workers")
        except (RayError, ValueError) as error:  # ValueError: there is no such actor
            log.warning("an elastic gang changes its size on what is known: %s", error)

    def _save(self, reason: str) -> None:
        deadline = time.time() + self._grace_s
        if not ray.get(self._mailbox.ask.remote(Notice("save", reason, deadline)), timeout=ANSWER_S):
            return
        while time.time() < deadline and not ray.get(self._mailbox.is_saved.remote(), timeout=ANSWER_S):
            time.sleep(LOOK_S)


def _look_again() -> None:
    """Have the actor that counts machines for Ray Train count them now."""
    counting = ray.get_actor(COORDINATOR, namespace=COORDINATOR)
    ray.get(counting.get_reserved_resources.remote("", recompute=True), timeout=ANSWER_S)
