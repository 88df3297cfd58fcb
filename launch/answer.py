"""What is read of MLflow for an answer, and its first sentence: is the newest checkpoint better, and at what?"""

import dataclasses
from datetime import UTC, datetime

from launch import contest, matrix, query
from launch.checkpoint import PRETRAININGS, Checkpoint, beside_paper, champion_of, known, measured
from launch.query import Asked, Row
from pipeline.tracking import Line, Query, lines, search

MOST_TOLD = 5  # runs that did not finish
MOST_CHOICES = 12  # values of one kind


@dataclasses.dataclass(frozen=True)
class Answer:
    """`checkpoints` are those that `rows` are of, `known` all, both newest first; `lines` are champions.

    `is_part`: the rows are only those of the newest checkpoints, and of champions.
    """

    rows: list[Row]
    checkpoints: list[Checkpoint]
    known: list[Checkpoint]
    lines: list[Line]
    is_part: bool = False

    def of(self, one: Checkpoint) -> list[Row]:
        return [row for row in self.rows if row.key == one.key]

    @property
    def champions(self) -> set[str]:
        """Digests."""
        return {line.champion.checkpoint_digest for line in self.lines if line.champion}


def gather(uri: str, asked: Asked, *, newest: int | None = None) -> Answer:
    """Everything that is asked for; with `newest`, only of so many checkpoints, and of champions.

    What is older is then not even read: of thousands of results a table shows the last weeks. Raises what
    `pipeline.tracking.search` raises.
    """
    there, champions = known(uri), lines(uri)
    own = [one for one in there if asked.recipe in (None, one.recipe)]
    chosen = own[:newest] if newest is not None and asked.since_ms is None and asked.checkpoint is None else own
    is_part = len(chosen) < len(own) and all(one.begun for one in chosen)
    if not is_part:
        rows = query.results(uri, asked)
    else:
        digests = {line.champion.checkpoint_digest for line in champions if line.champion} & {one.digest for one in own}
        since_ms = min(query.moment_ms(one.begun, now=datetime.now(UTC)) for one in chosen)
        rows = query.results(uri, dataclasses.replace(asked, since_ms=since_ms))
        older = {one.digest for one in own} - {one.digest for one in chosen}
        rows = [row for row in rows if row.checkpoint_digest not in older]
        for digest in sorted(digests & older):
            rows += query.results(uri, dataclasses.replace(asked, checkpoint=digest))
    found = measured(rows, there)
    return Answer(beside_paper(rows, found), found, there, champions, is_part)


def headline(uri: str, asked: Asked, answer: Answer) -> str:
    """The newest checkpoint that was measured against its champion, else the one before it, else a random draw.

    Where a newer one was not measured, that is said first: what follows is not the answer to what was asked.
    """
    newest = next((one for one in answer.checkpoints if not one.is_draw), None)
    own = [one for one in answer.known if asked.recipe in (None, one.recipe)]
    told = ""
    if own and asked.checkpoint is None and own[0].digest not in {one.digest for one in answer.checkpoints}:
        told = f"Not measured yet: {own[0].name} of {matrix.minute(own[0].created)}. "
    if newest is None:
        return told + ("Only random initialisations have such results." if answer.rows else "There are no results.")
    text = _of(uri, asked, answer, newest)
    return f"{told}Before it: {text[0].lower()}{text[1:]}" if told else text


def _of(uri: str, asked: Asked, answer: Answer, newest: Checkpoint) -> str:
    name = f"{newest.name} of {matrix.minute(newest.created)}"
    opponent, role = _opponent(newest, answer)
    if opponent is None:
        return f"Nothing to compare with: {name} is the only checkpoint of {newest.recipe}."
    theirs = answer.of(opponent)
    if not theirs and opponent.digest:  # it is not among what was asked for, such as the last day's
        wider = dataclasses.replace(asked, since_ms=None, checkpoint=opponent.digest, recipe=opponent.recipe)
        theirs = query.results(uri, wider)
    if newest.digest == champion_of(newest.recipe, answer.lines):
        name += ", the champion,"
    pairs = contest.duels(answer.of(newest), theirs)
    return contest.headline(pairs, name, f"{role}{opponent.name}{_made(opponent)}")


