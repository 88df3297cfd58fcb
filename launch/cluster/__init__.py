"""Ray: tasks side by side, gangs of trainers, hosts that read for them. The only room that imports ray."""

from launch.cluster.failure import GangFailed
from launch.cluster.machines import RayCluster, connected

__all__ = ["GangFailed", "RayCluster", "connected"]
