"""`tessera shards index`: shards that others wrote become a data set, where they are."""

import dataclasses
import logging
from typing import TYPE_CHECKING, Annotated

import typer

from launch.border import errors

if TYPE_CHECKING:
    from pipeline.data.dataset import Manifest
    from pipeline.data.foreign import Foreign

log = logging.getLogger("tessera")


Tars = Annotated[
    str, typer.Argument(help="A folder or prefix of *.tar, or such as 's3://bucket/x-{000000..000146}.tar'.")
]
Out = Annotated[str, typer.Argument(help="A folder or prefix for the manifest and the indexes.")]
Label = Annotated[str | None, typer.Option(metavar="cls|json:FIELD", help="Default: .cls, else label or cls of .json.")]
Classes = Annotated[
    str | None, typer.Option(metavar="FILE", help="Class names, one per line. Default: 0 to the largest label.")
]
Address = Annotated[str | None, typer.Option(help="A Ray cluster. Default: a local one.", envvar="RAY_ADDRESS")]


def index(
    tars: Tars,
    out: Out,
    split: Annotated[str, typer.Option(help="What these tars are; call once for each split.")] = "train",
    label: Label = None,
    classes: Classes = None,
    name: Annotated[str | None, typer.Option(help="Of the data set. Default: that of the folder of the tars.")] = None,
    max_corrupt: Annotated[int, typer.Option(min=0, help="Samples that may be left out.")] = 0,
    max_member_mib: Annotated[int, typer.Option(min=1, max=4095, help="A larger image is left out.")] = 256,
    address: Address = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Tars read at once. Default: one per core.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show debug lines, and tracebacks of errors.")] = False,
) -> None:
    """Index WebDataset shards where they are, for training: each is read once, nothing is copied or changed.

    The same command goes on where a killed one stopped.
    """
    with errors(debug=debug):
        from pipeline.data import foreign

        config = foreign.Foreign(
            tars,
            split=split,
            label=label,
            classes=foreign.classes_of(classes) if classes else None,
            name=name,
            max_corrupt=max_corrupt,
            max_member_bytes=max_member_mib << 20,
        )
        manifest = _indexed(config, out=out, address=address, jobs=jobs)
        samples, shards = manifest.num_samples(split), len(manifest.shards(split))
        about = f"{len(manifest.classes)} classes, digest {manifest.digest}"
        log.info("%s: %s, %d samples in %d shards of %s, %s", out, manifest.name, samples, shards, split, about)


def _indexed(config: "Foreign", *, out: str, address: str | None, jobs: int | None) -> "Manifest":
    from launch.cluster import connected
    from pipeline.data import foreign
    from pipeline.stage import Resources

    with connected(address=address, cpus=jobs) as cluster:
        wanted = dataclasses.replace(cluster, resources=Resources(workers=jobs))
        return foreign.index(config, out=out, cluster=wanted)