def remarks(uri: str, asked: Asked, answer: Answer) -> list[str]:
    """The stages that did not finish since the newest weights were begun: what the answer may lack."""
    newest = next((one for one in answer.known if asked.recipe in (None, one.recipe)), None)
    since_ms = asked.since_ms
    if newest is not None:
        since_ms = query.moment_ms(newest.begun or newest.created, now=datetime.now(UTC))
    return unfinished(uri, recipe=asked.recipe, since_ms=since_ms)


def unfinished(uri: str, *, recipe: str | None, since_ms: int | None) -> list[str]:
    """The stages whose newest run since then has not finished: 'nightly: transfer/pets failed (...)'."""
    where = {"recipe": recipe} if recipe is not None else {}
    newest: dict[tuple[str, str], dict] = {}
    for run in search(uri, Query(kind="stage", where=where, since_ms=since_ms)):
        newest.setdefault((run["tags"].get("recipe", run["experiment"]), run["name"]), run)
    found = [(place, run) for place, run in newest.items() if run["status"] != "FINISHED"]
    told = [f"{recipe}: {stage} {_state(run)}" for (recipe, stage), run in found[:MOST_TOLD]]
    return told + ([f"and {len(found) - MOST_TOLD} more stages that did not finish"] if len(found) > MOST_TOLD else [])


def choices(uri: str) -> str:
    """What could have been asked for: a sentence, for whoever found nothing."""
    rows = query.results(uri, Asked())
    if not rows:
        return "none were written yet; stages that fine-tune or transfer do that"
    told = []
    for name in ("recipe", "task", "protocol", "metric"):
        values = sorted({getattr(row, name) for row in rows})
        told.append(f"{name} {', '.join(values[:MOST_CHOICES])}{', ...' if len(values) > MOST_CHOICES else ''}")
    return f"there are {'; '.join(told)}; the newest of {max(row.created for row in rows)}"


def queries(asked: Asked) -> str:
    """What is asked of MLflow, as its UI and its client take it."""
    sort = "order_by=['attributes.start_time DESC']"
    stages = str(Query(kind="stage", where={} if asked.recipe is None else {"recipe": asked.recipe}))
    return (
        f"results      search_runs(filter_string={str(asked.query)!r}, {sort})\n"
        f"checkpoints  search_logged_models(order_by=[{{'field_name': 'creation_timestamp', 'ascending': False}}])\n"
        f"their data   search_runs(filter_string={str(PRETRAININGS)!r}, {sort})\n"
        f"champions    search_registered_models(), search_model_versions()\n"
        f"unfinished   search_runs(filter_string={stages!r}, {sort})\n"
    )


def _opponent(newest: Checkpoint, answer: Answer) -> tuple[Checkpoint | None, str]:
    """Whom to compare with, and what it is."""
    there = {one.key: one for one in (*answer.known, *answer.checkpoints)}
    others = [one for one in there.values() if one.recipe == newest.recipe and one.key != newest.key]
    digest = champion_of(newest.recipe, answer.lines)
    if champion := next((one for one in others if one.digest and one.digest == digest), None):
        return champion, "the champion "
    older = [one for one in others if not one.is_draw and one.created <= newest.created]
    if older:
        return max(older, key=lambda one: one.created), "the one before, "
    return next((one for one in others if one.is_draw), None), ""


def _made(one: Checkpoint) -> str:
    return "" if one.is_draw else f" of {matrix.minute(one.created)}"


def _state(run: dict) -> str:
    if run["status"] == "RUNNING":
        return f"is running since {matrix.minute(run['created'])}, or its process was lost"
    how = "was stopped" if run["status"] == "KILLED" else run["status"].lower()
    why = run["tags"].get("tessera.error", "").partition("\n")[0]
    return f"{how}, {matrix.minute(run['ended'] or run['created'])}{f' ({why:.120})' if why else ''}"
