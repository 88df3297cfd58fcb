"""The borders of the house, faked: machines and tracking that live in the test's own process."""

import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from pipeline.stage import Notice, Resources


class InProcessCluster:
    """Runs everything here, one after the other; what would travel between machines is pickled all the same."""

    def __init__(self, resources: Resources = Resources(workers=1)) -> None:
        self.resources = resources
        self.titles = []

    def map(self, function, items, *, title: str, cpus: float = 1, gpus: float = 0) -> Iterator[tuple]:
        self.titles.append(title)
        function = _travel(function)
        for index in range(len(items)):
            yield index, _travel(function(_travel(items[index])))

    def gang(self, function, payload, *, on_message):
        """A gang of one. `torch.distributed` is not initialised."""
        member = FakeMember(send=lambda message: on_message(_travel(message)))
        return _travel(function(member, _travel(payload)))


class FakeMember:
    """A member of a gang that a test has in its hands: it keeps what it sends, and is told what `told` holds."""

    def __init__(
        self, *, rank=0, world_size=1, local_rank=None, hosts=(), send=None, told: Notice | None = None
    ) -> None:
        self.rank, self.world_size, self.hosts, self.told = rank, world_size, hosts, told
        self.local_rank = rank if local_rank is None else local_rank
        self.sent = []
        self._send = send or self.sent.append

    def send(self, message: Mapping) -> None:
        self._send(dict(message))

    def notice(self) -> Notice | None:
        return self.told if self.rank == 0 else None


class InProcessHost:
    """A host of threads in the test's own process; `die` empties its memory, as a machine that is lost would."""

    def __init__(self) -> None:
        self.memory, self.asked, self._pool = {}, [], ThreadPoolExecutor(4)

    def ask(self, function, *arguments) -> "Future":
        self.asked.append(function.__name__)
        return self._pool.submit(self._do, _travel((function, arguments)))

    def die(self) -> None:
        self.memory = {}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _do(self, work):
        function, arguments = work
        return _travel(function(self.memory, *arguments))


class NullTrack:
    """Tracks nothing anywhere; a test may ask what it was told."""

    def __init__(self) -> None:
        self.told_params, self.told_tags, self.told_artifacts, self.children = {}, {}, {}, {}
        self.told_metrics, self.told_datasets, self.told_notes = [], [], []

    def params(self, values: Mapping) -> None:
        self.told_params.update(values)

    def metrics(self, values: Mapping, *, step: int = 0) -> None:
        self.told_metrics.append((step, dict(values)))

    def tags(self, values: Mapping) -> None:
        self.told_tags.update(values)

    def dataset(self, *, name: str, digest: str, source: str, context: str) -> None:
        self.told_datasets.append({"name": name, "digest": digest, "source": source, "context": context})

    def artifact(self, name: str, data: bytes) -> None:
        self.told_artifacts[name] = data

    def model(self, *, name: str, uri: str, digest: str, params: Mapping | None = None, step: int = 0) -> None:
        self.told_tags.update({"checkpoint": uri, "checkpoint_digest": digest})

    def note(self, markdown: str) -> None:
        self.told_notes.append(markdown)

    @contextmanager
    def child(self, name: str, *, kind: str = "trial") -> Iterator["NullTrack"]:
        self.children[name] = NullTrack()
        yield self.children[name]


def _travel(thing):
    return pickle.loads(pickle.dumps(thing))
