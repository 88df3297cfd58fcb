"""The report stage: what was pre-trained, what it transfers to, and how to find out again. Computes nothing anew."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import record, storage
from pipeline.evals.findings import Findings, Picture, Pretraining, Source, pretraining
from pipeline.stage import Artifact, Cluster, Track


@dataclass(frozen=True)
class Report:
    """`command` is how to run the recipe again, in one line; without it the report shows where the outputs lie."""

    title: str
    command: str | None = None

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise ValueError("title: must not be empty; say what was pre-trained, such as 'ViT-H/14 on ImageNet-21k'")


def report(config: Report, *, out: str, cluster: Cluster, track: Track, **results: Artifact) -> Mapping[str, Any]:
    """Write report.html, report.md and transfer.json from finished pre-training, fine-tuning and transfer stages.

    An artifact whose result has `rows` is a comparison, any other with a `history` a pre-training, one with `figures`
    of steps an inspection; what is none of these is only listed as a source. Returns where the files are and how many
    rows they tell of. ValueError where no artifact has rows.
    """
    from pipeline.evals import markdown, page

    findings = gather(config, out=out, results=results)
    if not findings.rows:
        raise ValueError(
            f"report: none of {', '.join(results) or 'no stages'} has rows; give it a finetune or transfer"
        )
    files = {
        "report.html": page.page(findings),
        "report.md": markdown.report(findings),
        "transfer.json": json.dumps({"title": config.title, "rows": _plain(findings.rows)}, indent=1) + "\n",
    }
    for name, text in files.items():
        storage.write(storage.join(out, name), text.encode())
        track.artifact(name, text.encode())
    track.note(markdown.note(findings))
    return {
        "html": storage.join(out, "report.html"),
        "markdown": storage.join(out, "report.md"),
        "transfer": storage.join(out, "transfer.json"),
        "num_rows": len(findings.rows),
    }


def gather(config: Report, *, out: str, results: Mapping[str, Artifact]) -> Findings:
    """Everything the pages show, read from the artifacts' results and the records beside them."""
    rows, pretrainings, sources, pictures = [], [], [], []
    for artifact in results.values():
        found = record.read(artifact.uri)
        rows += [{"stage": artifact.stage, **row} for row in artifact.result.get("rows", ())]
        if "history" in artifact.result and "rows" not in artifact.result:
            pretrainings.append(_pretraining(artifact, found))
        pictures += _pictures(artifact)
        sources.append(_source(artifact, found, out=out))
    return Findings(
        title=config.title,
        command=config.command or _command(out),
        pretrainings=tuple(pretrainings),
        rows=tuple(rows),
        sources=tuple(sources),
        pictures=tuple(pictures),
    )


def _pretraining(artifact: Artifact, found: record.Record | None) -> Pretraining:
    """`model` and `data` are names: of the result, else of the config in the record, where it gives them a name."""
    config = found.config if found and isinstance(found.config, Mapping) else {}
    names = {}
    for key in ("model", "data"):
        value = artifact.result.get(key) or config.get(key) or ""
        names[key] = str(value.get("name", "")) if isinstance(value, Mapping) else str(value)
    return pretraining(artifact.stage, result=artifact.result, model=names["model"], data=names["data"])


def _pictures(artifact: Artifact) -> list[Picture]:
    """Those of the finished weights; MLflow has those of the steps before."""
    figures = [figure for figure in artifact.result.get("figures", ()) if "step" in figure]
    last = max((figure["step"] for figure in figures), default=0)
    chosen = (figure for figure in figures if figure["step"] == last)
    return [Picture(artifact.stage, figure["caption"], storage.read(figure["png"])) for figure in chosen]


def _source(artifact: Artifact, found: record.Record | None, *, out: str) -> Source:
    uri = storage.join(artifact.uri, record.DONE)
    href = None
    if storage.is_local(out) and storage.is_local(uri):  # relative, so that a moved folder keeps its links
        href = os.path.relpath(storage.local_path(uri), storage.local_path(out))
    return Source(artifact.stage, artifact.id[:12], uri, href, found.code if found else "")


def _command(out: str) -> str:
    root, _, _ = out.rstrip("/").rpartition("/")
    return f"tessera run <recipe> --root {root or '.'}"


def _plain(value: Any) -> Any:
    """JSON has no NaN: a figure that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
