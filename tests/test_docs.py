"""The documentation says what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import manyview
from manyview.errors import RecipeError
from manyview.grammar import parse_call, parse_pipeline
from manyview.recipe import packaged_recipes, read_yaml

ROOT = Path(__file__).parent.parent


def test_reference_is_what_the_code_says():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == module.reference()


def test_readme_names_packaged_recipes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tied|agmax|sla|jsd)_[a-z0-9_]+)`", text))
    assert named
    assert named <= set(packaged_recipes())


@pytest.mark.parametrize("document", ["README.md", "docs/systems.md", "docs/results.md", "benchmarks/README.md"])
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{document} points to {target}"


def test_readme_recipe_loads():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    recipe = manyview.parse_recipe(re.search(r"```yaml\n(title.*?)```", text, re.S).group(1))
    assert [relation.name for relation in recipe.relation_plan] == ["cross_entropy", "similarity"]


def test_packaged_recipe_headers_make_a_claim():
    for name, text in packaged_recipes().items():
        header = [line for line in text.splitlines() if line.startswith("#")]
        assert any(f"manyview train {name}" in line for line in header), name


SYSTEMS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "systems.md").read_text(encoding="utf-8"), re.S)
TODAY = {"Tied-Augment", "AgMax", "JSD", "SLA", "SLA+SD"}


def test_there_are_twelve_systems():
    assert len({read_yaml(text)["title"] for text in SYSTEMS}) == 12


@pytest.mark.parametrize("text", SYSTEMS, ids=lambda text: text.split("\n")[0])
def test_every_system_is_in_the_grammar(text):
    raw = read_yaml(text)
    for view in raw["views"].values():
        assert "make" not in view or parse_pipeline(view["make"], "make")
    for branch in raw["branches"].values():
        calls = (
            [branch] if isinstance(branch, str) else [v for k, v in branch.items() if k not in ("forward", "init_std")]
        )
        assert all(parse_call(call, "branch") for call in calls)
    names = [parse_call(line, "relations").name for line in raw["relations"]]
    if raw["title"] in TODAY:
        recipe = manyview.parse_recipe(text + "train: {epochs: 1}\n")
        assert [relation.factory.__name__.lower() for relation in recipe.relation_plan] == [
            name.replace("_", "") for name in names
        ]
    else:
        with pytest.raises(RecipeError):
            manyview.parse_recipe(text + "train: {epochs: 1}\n")
