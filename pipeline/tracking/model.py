"""The checkpoints that MLflow knows, as logged models: what was pre-trained, when, and from which run."""

from collections.abc import Iterator
from typing import Any

from pipeline.tracking.read import experiments, iso, pages, reader

PAGE_MODELS = 200


def models(uri: str, *, experiment: str | None = None) -> Iterator[dict[str, Any]]:
    """The checkpoints that runs have published, newest first, fetched page by page.

    Each is {model_id, run_id, experiment, created (ISO, UTC), checkpoint (a URI), digest, params}. Raises what
    `search` raises.
    """
    client = reader(uri)
    names = experiments(client, uri, experiment)
    if not names:
        return
    order = [{"field_name": "creation_timestamp", "ascending": False}]
    for model in pages(uri, client.search_logged_models, list(names), max_results=PAGE_MODELS, order_by=order):
        if "checkpoint_digest" in model.tags:
            yield {
                "model_id": model.model_id,
                "run_id": model.source_run_id or "",
                "experiment": names[model.experiment_id],
                "created": iso(model.creation_timestamp),
                "checkpoint": model.tags.get("checkpoint", ""),
                "digest": model.tags["checkpoint_digest"],
                "params": dict(model.params or {}),
            }
