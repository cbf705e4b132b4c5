"""The documentation says what the code says."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import manyview
from manyview.errors import RecipeError
from manyview.foundation.grammar import parse_call, parse_pipeline
from manyview.load import packaged_recipes
from manyview.recipe.strict_yaml import read_yaml
from manyview.show.sheet import GAP, LINE, NAME
from manyview.views.ops import OPS

ROOT = Path(__file__).parent.parent


def script(name):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("page", "made"), [("reference", "reference"), ("api", "api"), ("commands", "commands_page")])
def test_reference_is_what_the_code_says(page, made):
    """Where it is not, `make reference` writes it anew."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert text == getattr(script(f"make_{page}"), made)()


DRAWN_AGAIN = {"channel_permutation", "rotate90", "trivialaugment"}  # their three pictures, or two, differ in the draw


def test_every_op_is_drawn_at_three_strengths():
    """Ops that take nothing but a chance have no strength and may be drawn once."""
    make_ops = script("make_ops")
    assert sorted(make_ops.OPS_AT) == sorted(OPS)
    views = manyview.parse_recipe(make_ops.recipe_text()).train_views
    assert list(views) == list(make_ops.views_at())
    for op, calls in make_ops.OPS_AT.items():
        names = [f"{op}_{strength}" for strength in make_ops.STRENGTHS]
        if len(calls) == 1 and {field.name for field in fields(OPS[op])} == {"p"}:
            names = [op]
        shown = [views[name].ops[-1].op for name in names]
        assert all(type(one) is OPS[op] and np.sum(getattr(one, "p", 1)) == 1 for one in shown)
        assert op in DRAWN_AGAIN or len(set(shown)) == len(shown), op


def test_the_picture_of_ops_has_a_place_for_every_view():
    make_ops = script("make_ops")
    bands = -(-len(make_ops.views_at()) // make_ops.COLUMNS)
    with Image.open(ROOT / "docs" / "ops.png") as picture:
        assert picture.width == GAP + (1 + make_ops.COLUMNS) * (make_ops.SIDE + GAP)
        assert picture.height >= GAP + bands * (make_ops.SIDE + NAME + LINE + 2 * GAP)


def test_readme_names_packaged_recipes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"\| system \|.*?\n\n", text, re.S).group(0)
    named = set(re.findall(r"`([a-z][a-z0-9]*_[a-z0-9_]+)`", table))
    assert named
    assert named <= set(packaged_recipes())


def test_readme_recipe_loads():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    recipe = manyview.parse_recipe(re.search(r"```yaml\n(title.*?)```", text, re.S).group(1))
    assert [relation.name for relation in recipe.relation_plan] == ["cross_entropy", "similarity"]


def test_packaged_recipe_headers_make_a_claim():
    for name, text in packaged_recipes().items():
        header = [line for line in text.splitlines() if line.startswith("#")]
        assert any(f"manyview train {name}" in line for line in header), name


SYSTEMS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "systems.md").read_text(encoding="utf-8"), re.S)
ON_PAPER: set[str] = set()


def test_there_are_twelve_systems():
    assert len({read_yaml(text)["title"] for text in SYSTEMS}) == 12


@pytest.mark.parametrize("text", SYSTEMS, ids=lambda text: text.split("\n")[0])
def test_every_system_is_in_the_grammar(text):
    raw = read_yaml(text)
    for view in raw["views"].values():
        assert "make" not in view or parse_pipeline(view["make"], "make")
    for branch in raw["branches"].values():
        calls = (
            [branch] if isinstance(branch, str) else [v for k, v in branch.items() if k not in ("forward", "normalize")]
        )
        assert all(parse_call(call, "branch") for call in calls)
    names = [parse_call(line, "relations").name for line in raw["relations"]]
    if raw["title"] in ON_PAPER:
        with pytest.raises(RecipeError):
            manyview.parse_recipe(text + "train: {epochs: 1}\n")
    else:
        recipe = manyview.parse_recipe(text + "train: {epochs: 1}\n")
        assert [relation.factory.__name__.lower() for relation in recipe.relation_plan] == [
            name.replace("_", "") for name in names
        ]
