"""What is asked of a gang while it runs: by its driver, through the mailbox, and by Ray, when a machine is to go.

Rank 0 alone listens, in a thread, once a second; what it does about it all ranks agree on (`pipeline.stage.Notice`).
"""

import logging
import threading
import time
from typing import Any

from pipeline.stage import Notice

log = logging.getLogger(__name__)

LISTEN_S = 1.0
DRAINED_S = 120.0  # until a machine goes, where Ray is not told when; also Ray Train's guess
ANSWER_S = 10.0  # for the mailbox


class Ear:
    """Use it in a `with`. `notice` is what was last asked for, and costs nothing."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._asked: Notice | None = None
        self._is_heard = False
        self._drain: tuple[Any, Notice] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="notices", daemon=True)

    def __enter__(self) -> "Ear":
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()

    def notice(self) -> Notice | None:
        """See `pipeline.stage.Member`."""
        if not self._is_heard:
            self._is_heard = True
            self._mailbox.listens.remote()
        return self._asked

    def _listen(self) -> None:
        import ray
        from ray.exceptions import RayError

        while not self._ended.wait(LISTEN_S):
            try:
                asked: Any = ray.get(self._mailbox.asked.remote(), timeout=ANSWER_S)
            except RayError as error:
                log.debug("no word from the driver: %s", error)
                continue
            self._asked = asked or self._draining()

    def _draining(self) -> Notice | None:
        """To save, once Ray Train has told this worker that machines of the gang are to go. One for each news of it."""
        from ray.train.v2._internal.execution.context import get_train_context

        # The public get_preemption_info is a barrier of all ranks, for whose sake each would have to wait at each step.
        news = get_train_context().preemption_context.preemption_info
        if news is None:
            return None
        if self._drain is None or self._drain[0] is not news:
            deadline = news.deadline_ms / 1000 if news.deadline_ms else time.time() + DRAINED_S
            reason = f"{len(news.preempted_node_ids)} of the gang's machines will be taken away"
            self._drain = (news, Notice("save", reason, deadline))
        return self._drain[1]
