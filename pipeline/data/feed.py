"""The border between reading and training: batches become torch tensors, ahead of time. Only this room knows torch.

Nothing here changes what is in a batch. torch is imported when a Feed is made.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from pipeline.data.reader import Batch

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """A reader's Batch on the device. images_BCHW are uint8, in memory channels last."""

    step: int
    images_BCHW: torch.Tensor
    labels_B: torch.Tensor
    ids_B: torch.Tensor
    actions_BN: torch.Tensor | None = None
    sources_BN: torch.Tensor | None = None
    mixed_B: torch.Tensor | None = None
    boxes_B4: torch.Tensor | None = None


class Feed:
    """An iterator over `batches` as TensorBatches on `device`, with up to `depth` of them made ahead by one thread.

    What the batches raise is raised by `next`, in its place in the order and from then on. For a CUDA device the thread
    copies into pinned memory, and `next` starts the transfer without waiting for it. Close it, or use it in a `with`:
    that ends the thread and closes the generator that it read from.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        *,
        depth: int = 2,
        device: str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if depth < 1:
            raise ValueError(f"depth: must be at least 1, got {depth}")
        import torch

        self._batches, self._clock = batches, clock
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._waited_s = self._total_waited_s = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tessera-feed", initializer=self._enter_thread)
        self._ahead = collections.deque(self._thread.submit(self._pull) for _ in range(depth))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TensorBatch:
        if not self._ahead:
            raise StopIteration
        began = self._clock()
        batch = self._ahead[0].result()
        self._waited_s = self._clock() - began
        self._total_waited_s += self._waited_s
        if batch is None:
            raise StopIteration
        self._ahead.popleft()
        self._ahead.append(self._thread.submit(self._pull))
        return self._sent(batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @property
    def ready(self) -> int:
        """Batches that are made and wait to be taken."""
        return sum(batch.done() for batch in tuple(self._ahead))

    @property
    def waited_s(self) -> float:
        """Seconds that the latest `next` waited for its batch to be made."""
        return self._waited_s

    @property
    def total_waited_s(self) -> float:
        """Seconds that all of them waited so far."""
        return self._total_waited_s

    def close(self) -> None:
        """End the thread, after the batch it is at, and close the batches; as often as you like."""
        self._ahead.clear()
        self._thread.shutdown(cancel_futures=True)
        if isinstance(self._batches, Generator):
            self._batches.close()

    def _enter_thread(self) -> None:
        if self._device.type == "cuda":  # else pinning would make a context on the first GPU, for every rank of a node
            import torch

            torch.cuda.set_device(self._device)

    def _pull(self) -> TensorBatch | None:
        """The next batch in (pinned) host memory; None after the last. Runs in the thread."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        return TensorBatch(
            step=batch.step,
            images_BCHW=self._tensor(batch.images_BHWC).permute(0, 3, 1, 2),
            labels_B=self._tensor(batch.labels_B),
            ids_B=self._tensor(batch.ids_B),
            actions_BN=None if batch.actions_BN is None else self._tensor(batch.actions_BN),
            sources_BN=None if batch.sources_BN is None else self._tensor(batch.sources_BN),
            mixed_B=None if batch.mixed_B is None else self._tensor(batch.mixed_B),
            boxes_B4=None if batch.boxes_B4 is None else self._tensor(batch.boxes_B4),
        )

    def _tensor(self, array: NDArray) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _sent(self, batch: TensorBatch) -> TensorBatch:
        """The batch on the device. The caching allocator keeps pinned memory until the transfer is through."""
        if self._device.type == "cpu":
            return batch
        tensors = {name: value for name, value in vars(batch).items() if name != "step" and value is not None}
        return replace(batch, **{name: value.to(self._device, non_blocking=True) for name, value in tensors.items()})
