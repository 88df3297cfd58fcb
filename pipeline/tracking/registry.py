"""Champions in MLflow's model registry: a registered model for each line of checkpoints, a version for each move.

The alias `champion` says which version is in use. A version is made for nothing but a move and is never changed, so
the versions are the history of moves: what moved, when, by whom, by which rule, and why.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.tracking.read import ask, iso, pages, quoted, reader
from pipeline.tracking.redact import environment_secrets, redact
from pipeline.tracking.view import user

ALIAS = "champion"
_TAG = "tessera."
_KEPT = ("checkpoint", "checkpoint_digest", "model_id", "recipe", "why", "rule", "before", "by")


@dataclass(frozen=True)
class Move:
    """One move of the alias, to a checkpoint. `before` is the digest of the one that was champion, "" for the first.

    `why` is a sentence with the figures, `rule` the rule as JSON, "" where somebody decided. `created` is ISO, UTC.
    """

    version: int
    created: str
    checkpoint: str
    checkpoint_digest: str
    model_id: str
    recipe: str
    why: str
    rule: str
    before: str
    by: str


@dataclass(frozen=True)
class Line:
    """A registered model: its champion, if it has one, and every move there was, oldest first."""

    name: str
    champion: Move | None
    moves: tuple[Move, ...]

    @property
    def is_by_hand(self) -> bool:
        """The alias is not where the last move left it: somebody has set it elsewhere, such as in MLflow's UI."""
        return bool(self.moves) and self.champion != self.moves[-1]


class Outrun(RuntimeError):
    """Another move was made in the meantime, so that what was judged is not what would be replaced."""


def line_name(name: str) -> str:
    """What MLflow takes as the name of a registered model."""
    return re.sub(r"[/:]", "-", name)


def lines(uri: str, *, name: str | None = None) -> list[Line]:
    """Every line that `move` has made, or that of a name, in two requests a page. Raises what `search` raises."""
    client = reader(uri)
    query = None if name is None else f"name = {quoted(line_name(name))}"
    champions = {
        model.name: int(model.aliases[ALIAS]) if ALIAS in model.aliases else None
        for model in pages(uri, client.search_registered_models, query)
    }
    moves: dict[str, list[Move]] = {}
    for version in pages(uri, client.search_model_versions, query):
        if f"{_TAG}checkpoint_digest" in version.tags:
            moves.setdefault(version.name, []).append(_move(version))
    return [_line(name, champions.get(name), found) for name, found in sorted(moves.items())]


def move(uri: str, *, line: str, expected: Line | None, facts: Mapping[str, str]) -> Move:
    """Make a checkpoint the champion of `line`, by one version more. `facts` are the fields of Move that are text;
    "model_id", of a logged model, must be among them.

    `expected` is the line as it was judged: Outrun where it is another by now. Raises what `search` raises.
    """
    client, name = reader(uri), line_name(line)
    found = next(iter(lines(uri, name=name)), None)
    if found != expected:
        raise Outrun(f"{name}: the champion has moved meanwhile; look again, and then decide")
    _register(client, uri, name)
    secrets = environment_secrets()
    tags = {f"{_TAG}{key}": redact(facts.get(key, ""), secrets=secrets) for key in _KEPT} | {f"{_TAG}by": user()}
    source = f"models:/{facts['model_id']}"
    with _tracked_at(uri):
        made = ask(uri, client.create_model_version, name, source, tags=tags, model_id=facts["model_id"])
    ask(uri, client.set_registered_model_alias, name, ALIAS, str(made.version))
    return _move(made)


def _register(client: Any, uri: str, name: str) -> None:
    if next(pages(uri, client.search_registered_models, f"name = {quoted(name)}"), None) is None:
        ask(uri, client.create_registered_model, name)


@contextmanager
def _tracked_at(uri: str) -> Iterator[None]:
    """A registry in a database looks a model up where MLflow is by default, and not where the client is."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _line(name: str, champion: int | None, moves: list[Move]) -> Line:
    moves.sort(key=lambda move: move.version)
    return Line(name, next((move for move in moves if move.version == champion), None), tuple(moves))


def _move(version: Any) -> Move:
    facts = {key: version.tags.get(f"{_TAG}{key}", "") for key in _KEPT}
    return Move(int(version.version), iso(version.creation_timestamp), **facts)
