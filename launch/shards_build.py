"""`tessera shards build`: images as they were found (a folder, tars, a table, shards of others) become a data set."""

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.border import errors

if TYPE_CHECKING:
    from pipeline.stage import Stage
    from pipeline.stages.prepare import Prepare

log = logging.getLogger("tessera")

_SHOWN = 3  # classes with fewest and with most samples


class Kind(StrEnum):
    """What a source is."""

    folder = "folder"
    archive = "archive"
    table = "table"
    webdataset = "webdataset"


class Folders(StrEnum):
    """Which folder of a member of a tar is its class."""

    first = "first"
    last = "last"


@dataclass(frozen=True)
class Reading:
    """How a source is read where its kind leaves a choice; None where the usual is meant."""

    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    classes: str | None = None
    class_folder: Folders | None = None


_CHOICES = {
    Kind.folder: (),
    Kind.archive: ("class_folder",),
    Kind.table: ("image_column", "label_column", "split_column", "classes"),
    Kind.webdataset: ("label_column", "classes"),
}


def build(
    source: Annotated[str, typer.Argument(help="A folder, a tar, a table or shards; s3://... or a path.")],
    out: Annotated[str, typer.Argument(help="Where the data set goes: a folder or s3://bucket/prefix.")],
    kind: Annotated[Kind | None, typer.Option(help="What SOURCE is. Default: what it looks like.")] = None,
    samples_per_shard: Annotated[int, typer.Option(help="At most; 100 MB to 1 GB a shard read well.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the shuffle.")] = 0,
    holdout: Annotated[float, typer.Option(help='The share of images that becomes the split "val".')] = 0.0,
    max_corrupt: Annotated[int, typer.Option(help="So many images may be left out.")] = 0,
    max_side_px: Annotated[int | None, typer.Option(help="Make images with a longer side smaller.")] = None,
    min_side_px: Annotated[int | None, typer.Option(help="Leave out images with a shorter side.")] = None,
    max_aspect: Annotated[float | None, typer.Option(help="Leave out images whose sides have a greater ratio.")] = None,
    classes: Annotated[str | None, typer.Option(metavar="FILE", help="Names of the classes, one a line.")] = None,
    class_folder: Annotated[Folders | None, typer.Option(help="Of members of a tar. Default: first.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Of a table. Default: image.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of a table, or field of .json. Default: label.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Of a table. Default: none.")] = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster. Default: a local one.", envvar="RAY_ADDRESS")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show debug lines, and tracebacks of errors.")] = False,
) -> None:
    """Make shards of labelled images. The same command goes on where a killed one stopped."""
    with errors(debug=debug):
        from pipeline.stages.prepare import Prepare

        reading = Reading(image_column, label_column, split_column, classes, class_folder)
        config = Prepare(
            source_of(source, kind=kind, holdout=holdout, reading=reading),
            samples_per_shard=samples_per_shard,
            seed=seed,
            max_corrupt=max_corrupt,
            max_side_px=max_side_px,
            min_side_px=min_side_px,
            max_aspect=max_aspect,
        )
        result = make(config, out=out, address=address)
        typer.echo(summary(result, out=out))


def source_of(path: str, *, kind: Kind | None, holdout: float, reading: Reading) -> Any:
    """The source that is meant. ValueError for an option that is not of its kind, or if it looks like none."""
    from pipeline import storage
    from pipeline.datasets.archive import Archive
    from pipeline.datasets.folder import Folder
    from pipeline.datasets.table import Table
    from pipeline.datasets.webshards import WebShards

    path = storage.absolute(path)
    if kind is None:
        kind = guessed(path)
        log.info("%s: read as %s; --kind says otherwise", path, kind.value)
    if foreign := [name for name, value in vars(reading).items() if value is not None and name not in _CHOICES[kind]]:
        option = foreign[0].replace("_", "-")
        raise ValueError(f"--{option}: does not go with --kind {kind.value}; leave it out, or name another kind")
    names = _classes(reading.classes) if reading.classes else ()
    if kind is Kind.folder:
        return Folder(path, holdout)
    if kind is Kind.archive:
        return Archive(path, holdout, class_folder=(reading.class_folder or Folders.first).value)
    if kind is Kind.webdataset:
        return WebShards(path, classes=names, label=reading.label_column or "label", holdout=holdout)
    return Table(
        path,
        image=reading.image_column or "image",
        label=reading.label_column or "label",
        split=reading.split_column or "",
        classes=names,
        holdout=holdout,
    )


def guessed(path: str) -> Kind:
    """What is at a path, by its name and the names below it; tars by what they begin with."""
    from pipeline import storage
    from pipeline.datasets import naming
    from pipeline.datasets.table import SUFFIXES
    from pipeline.datasets.webshards import looks_like_shard
    from pipeline.storage.expression import expanded

    if path.lower().endswith(SUFFIXES):
        return Kind.table
    if "{" in path:
        tars = list(expanded(path)[1].values())
    elif path.lower().endswith(".tar"):
        tars = [path]
    else:
        names = [name for name in storage.listing(path) if "/." not in f"/{name}"]
        if not names:
            raise ValueError(f"{path}: no files, or no such folder; name a folder of images, tars, a table or shards")
        tars = [storage.join(path, name) for name in names if name.lower().endswith(".tar")]
        tables = any(name.lower().endswith(SUFFIXES) for name in names)
        if not tars and tables and not any(naming.is_image(name) and "/" in name for name in names):
            return Kind.table
    if not tars:
        return Kind.folder
    return Kind.webdataset if looks_like_shard(tars[0]) else Kind.archive


