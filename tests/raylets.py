"""A Ray cluster of several machines on this one, that come and go."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from launch.cluster.machines import QUIET

os.environ |= QUIET  # Ray looks at its environment once, when it is imported: all have a token, or none


class Machines:
    """Raylets on this machine: the head, where the driver is, and `most` others with room for one trainer each."""

    def __init__(self, most: int = 2) -> None:
        from ray.cluster_utils import Cluster

        noticed = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}  # a lost machine, in 2 s
        about = {"num_cpus": 1, "include_dashboard": False, "_system_config": noticed}
        self.cluster = Cluster(initialize_head=True, head_node_args=about)
        self.most, self.trainers = most, []
        self.complete()

    def complete(self) -> None:
        """Bring back what was lost."""
        # Of machines that are to end with this process Ray sets a handler of SIGTERM: the main thread can.
        self.cluster._shutdown_at_exit = threading.current_thread() is threading.main_thread()
        while len(self.trainers) < self.most:
            self.trainers.append(self.cluster.add_node(num_cpus=1, resources={"trainer": 1}))

    def lose(self) -> None:
        """The last one, as if its power was cut."""
        self.cluster.remove_node(self.trainers.pop(), allow_graceful=False)

    def drain(self, *, deadline_s: int) -> None:
        """Say of the last one that it is to go."""
        words = ["drain-node", "--address", self.cluster.address, "--node-id", self.trainers[-1].node_id]
        words += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        words += ["--deadline-remaining-seconds", str(deadline_s)]
        subprocess.run([Path(sys.executable).with_name("ray"), *words], check=True, capture_output=True)
