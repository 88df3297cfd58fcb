"""No recipe changes what it computes by accident: its identity is on file. UPDATE_GOLDEN=1 writes the files anew."""

import json
import os
from pathlib import Path

import pytest

from launch import recipe
from pipeline.config import diff, encode
from pipeline.stage import in_order

GOLDEN = Path(__file__).parent.parent / "golden"


def identity(name: str) -> dict:
    """What every stage of a recipe computes and from what, as JSON."""
    return {
        stage.name: {
            "does": stage.run.__name__,
            "needs": {need: other.name for need, other in stage.needs.items()},
            "config": encode(stage.config, identity=True),
        }
        for stage in in_order(recipe.load(name).stages)
    }


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_computes_what_it_did(name):
    path = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(json.dumps(identity(name), indent=1) + "\n")
    changes = diff(json.loads(path.read_text()) if path.exists() else {}, identity(name))
    assert not changes, f"{name} changed; if that is meant, UPDATE_GOLDEN=1 pytest {__file__}:\n" + "\n".join(changes)


def test_there_is_no_identity_of_a_recipe_that_is_gone():
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == recipe.names()
