"""Stage: several pre-trainings side by side: what data, size and compute are worth on the tasks they transfer to.

<out>/<figure>.png, .svg   figures 4 ("samples"), 3 ("data") and 5 ("compute") of arXiv 2010.11929, own points in them
<out>/study.csv, .json     every point, and the paper's as its tables print them
<out>/study.md             a row for each pre-training
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline import record, storage
from pipeline.config import decode, encode
from pipeline.models.variant import VARIANTS, ViTConfig
from pipeline.stage import Artifact, Cluster, Track

if TYPE_CHECKING:
    from pipeline.evals.study.figure import Figure
    from pipeline.evals.study.point import Point, Trained

Drawn = Literal["samples", "data", "compute"]


@dataclass(frozen=True)
class Study:
    """What is drawn of the pre-trainings among the stage's needs, and how figures call them.

    models, data: a name for each architecture and for each set of shards, in the order of the needs; () for the names
    that they have themselves. Pre-trainings of one architecture are one line.
    figures: "samples" is of few-shot results alone; "data" and "compute" are of fine-tuning and probes, of few-shot
    where there is nothing else. published: the paper's points are in the tables, too.
    """

    title: str
    models: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    figures: tuple[Drawn, ...] = ("samples", "data")
    split: str = "train"
    published: bool = True

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise ValueError("title: must not be empty; say what is compared, such as 'S/16 and B/16 on photographs'")
        for name in ("models", "data", "figures"):
            values = getattr(self, name)
            if len(set(values)) < len(values) or not all(value.strip() for value in values):
                raise ValueError(f"{name}: must be different words, got {values}")
        if not self.figures:
            raise ValueError("figures: must be one or more of 'samples', 'data', 'compute'")


def study(config: Study, *, out: str, cluster: Cluster, track: Track, **needs: Artifact) -> Mapping[str, Any]:
    """Draw the figures and write the tables of finished pre-trainings and of everything that was measured of them.

    `needs` are pre-trainings, the shards that each of them read, and stages whose results have `rows`. Returns
    {"figures": [{"name", "caption", "png", "svg"}], "table", "points", "headline"}. ValueError for needs that do not
    fit.
    """
    from pipeline.evals.study import point as points
    from pipeline.evals.study import table

    trained = _trained(config, needs)
    rows = [row for need in needs.values() for row in need.result.get("rows", ())]
    found = points.points(trained, rows)
    if not points.panels(found):
        raise ValueError(f"study: none of {', '.join(needs)} has rows; give it a finetune or transfer")
    track.params(encode(config))
    figures = []
    for figure in _figures(config, found):
        files = {f"{figure.name}.png": figure.png, f"{figure.name}.svg": figure.svg}
        png, svg = (_keep(name, data, out=out, track=track) for name, data in files.items())
        figures.append({"name": figure.name, "caption": figure.caption, "png": png, "svg": svg})
    every = table.points(found, published=config.published)
    text = table.markdown(config.title, found)
    for name, data in (("study.json", every.json()), ("study.md", text.encode())):
        _keep(name, data, out=out, track=track)
    csv = _keep("study.csv", every.csv(), out=out, track=track)
    track.note(text)
    return {"figures": figures, "table": csv, "points": len(found), "headline": points.headline(found)}


def _trained(config: Study, needs: Mapping[str, Artifact]) -> "list[Trained]":
    """The pre-trainings among the needs."""
    from pipeline.data.dataset import read_manifest
    from pipeline.evals.study.point import Trained

    weights = [need for need in needs.values() if "train_flops" in need.result]
    models = [decode(ViTConfig, one.result["model"], f"{one.stage}.model") for one in weights]
    read = [_read(one, needs) for one in weights]
    manifests = {uri: read_manifest(uri) for uris in read for uri in uris}
    models_named = _named("models", config.models, own={model: variant_name(model) for model in models})
    data_named = _named("data", config.data, own={uris: " + ".join(manifests[u].name for u in uris) for uris in read})
    return [
        Trained(
            model=models_named[model],
            data=data_named[uris],
            samples=sum(manifests[uri].num_samples(config.split) for uri in uris),
            images=int(one.result["images"]),
            parameters=int(one.result["parameters"]),
            flops=float(one.result["train_flops"]),
            digest=str(one.result["digest"]),
        )
        for one, model, uris in zip(weights, models, read, strict=True)
    ]


def _read(weights: Artifact, needs: Mapping[str, Artifact]) -> tuple[str, ...]:
    """The data sets of a pre-training, which its record names by their builds."""
    found = record.read(weights.uri)
    mixed = [share["name"] for share in found.config.get("mixture", ())] if found else []
    by_build = {need.id: need.uri for need in needs.values()}
    uris = [by_build.get(found.built_from.get(name, "")) if found else None for name in mixed or ["shards"]]
    if None in uris:
        raise ValueError(
            f"study: what {weights.stage} was trained on is none of {', '.join(needs)}; the stage that made its shards "
            "has to be a need, too"
        )
    return tuple(uri for uri in uris if uri is not None)


def _named(field: str, told: tuple[str, ...], *, own: Mapping[Any, str]) -> dict[Any, str]:
    """What to call each of `own`: as the config has it, else by its own name."""
    names = told or tuple(own.values())
    if len(names) != len(own) or len(set(names)) < len(names):
        raise ValueError(
            f"{field}: {', '.join(names)} are to name {len(own)}: {', '.join(own.values())}; one word for each, in "
            "this order, would be right"
        )
    return dict(zip(own, names, strict=True))


def variant_name(model: ViTConfig) -> str:
    """'B/16' of a variant in the table, else its width, depth and patch."""
    sizes = (model.width, model.depth, model.heads, model.mlp_dim)
    letters = next((letters for letters, known in VARIANTS.items() if known == sizes), None)
    return f"{letters or f'{model.width} x {model.depth}'}/{model.patch_px}"


def _figures(config: Study, found: "tuple[Point, ...]") -> "Iterator[Figure]":
    from pipeline.evals.study import figure as drawing
    from pipeline.evals.study import point as points

    fewshot = points.panels(point for point in found if point.is_fewshot)
    tuned = points.panels((*points.mean_of_five(found), *(point for point in found if not point.is_fewshot)))
    for name in config.figures:
        if name == "samples":
            if not fewshot:
                raise ValueError("figures: 'samples' is of few-shot results, and there are none; transfer with fewshot")
            yield drawing.of_samples(fewshot)
        else:
            yield {"data": drawing.of_data, "compute": drawing.of_compute}[name](tuned or fewshot)


def _keep(name: str, data: bytes, *, out: str, track: Track) -> str:
    """Write and track a file; returns where it is."""
    storage.write(storage.join(out, name), data)
    track.artifact(name, data)
    return storage.join(out, name)
