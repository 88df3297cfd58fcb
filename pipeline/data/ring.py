"""Memory that two processes share, cut into equal slots that each hold the arrays of one batch. Knows no batches.

The memory is anonymous (memfd): it has no name, so no crash leaves it behind, and no container's /dev/shm limits it.
"""

import math
import mmap
import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Fields = Mapping[str, tuple[tuple[int, ...], str]]  # of each array: shape and dtype

_ALIGNED = 64  # bytes: a cache line


class Ring:
    """`slots` slots for arrays of `fields`. `descriptor` is that of another process's Ring; None makes the memory."""

    def __init__(self, fields: Fields, *, slots: int, descriptor: int | None = None) -> None:
        self._fields, self.slots = dict(fields), slots
        self._starts, end = {}, 0
        for name, (shape, dtype) in self._fields.items():
            self._starts[name] = end
            end += -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNED) * _ALIGNED
        self._slot_bytes = max(end, _ALIGNED)
        self.descriptor = os.memfd_create("tessera-batches") if descriptor is None else descriptor
        try:
            if descriptor is None:
                os.ftruncate(self.descriptor, slots * self._slot_bytes)
            self._memory = mmap.mmap(self.descriptor, slots * self._slot_bytes)
        except OSError:
            os.close(self.descriptor)
            raise

    def slot(self, number: int) -> NDArray[np.uint8]:
        """The bytes of a slot, a new array each time: while anything made by `arrays` lives, it does."""
        return np.frombuffer(self._memory, np.uint8, count=self._slot_bytes, offset=number * self._slot_bytes)

    def arrays(self, slot: NDArray[np.uint8]) -> dict[str, NDArray]:
        """The arrays in the bytes of a slot, by name."""
        found = {}
        for name, (shape, dtype) in self._fields.items():
            start = self._starts[name]
            stop = start + math.prod(shape) * np.dtype(dtype).itemsize
            found[name] = slot[start:stop].view(dtype).reshape(shape)
        return found
