"""The champion of a recipe: which checkpoint is in use, how it came to be that, and whether a newer one is to follow.

Nothing moves unless `decide` is carried out by `move`, and that is a version in MLflow with its reason.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from launch import contest, grid, matrix
from launch.answer import Answer
from launch.checkpoint import Checkpoint, resolve
from pipeline.config import decode
from pipeline.evals.champion import Rule, Ruling, judge
from pipeline.evals.welch import Sample
from pipeline.tracking import Line, Move, line_name
from pipeline.tracking import move as moved


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is to be done of `line` (None: it has had no champion) for the sake of `challenger`, and why.

    `rule` is None where somebody decides, for the reason that `ruling` gives.
    """

    recipe: str
    line: Line | None
    challenger: Checkpoint
    rule: Rule | None
    ruling: Ruling

    @property
    def text(self) -> str:
        """One sentence for before anything is done."""
        if self.line and self.line.champion and self.line.champion.checkpoint_digest == self.challenger.digest:
            return f"{self.challenger.name} is the champion, and the newest that can be judged."
        verb = "is to be champion" if self.ruling.moves else "is not to be champion"
        return f"{self.challenger.name} of {matrix.minute(self.challenger.created)} {verb}: {self.ruling.why}."


def line_of(recipe: str, lines: Sequence[Line]) -> Line | None:
    return next((line for line in lines if line.name == line_name(recipe)), None)


def decide(answer: Answer, *, recipe: str, rule: Rule | None, checkpoint: str, because: str) -> Decision:
    """What the rule says of a checkpoint, by any of its names; or what somebody says, if `because` has a reason.

    FileNotFoundError for a checkpoint without results or unknown to MLflow as a model, ValueError for neither rule
    nor reason.
    """
    line = line_of(recipe, answer.lines)
    challenger = resolve(checkpoint, answer.checkpoints, lines=answer.lines, recipe=recipe)
    if challenger.is_draw or not challenger.model_id:
        raise FileNotFoundError(f"{challenger.name}: is no model in MLflow; what a stage has published would be right")
    champion = line.champion if line else None
    if because:
        return Decision(recipe, line, challenger, None, Ruling(True, because))
    if rule is None:
        raise ValueError(
            f"{recipe}: no rule says when its champion moves; name --task, declare champion() in the recipe, "
            "or give a reason with --because"
        )
    if champion is not None and champion.checkpoint_digest == challenger.digest:
        return Decision(recipe, line, challenger, rule, Ruling(False, "it is champion already"))
    ours = _samples(answer, rule, recipe=recipe, digest=challenger.digest)
    theirs = None if champion is None else _samples(answer, rule, recipe=recipe, digest=champion.checkpoint_digest)
    return Decision(recipe, line, challenger, rule, judge(rule, challenger=ours, champion=theirs))


def move(uri: str, decision: Decision) -> str:
    """Do what was decided, and say it in one sentence. Raises what `pipeline.tracking.move` raises."""
    if not decision.ruling.moves:
        return decision.text
    one, before = decision.challenger, decision.line.champion if decision.line else None
    facts = {
        "checkpoint": one.uri,
        "checkpoint_digest": one.digest,
        "model_id": one.model_id,
        "recipe": decision.recipe,
        "why": decision.ruling.why,
        "rule": decision.rule.json() if decision.rule else "",
        "before": before.checkpoint_digest if before else "",
    }
    done = moved(uri, line=decision.recipe, expected=decision.line, facts=facts)
    left = f" in place of {_short(decision.recipe, before.checkpoint_digest)}" if before else ""
    return f"Moved: {one.name} is champion{left}, version {done.version}: {done.why}."


def show(line: Line) -> str:
    """The champion and every move, newest first."""
    head = [f"{line.name}: no champion; the alias was taken away"]
    if line.champion is not None:
        since = matrix.minute(line.champion.created)
        name = _short(line.name, line.champion.checkpoint_digest)
        head = [f"{line.name}: {name} is champion since {since}", line.champion.checkpoint, _by(line.champion)]
        if line.is_by_hand:
            head += ["The alias was set outside of `tessera champion`: the newest move below is not what counts."]
    cells = [("version", "moved", "to", "from", "by", "rule", "why")]
    for one in reversed(line.moves):
        mark = "*" if one == line.champion else ""
        how = "its rule" if one.rule else "a person"
        to, before = _short(line.name, one.checkpoint_digest), _short(line.name, one.before) if one.before else "–"
        cells.append((f"{one.version}{mark}", matrix.minute(one.created), to, before, one.by, how, one.why))
    return "".join(f"{grid.cell(text)}\n" for text in head) + f"\n{grid.aligned(cells)}"


def as_data(line: Line | None, decision: Decision | None, *, is_moved: bool) -> dict[str, Any]:
    """The same for programs."""
    told: dict[str, Any] = {"line": line and dataclasses.asdict(line), "moved": is_moved}
    if line:
        told["line"] |= {"is_by_hand": line.is_by_hand}
    if decision:
        told["challenger"] = {"name": decision.challenger.name, **dataclasses.asdict(decision.challenger)}
        told |= {"rule": decision.rule and dataclasses.asdict(decision.rule), "moves": decision.ruling.moves}
        told |= {"why": decision.ruling.why}
    return told


def _samples(answer: Answer, rule: Rule, *, recipe: str, digest: str) -> dict[str, Sample]:
    return {
        row.task: contest.sample(row)
        for row in answer.rows
        if (row.recipe, row.checkpoint_digest, row.protocol, row.metric) == (recipe, digest, rule.protocol, rule.metric)
    }


def _by(move: Move) -> str:
    if not move.rule:
        return f"{move.by} said so: {move.why}"
    try:
        return f"by the rule: {decode(Rule, json.loads(move.rule), 'rule').text}"
    except ValueError:  # a rule of another version of this code
        return f"by the rule: {move.rule}"


def _short(name: str, digest: str) -> str:
    return f"{name}@{digest[:8]}"