def make(config: "Prepare", *, out: str, address: str | None) -> Mapping[str, Any]:
    """The result of preparing `config` at `out`: now, or when it was done. Drifted if it is of another config."""
    from launch import run
    from launch.cluster import connected
    from pipeline import record, storage
    from pipeline.config import encode
    from pipeline.data.dataset import manifest_uri
    from pipeline.stage import Stage
    from pipeline.stages.prepare import prepare

    out = storage.absolute(out)
    source = getattr(config.source, "path", "").rstrip("/")
    if f"{out}/".startswith(f"{source}/"):
        raise ValueError(f"{out}: is inside the source {source}, where it would be read as a part of it; name another")
    look = getattr(config.source, "pieces", None) or config.source.splits  # pyright: ignore[reportAttributeAccessIssue]
    look()  # what is not there is said before anything is begun
    stage = Stage("shards", prepare, config)
    storage.check_writable(out)
    with run.alone(out):
        if done := _begun(stage, out, record.DONE):
            log.info("%s: done already; nothing to do", out)
            return done.result or {}
        begun = _begun(stage, out, record.BEGUN)
        if begun is None:
            if storage.exists(manifest_uri(out)):
                raise ValueError(f"{out}: holds a data set already, which was not made by this command; name another")
            begun = record.Record(uuid.uuid4().hex, stage.name, stage.identity(), {}, encode(config), run.code())
            record.write(out, begun, record.BEGUN)
        else:
            log.info("%s: goes on where it was", out)
        started = time.monotonic()
        log.info("starting Ray (%s)", address or "local")
        with connected(address=address) as cluster:
            result = prepare(config, out=out, cluster=cluster, track=Untracked())
        wall_s = time.monotonic() - started
        record.write(out, replace(begun, config=encode(config), result=result, wall_s=wall_s))
    return result


def _begun(stage: "Stage", out: str, name: str) -> Any:
    """The record of that name at `out`, if there is one. Drifted if another config is on record."""
    from pipeline import record
    from pipeline.config import diff

    found = record.read(out, name)
    if found and (changes := diff(found.identity, stage.identity())):
        lines = "\n  ".join(changes)
        raise record.Drifted(
            f"{out}: holds, or was begun as, something else:\n  {lines}\nName another OUT, or remove it."
        )
    return found


class Untracked:
    """A `pipeline.stage.Track` that tells nobody."""

    def params(self, values: Mapping[str, Any]) -> None: ...
    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None: ...
    def tags(self, values: Mapping[str, str]) -> None: ...
    def dataset(self, *, name: str, digest: str, source: str, context: str) -> None: ...
    def artifact(self, name: str, data: bytes) -> None: ...
    def note(self, markdown: str) -> None: ...
    def model(
        self, *, name: str, uri: str, digest: str, params: Mapping[str, Any] | None = None, step: int = 0
    ) -> None: ...
    def child(self, name: str, *, kind: str = "trial") -> Any:
        raise AssertionError("a data set has no trials")


def summary(result: Mapping[str, Any], *, out: str) -> str:
    """What was made, for people."""
    from pipeline.data.dataset import read_manifest
    from pipeline.data.quarantine import list_uri

    manifest = read_manifest(out)
    if len(manifest.classes) == 1:
        log.warning(
            "all images are of one class, %s: if that is a folder above the classes, name the one that holds them; "
            "for a tar, give --class-folder last",
            manifest.classes[0],
        )
    lines = [
        f"{out}: {result['samples']} samples of {result['classes']} classes, "
        f"{result['bytes'] / 1e6:.1f} MB in {result['shards']} shards"
    ]
    for split, counts in manifest.class_counts.items():
        lines.append(f"  {split}: {sum(counts)} samples; {balance(counts, manifest.classes)}")
    left_out = result["quarantined"]
    lines.append(f"  left out: {left_out}" + (f"; see {list_uri(out)}" if left_out else ""))
    lines.append(f"  digest: {result['digest']}")
    return "\n".join([*lines, f"Look at it: tessera shards show {out} --out sheet.png"])


def balance(counts: Sequence[int], classes: Sequence[str]) -> str:
    """Which classes have fewest and most samples."""
    if min(counts) == max(counts):
        return f"{counts[0]} of every class"
    ranked = [f"{name} {count}" for count, name in sorted(zip(counts, classes, strict=True))]
    if len(ranked) <= 2 * _SHOWN:
        return ", ".join(ranked)
    return f"fewest: {', '.join(ranked[:_SHOWN])}; most: {', '.join(ranked[: -_SHOWN - 1 : -1])}"


def _classes(path: str) -> tuple[str, ...]:
    from pipeline import storage

    try:
        lines = storage.read(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--classes: {path} is no text ({error}); write one name a line, in UTF-8") from error
    return tuple(line.strip() for line in lines if line.strip())
