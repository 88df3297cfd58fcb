"""`tessera shards index`: shards that others wrote become a data set, where they are."""

import dataclasses
import logging
from typing import Annotated

import typer

from launch.border import errors

log = logging.getLogger("tessera")


def index(
    tars: Annotated[
        str, typer.Argument(help="A folder or prefix of *.tar, or such as 's3://bucket/x-{000000..000146}.tar'.")
    ],
    out: Annotated[str, typer.Argument(help="A folder or prefix for the manifest and the indexes.")],
    split: Annotated[str, typer.Option(help="What these tars are; call once for each split.")] = "train",
    label: Annotated[
        str | None, typer.Option(metavar="cls|json:FIELD", help="Default: .cls, else label or cls of .json.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="FILE", help="Class names, one per line. Default: 0 to the largest label.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the data set. Default: that of the folder of the tars.")] = None,
    max_corrupt: Annotated[int, typer.Option(min=0, help="Samples that may be left out.")] = 0,
    max_member_mib: Annotated[int, typer.Option(min=1, max=4095, help="A larger image is left out.")] = 256,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster. Default: a local one.", envvar="RAY_ADDRESS")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Tars read at once. Default: one per core.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show debug lines, and tracebacks of errors.")] = False,
) -> None:
    """Index WebDataset shards where they are, for training: each is read once, nothing is copied or changed.

    The same command goes on where a killed one stopped.
    """
    with errors(debug=debug):
        from launch.cluster import connected
        from pipeline.data import foreign
        from pipeline.stage import Resources

        config = foreign.Foreign(
            tars,
            split=split,
            label=label,
            classes=foreign.classes_of(classes) if classes else None,
            name=name,
            max_corrupt=max_corrupt,
            max_member_bytes=max_member_mib << 20,
        )
        with connected(address=address, cpus=jobs) as cluster:
            wanted = dataclasses.replace(cluster, resources=Resources(workers=jobs))
            manifest = foreign.index(config, out=out, cluster=wanted)
        log.info(
            "%s: %s, %d samples in %d shards of %s, %d classes, digest %s",
            out,
            manifest.name,
            manifest.num_samples(split),
            len(manifest.shards(split)),
            split,
            len(manifest.classes),
            manifest.digest,
        )
