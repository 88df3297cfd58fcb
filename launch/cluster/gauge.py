"""What a gang reports as metrics of Ray, which every machine of a cluster serves to Prometheus as `ray_tessera_...`."""

import functools
from collections.abc import Mapping
from typing import Any

_PREFIX = {"step": "tessera", "reading": "tessera_data"}  # by the kind of message


def export(message: Mapping[str, Any], *, rank: int) -> None:
    """Set a gauge for each figure of a message that has some; the others have nothing to show."""
    prefix = _PREFIX.get(message.get("kind", ""))
    if prefix is None:
        return
    for name, value in message["figures"].items():
        _gauge(f"{prefix}_{name}").set(float(value), tags={"rank": str(rank)})


@functools.cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, description="of a gang of trainers, by its latest report", tag_keys=("rank",))
