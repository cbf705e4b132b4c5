"""The house: rooms that know only those below them. `python docs/make_house.py` draws it."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("make_house", ROOT / "docs" / "make_house.py")
house = importlib.util.module_from_spec(spec)
spec.loader.exec_module(house)


def test_imports_run_downwards():
    assert house.upward() == []


def test_no_files_import_each_other():
    assert house.circles() == []


def test_no_import_hides_in_a_function():
    assert house.hidden() == []


def test_every_file_stands_in_a_room():
    rooms = {name for names in house.FLOORS for name in names}
    assert {house.room(module) for module in house.modules() if module} <= rooms
    assert rooms == set(house.WHAT)


def test_a_step_upwards_and_a_circle_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(house, "SOURCES", tmp_path)
    for name, text in {
        "__init__": "",
        "views/op": "from manyview.recipe.recipe import Recipe\n",
        "recipe/recipe": "from manyview.views import op\n\ndef load():\n    from manyview.step import Step\n",
        "step": "",
    }.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert house.upward() == ["recipe.recipe, line 4, imports step", "views.op, line 1, imports recipe.recipe"]
    assert house.circles() == [["recipe.recipe", "views.op"]]
    assert house.hidden() == ["recipe.recipe, line 4, imports step inside a function"]
