"""`tessera shards`: data sets are built or indexed, and looked at before GPU hours are spent on them."""

import json
import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch import shards_build, shards_index
from launch.border import FAILED, errors

if TYPE_CHECKING:
    from pipeline.data.inspect import Problem

app = typer.Typer(no_args_is_help=True, help="Make a data set: build, index. Look at one: verify, stat, show.")
app.command()(shards_build.build)
app.command()(shards_index.index)
log = logging.getLogger("tessera")

_SHOWN = 50  # problems in the table; all of them with --output json


class Seen(StrEnum):
    """How `show` shows an image."""

    train = "train"
    eval = "eval"
    raw = "raw"


class Format(StrEnum):
    """How a command prints."""

    table = "table"
    json = "json"


Uri = Annotated[str, typer.Argument(help="A folder or s3://bucket/prefix with manifest.json in it.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show debug lines, and tracebacks of errors.")]


@app.command()
def verify(
    uri: Uri,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Shards read at once.")] = 4,
    output: Annotated[Format, typer.Option()] = Format.table,
    debug: Debug = False,
) -> None:
    """Read every byte: digests of shards, indexes and samples, labels, and that every image decodes."""
    with errors(debug=debug):
        from pipeline.data import inspect
        from pipeline.data.dataset import read_manifest

        manifest = read_manifest(uri)
        splits = [split] if split else list(manifest.splits)
        total = sum(len(manifest.shards(name)) for name in splits)
        through = 0

        def on_shard(shard: Any) -> None:
            nonlocal through
            through += 1
            log.info("%d of %d shards: %s", through, total, shard.name)

        found = [bad for name in splits for bad in inspect.verify(uri, split=name, jobs=jobs, on_shard=on_shard)]
        typer.echo(_problems(found, output=output.value, samples=sum(map(manifest.num_samples, splits))))
        if found:
            raise typer.Exit(FAILED)


@app.command()
def stat(uri: Uri, output: Annotated[Format, typer.Option()] = Format.table, debug: Debug = False) -> None:
    """Classes, samples, bytes, shards, balance of the classes and sizes of the images."""
    with errors(debug=debug):
        from pipeline.data.inspect import statistics_of

        found = statistics_of(uri)
        typer.echo(json.dumps(found, indent=1) if output is Format.json else _statistics(found))


@app.command()
def show(
    uri: Uri,
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="Where the picture goes: .png or .jpg.")],
    split: Annotated[str, typer.Option()] = "train",
    shard: Annotated[int, typer.Option(help="Its number in the split.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Samples of it.")] = 64,
    image_px: Annotated[int, typer.Option(min=16, help="Side of a tile.")] = 112,
    seen: Annotated[
        Seen, typer.Option("--as", help="A random training crop, the evaluation view, or whole.")
    ] = Seen.train,
    debug: Debug = False,
) -> None:
    """Draw a contact sheet of a shard, its images as the model sees them."""
    with errors(debug=debug):
        from pipeline.data.inspect import sheet

        page = sheet(uri, split=split, shard=shard, count=count, image_px=image_px, view=seen.value)
        try:
            page.save(out)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--out: {out} cannot be written: {error}; name a .png or .jpg in a folder of yours"
            ) from error
        log.info("%s: %d x %d px", out, page.width, page.height)


def _problems(found: "list[Problem]", *, output: str, samples: int) -> str:
    if output == "json":
        return json.dumps([vars(bad) for bad in found], indent=1)
    if not found:
        return f"{samples} samples, every byte as it was written, every image decodes"
    lines = [f"{bad.shard}  {'whole' if bad.sample is None else bad.sample}  {bad.reason}" for bad in found[:_SHOWN]]
    more = [f"... and {len(found) - _SHOWN} more: --output json shows all"] if len(found) > _SHOWN else []
    return "\n".join([*lines, *more, f"{len(found)} problems in {samples} samples; prepare the data set again"])


def _statistics(found: dict[str, Any]) -> str:
    lines = [f"{found['name']}  {found['classes']} classes  digest {found['digest']}"]
    for split, about in found["splits"].items():
        formats = ", ".join(f"{count} {kind}" for kind, count in about["formats"].items())
        lines += [
            "",
            f"{split}: {about['samples']} samples, {about['bytes'] / 1e6:.1f} MB in {about['shards']} shards",
            f"  samples per shard  {_range(about['samples_per_shard'])}",
            f"  samples per class  {_range(about['samples_per_class'])}",
            f"  label mixing       {about['label_mixing']:g} (1: each shard is a fair draw, 0: sorted by class)",
            f"  width, px          {_range(about['width_px'])}",
            f"  height, px         {_range(about['height_px'])}",
            f"  bytes of an image  {_range(about['image_bytes'])}",
            f"  looked at          {about['looked_at']} images: {formats}, {about['corrupt']} corrupt",
        ]
    return "\n".join(lines)


def _range(spread: dict[str, float]) -> str:
    return f"{spread['min']:g} to {spread['max']:g}, median {spread['median']:g}" if spread else "none"
