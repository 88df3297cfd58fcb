"""How a global batch is cut: into a part for each rank, and a part into micro-batches. Standard library only.

The global batch is the recipe's, the number of ranks is the machines'. Any number of them up to the batch computes the
same gradient: parts differ by at most one image, all ranks have equally many micro-batches (ZeRO's collectives need
that), and each micro-batch's mean loss is weighted by how many images it has.
"""

import dataclasses
import itertools
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Part:
    """The part of rank `rank`. `most` images are computed at once, 0 for the whole part; `paired` ones stay together.

    ValueError where there are more ranks than images (or pairs).
    """

    global_batch: int
    world_size: int
    rank: int
    most: int = 0
    paired: bool = False

    def __post_init__(self) -> None:
        unit = 2 if self.paired else 1
        if self.global_batch % unit:
            raise ValueError(f"global_batch: images are mixed in pairs, so it must be even, got {self.global_batch}")
        if self.most and self.most < unit:
            raise ValueError(f"micro_batch: images are mixed in pairs, so it must be at least 2, got {self.most}")
        if self.global_batch // unit < self.world_size:
            raise ValueError(
                f"global_batch: {self.global_batch} does not give each of {self.world_size} workers "
                f"{'a pair of images' if self.paired else 'an image'}; at most {self.global_batch // unit} workers "
                "would be right"
            )

    @property
    def slots(self) -> tuple[int, int]:
        """[start, stop) in the global batch."""
        return self._parts[self.rank]

    @property
    def accumulate(self) -> int:
        """Micro-batches of a step, the same on every rank."""
        largest = max(stop - start for start, stop in self._parts)
        most = self.most or largest
        return -(-largest // (most - most % 2 if self.paired else most))

    @property
    def cuts(self) -> tuple[int, ...]:
        """The micro-batches' borders within the part: `accumulate` + 1 numbers from 0 to its size."""
        start, stop = self.slots
        return tuple(_border(i, self.accumulate, stop - start, paired=self.paired) for i in range(self.accumulate + 1))

    @property
    def pieces(self) -> Sequence[tuple[int, int]]:
        """[start, stop) of what is computed at once, within the part. A rank with fewer images than there are
        micro-batches computes one of them once more, with weight 0, because the others wait for it.
        """
        unit = 2 if self.paired else 1
        return [(start, max(stop, start + unit)) for start, stop in itertools.pairwise(self.cuts)]

    @property
    def largest(self) -> int:
        """Images of the largest micro-batch of this rank."""
        return max(stop - start for start, stop in self.pieces)

    @property
    def weights(self) -> Sequence[float] | None:
        """What to multiply the mean losses of the micro-batches by, so that the mean over micro-batches and ranks is
        that over the images; None where all have equally many.
        """
        together = self.accumulate * self.world_size
        sizes = [stop - start for start, stop in itertools.pairwise(self.cuts)]
        if self.global_batch % (together * (2 if self.paired else 1)) == 0:
            return None
        return [size * together / self.global_batch for size in sizes]

    def of_ranks(self, first: int, stop: int) -> tuple[int, int]:
        """[start, stop) of all images of the ranks [first, stop)."""
        return self._parts[first][0], self._parts[stop - 1][1]

    @property
    def _parts(self) -> list[tuple[int, int]]:
        borders = [
            _border(rank, self.world_size, self.global_batch, paired=self.paired) for rank in range(self.world_size + 1)
        ]
        return list(itertools.pairwise(borders))


def _border(number: int, parts: int, size: int, *, paired: bool) -> int:
    """Where part `number` of `size` images begins, pairs being kept together."""
    unit = 2 if paired else 1
    return number * (size // unit) // parts * unit
