"""`manyview runs` and `manyview diff`."""

import json

import pytest
import yaml
from tests.commands import done, manyview, one_line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEW_CACHE", str(tmp_path / ".cache"))
    for name, epochs in (("first", 1), ("second", 7)):
        run = tmp_path / name
        run.mkdir()
        recipe = {"title": "Mine", "seed": 0, "train": {"epochs": epochs}}
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (run / "splits.json").write_text(json.dumps({"classes": [], "note": "10 train"}))
        ended = {"eval": {"knn": 40.0 + epochs}, "eval_split": "test", "epochs": epochs, "seconds": 100}
        (run / "result.json").write_text(json.dumps(ended))
    return tmp_path


def test_a_table_and_json(folder):
    lines = done("runs", folder, "--sort", "best").splitlines()
    assert lines[0].split() == ["run", "recipe", "seed", "state", "epochs", "best", "time", "last", "sign", "changed"]
    assert lines[1].startswith("second  Mine    0     finished  7       knn 47.00 test  2 min")
    assert lines[1].endswith("train.epochs=7")
    assert lines[2].startswith("first ")
    told = json.loads(done("runs", folder, "--json"))
    assert [(run["folder"], run["best"], run["changed"]) for run in told] == [
        ("first", 41.0, {}),
        ("second", 47.0, {"train.epochs": 7}),
    ]


def test_what_cannot_be_listed(folder):
    assert "did you mean 'best'" in one_line(*manyview("runs", folder, "--sort", "bset"))
    assert "missing is not there" in one_line(*manyview("runs", folder / "missing"))
    (folder / "empty").mkdir()
    code, out, err = manyview("runs", folder / "empty")
    assert (code, out) == (0, "")
    assert "no runs in" in err
    (folder / "torn").mkdir()
    (folder / "torn" / "recipe.yaml").write_text("a: [")
    (folder / "torn" / "metrics.jsonl").write_text("")
    code, out, err = manyview("runs", folder)
    assert code == 1
    assert len(out.splitlines()) == 3
    assert "torn/recipe.yaml" in err


def test_two_runs_side_by_side(folder):
    out = done("diff", folder / "first", folder / "second")
    assert "train.epochs  1" in out
    assert "knn  41" in out
    told = json.loads(done("diff", folder / "first", folder / "second", "--json"))
    assert told["settings"] == {"train.epochs": [1, 7]}
    assert done("diff", folder / "first", folder / "first").splitlines()[0] == "the same settings"
    assert "is no run" in one_line(*manyview("diff", folder, folder / "first"))


def test_long_values_are_shown_where_they_part(folder):
    for name, weight in (("first", 1), ("second", 25)):
        recipe = {"relations": [f"similarity(h(a), h(b), kind='mse', layers=4, weight={weight})"]}
        (folder / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    told = " ".join(done("diff", folder / "first", folder / "second").split())
    assert "relations.0 … weight=1) … weight=25)" in told
