"""Whose results there are: weights and draws by names that people can say, and what papers report of their like."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.query import Row
from pipeline.evals import compare, paper
from pipeline.models.variant import VARIANTS
from pipeline.tracking import Line, Query, line_name, models, search

PRETRAININGS = Query(kind="stage", reads="pretrain")
_RELATIVE = ("champion", "random", "previous")
NAMES = "champion, newest, previous, random, a recipe, the beginning of a digest, or a URI"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Weights, or a draw (`init` "random"), as a recipe measures them.

    Times are ISO, UTC. `created` is the end of the run that made the weights, where MLflow has it (when MLflow heard of
    them is another time, since it may be filled anew), else the first result; `begun` is that run's start.
    """

    recipe: str
    uri: str
    digest: str
    init: str
    created: str
    begun: str = ""
    model: str = ""
    data: str = ""
    model_id: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.recipe, self.digest or self.uri or self.init

    @property
    def is_draw(self) -> bool:
        return self.init == compare.RANDOM

    @property
    def name(self) -> str:
        """nightly@9f3a1c22, study/half@9f3a1c22 of a stage that is not called pretrain, nightly (random init)."""
        if self.is_draw:
            return f"{self.recipe} (random init)"
        stage = self.uri.rstrip("/").split("/")[-2:-1]
        place = f"/{stage[0]}" if stage and stage[0] not in ("", "pretrain", self.recipe) else ""
        return f"{self.recipe}{place}@{self.digest[:8] or self.uri.rpartition('/')[2]}"


def known(uri: str) -> list[Checkpoint]:
    """Every checkpoint in MLflow, measured or not, newest first. Raises what `pipeline.tracking.search` raises."""
    runs = {run["run_id"]: run for run in search(uri, PRETRAININGS)}
    found = []
    for model in models(uri):
        run = runs.get(model["run_id"], {"reads": {}, "created": "", "ended": ""})
        one = Checkpoint(
            recipe=model["experiment"],
            uri=model["checkpoint"],
            digest=model["digest"],
            init=compare.PRETRAINED,
            created=run["ended"] or model["created"],
            begun=run["created"],
            model=variant(model["params"]),
            data=" + ".join(run["reads"].get("pretrain", ())),
            model_id=model["model_id"],
        )
        found.append(one)
    return sorted(found, key=lambda one: one.created, reverse=True)


def variant(params: Mapping[str, str]) -> str:
    """'L/16' of the params of a logged model; '' of sizes that no paper names."""
    sizes = tuple(params.get(name, "") for name in ("width", "depth", "heads", "mlp_dim"))
    letters = next((letters for letters, known in VARIANTS.items() if tuple(map(str, known)) == sizes), None)
    return f"{letters}/{params.get('patch_px', '')}" if letters else ""


def measured(rows: Iterable[Row], known: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those that the rows are of, newest first, draws last."""
    by_digest = {one.digest: one for one in reversed(known)}
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.key not in first or row.created < first[row.key].created:
            first[row.key] = row
    found = []
    for row in first.values():
        one = by_digest.get(row.checkpoint_digest) if row.checkpoint_digest else None
        own = {"recipe": row.recipe, "uri": row.checkpoint, "digest": row.checkpoint_digest, "init": row.init}
        found.append(dataclasses.replace(one, **own) if one else Checkpoint(**own, created=row.created))
    return sorted(sorted(found, key=lambda one: one.created, reverse=True), key=lambda one: one.is_draw)


def beside_paper(rows: Iterable[Row], checkpoints: Iterable[Checkpoint]) -> list[Row]:
    """The rows with the model and data of their checkpoints, and what a paper reports of these, if it does."""
    by_key = {one.key: one for one in checkpoints if not one.is_draw}
    return [_beside(row, by_key[row.key]) if row.key in by_key else row for row in rows]


def _beside(row: Row, one: Checkpoint) -> Row:
    found = _reported(one.model, one.data, *row.column)
    told: dict[str, Any] = {"model": one.model, "data": one.data}
    if found is not None:
        told |= {"paper": found.mean, "paper_table": found.table, "difference": row.mean - found.mean}
    return dataclasses.replace(row, **told)


@functools.cache
def _reported(model: str, data: str, task: str, protocol: str, metric: str) -> paper.Reported | None:
    if not (model and data):
        return None
    return paper.find(model, data=data, task=task, protocol=protocol, metric=metric)


def champion_of(recipe: str, lines: Iterable[Line]) -> str | None:
    """The digest of a recipe's champion, None where it has none."""
    found = (line.champion for line in lines if line.name == line_name(recipe))
    return next((move.checkpoint_digest for move in found if move is not None), None)


def resolve(name: str, checkpoints: Sequence[Checkpoint], *, lines: Sequence[Line], recipe: str = "") -> Checkpoint:
    """The one of `checkpoints` (newest first) that is meant; see NAMES. FileNotFoundError where there is none,
    ValueError where several are. `recipe` decides where each recipe has one."""
    weights = [one for one in checkpoints if not one.is_draw]
    own = [one for one in checkpoints if recipe in ("", one.recipe)]
    newest = [one for one in own if not one.is_draw][:1]
    by_word = {
        "champion": [one for one in own if one.digest and one.digest == champion_of(one.recipe, lines)],
        "random": [one for one in own if one.is_draw],
        "newest": newest,
        "previous": [one for one in weights if newest and one.recipe == newest[0].recipe][1:2],
    }
    found = by_word.get(name)
    if found is None:
        exact = [one for one in checkpoints if name and name in (one.name, one.uri, one.digest)]
        found = exact or [one for one in weights if name and one.digest.startswith(name)]
        found = found or [one for one in weights if one.recipe == name][:1]
    if not found:
        there = ", ".join(one.name for one in checkpoints[:8]) or "none"
        more = ", ..." if len(checkpoints) > 8 else ""
        raise FileNotFoundError(f"{name!r}: no such checkpoint has results; there are {there}{more}. Name {NAMES}")
    if len(found) > 1 and any(one.recipe == recipe for one in found):
        found = [one for one in found if one.recipe == recipe]
    if len(found) > 1:
        raise ValueError(f"{name!r}: may be {' or '.join(one.name for one in found[:8])}; say more, or name the recipe")
    return found[0]


def resolve_both(
    a: str, b: str, checkpoints: Sequence[Checkpoint], *, lines: Sequence[Line], recipe: str = ""
) -> tuple[Checkpoint, Checkpoint]:
    """Two by their names. Of a name that each recipe has, such as "random", that of the other one's recipe is meant."""
    if a in _RELATIVE and b not in _RELATIVE:
        other, one = resolve_both(b, a, checkpoints, lines=lines, recipe=recipe)
        return one, other
    one = resolve(a, checkpoints, lines=lines, recipe=recipe)
    return one, resolve(b, checkpoints, lines=lines, recipe=recipe or one.recipe)
