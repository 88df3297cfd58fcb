"""Results that are kept by name as soon as there are any, so that a killed stage does only what is missing."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.log import Progress
from pipeline.stage import Cluster, Member

log = logging.getLogger(__name__)

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Ledger:
    """One JSON file for each result under `uri`. A file of another `identity` is as good as none."""

    uri: str
    identity: str

    def find(self, name: str) -> Result | None:
        """The result of this name, or None."""
        try:
            entry = json.loads(storage.read(self._at(name)))
        except storage.NotFound:
            return None
        return entry["result"] if entry["identity"] == self.identity else None

    def put(self, name: str, result: Result) -> None:
        """Keep a result; the file appears whole or not at all."""
        entry = {"identity": self.identity, "result": result}
        storage.write(self._at(name), (json.dumps(entry, indent=1) + "\n").encode())

    def map(
        self,
        function: Callable[[Any], Result],
        items: Mapping[str, Any],
        *,
        cluster: Cluster,
        title: str,
        gpus: float | None = None,
    ) -> dict[str, Result]:
        """`function(item)` by name for every item, side by side, but for those whose result is here already.

        `function` gets the CPUs of a worker of the stage's resources, and its GPUs unless `gpus` says how many.
        """
        results = {name: self.find(name) for name in items}
        missing = [name for name, result in results.items() if result is None]
        if len(missing) < len(items):
            log.info("%s: %d of %d done already", title, len(items) - len(missing), len(items))
        if missing:
            resources = cluster.resources
            done = cluster.map(
                function,
                [items[name] for name in missing],
                title=title,
                cpus=resources.cpus_per_worker,
                gpus=resources.gpus_per_worker if gpus is None else gpus,
            )
            for index, result in done:
                results[missing[index]] = result
                self.put(missing[index], result)
        return {name: result for name, result in results.items() if result is not None}

    def gangs(
        self, function: Callable[[Member, Any], Result], items: Mapping[str, Any], *, cluster: Cluster, steps: int
    ) -> dict[str, Result]:
        """`function(member, item)` by name, one gang after the other, but for those whose result is here already.

        A gang shows how far it is of `steps` by messages {"step"}. What it kept in the folder <uri>/<name> is removed
        once there is a result.
        """
        results: dict[str, Result] = {}
        for name, item in items.items():
            result = self.find(name)
            if result is None:
                with Progress(steps, title=name, unit="steps") as progress:
                    result = cluster.gang(function, item, on_message=lambda message: _advance(progress, message))
                self.put(name, result)
            storage.remove_tree(storage.join(self.uri, name))
            results[name] = result
        return results

    def _at(self, name: str) -> str:
        return storage.join(self.uri, f"{name}.json")


def _advance(progress: Progress, message: Result) -> None:
    if message["step"] < progress.done:  # the gang was restarted
        progress.restart(message["step"])
    progress.advance(message["step"] - progress.done)
