"""The rows of a parquet file, and the images inside it. The only user of pyarrow, and lazily.

Columns are compressed in groups of rows, so that one image costs as much to read as a thousand. Images are therefore
copied out, in order, into a plain file that is read by ranges, while the data set is prepared.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pipeline import storage
from pipeline.datasets import naming
from pipeline.datasets.rows import WHOLE
from pipeline.storage.ranged import Ranged

_ROWS_AT_ONCE = 128


class Copying:
    """The file that images are copied to; a row without an image in it only names one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num_bytes = 0

    def put(self, image: Any, *, unnamed: str) -> tuple[Any, int, int]:
        """Name, offset and size of an image that is bytes, a struct of them, or a path (whose size is WHOLE)."""
        data, name = image, None
        if isinstance(image, dict):
            data, name = image.get("bytes"), image.get("path")
        if not isinstance(data, bytes):
            return (name if isinstance(image, dict) else image), 0, WHOLE
        offset = self.num_bytes
        self._file.write(data)
        self.num_bytes += len(data)
        # Names of embedded images repeat from file to file ("0.png"), so they come after the place.
        named = isinstance(name, str) and name.isprintable() and name
        return (f"{unnamed}/{name}" if named else unnamed), offset, len(data)


@contextlib.contextmanager
def copying(uri: str) -> Iterator[Copying]:
    """What is copied appears at `uri`, whole, in the end; nothing if there was nothing to copy."""
    with tempfile.TemporaryDirectory(prefix="tessera-table-") as folder:
        path = Path(folder) / "images"
        with path.open("wb") as file:
            copies = Copying(file)
            yield copies
        if copies.num_bytes:
            storage.upload(path, uri)


def rows(file: Ranged, *, columns: Sequence[str]) -> tuple[Iterator[Mapping[str, Any]], Mapping[str, Sequence[str]]]:
    """The rows, and the class names that Hugging Face's metadata declare for a column. ValueError if it is not such."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, storage.StorageError):
            raise
        raise ValueError(f"{file.uri}: is no parquet file, or a damaged one ({error}); copy it again") from error
    schema = table.schema_arrow
    if missing := next((column for column in columns if column not in schema.names), None):
        raise ValueError(f"{file.uri}: has no column {missing!r}; it has {', '.join(map(naming.shown, schema.names))}")
    batches = table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(columns))
    return (row for batch in batches for row in batch.to_pylist()), _declared(schema.metadata or {})


def _declared(metadata: Mapping[bytes, bytes]) -> Mapping[str, Sequence[str]]:
    """The names of the classes per column, where {"info": {"features": {<column>: {"names": [...]}}}} says so."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {column: tuple(map(str, about["names"])) for column, about in features.items() if about.get("names")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
