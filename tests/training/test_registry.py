"""Runs found and told by their files alone, and what is kept of them."""

import json
import os
import shutil

import pytest
import yaml

from manyview.errors import RunError
from manyview.recipe.flat import changed, flat
from manyview.training.registry import Registry, ordered, run_folders, unlike


def made(folder, *, title="", seed=0, epochs=2, top1=None, vals=(), failed=False):
    """The files of a run, as far as they are read."""
    folder.mkdir(parents=True)
    recipe = {
        "title": title,
        "seed": seed,
        "data": {"source": "digits", "root": str(folder)},
        "train": {"epochs": epochs},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    splits = {"classes": ["0", "1"], "note": "10 train", "train": {"count": 10, "images": f"d{seed}", "index": "0-9"}}
    splits["looks"] = {"train": {str(n): f"{n}{seed}" for n in range(40)}}
    (folder / "splits.json").write_text(json.dumps(splits))
    lines = [{"step": n, "epoch": n + 1.0, "val": {"top1": value, "loss": 1.0}} for n, value in enumerate(vals)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "ep')
    if top1 is not None:
        ended = {
            "eval": {"top1": top1, "loss": 0.5},
            "eval_split": "test",
            "epochs": epochs,
            "seconds": 10.0 - top1 / 10,
        }
        (folder / "result.json").write_text(json.dumps(ended))
    if failed:
        (folder / "failure").mkdir()
        (folder / "failure" / "failure.json").write_text(json.dumps({"message": "loss is nan"}))
    return folder


@pytest.fixture(autouse=True)
def kept(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MANYVIEW_CACHE", str(tmp_path_factory.mktemp("kept")))


def test_every_run_below_a_folder_is_told(tmp_path):
    made(tmp_path / "a", top1=40.0)
    made(tmp_path / "compared" / "runs" / "tied" / "seed-1", seed=1, epochs=3, vals=(30.0, 50.0, 45.0))
    made(tmp_path / "f", failed=True)
    (tmp_path / "images").mkdir()
    found, damaged = Registry(tmp_path).runs()
    assert damaged == []
    assert [(run.folder, run.state, run.seed, run.epochs, run.measure, run.best, run.split) for run in found] == [
        ("a", "finished", 0, 2, "top1", 40.0, "test"),
        ("compared/runs/tied/seed-1", "unfinished", 1, 3.0, "top1", 50.0, "val"),
        ("f", "failed", 0, None, None, None, None),
    ]
    assert [dict(run.changed) for run in found] == [{}, {"train.epochs": 3}, {}]


def test_a_recipe_of_ones_own_hides_no_runs(tmp_path):
    (tmp_path / "recipe.yaml").write_text("title: mine")
    run = made(tmp_path / "runs" / "a", top1=40.0)
    assert [*run_folders(tmp_path)] == [run]
    assert [*run_folders(run)] == [run]


def test_what_was_changed_is_told_beside_the_packaged_recipe(tmp_path):
    run = made(tmp_path / "only", title="quick with train.epochs=9", epochs=9)
    base = flat(yaml.safe_load((run / "recipe.yaml").read_text())) | {"train.epochs": 2, "title": "Quick"}
    asked = []
    registry = Registry(tmp_path, lambda title: asked.append(title) or base)
    for _ in range(2):
        (known,) = registry.runs()[0]
        assert dict(known.changed) == {"train.epochs": 9}
    assert asked == ["quick with train.epochs=9"]  # the second time it is known


def test_a_run_is_read_again_when_its_files_change_and_only_then(tmp_path):
    run = made(tmp_path / "a", vals=(30.0,))
    assert Registry(tmp_path).runs()[0][0].best == 30.0
    recipe = run / "recipe.yaml"
    before = os.stat(recipe)
    recipe.write_text(recipe.read_text().replace("epochs: 2", "epochs: 5"))
    os.utime(recipe, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Registry(tmp_path).runs()[0][0].settings["train.epochs"] == 2  # nothing says that it should be read
    made(tmp_path / "b", top1=60.0)
    (run / "result.json").write_bytes((tmp_path / "b" / "result.json").read_bytes())
    first = Registry(tmp_path).runs()[0][0]
    assert (first.best, first.state, first.settings["train.epochs"]) == (60.0, "finished", 5)
    shutil.rmtree(run)
    assert [known.folder for known in Registry(tmp_path).runs()[0]] == ["b"]


@pytest.mark.parametrize("damage", ["[1, 2", "null", "{}", '{"a": {"stamps": 3}}', '{"a": 1}'])
def test_what_is_kept_may_be_damaged(tmp_path, damage):
    made(tmp_path / "a", top1=40.0)
    registry = Registry(tmp_path)
    found = registry.runs()
    registry.kept.write_text(damage)
    assert registry.runs() == found


def test_kept_where_nothing_can_be_written(tmp_path, monkeypatch):
    made(tmp_path / "a", top1=40.0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MANYVIEW_CACHE", str(tmp_path / "file"))
    assert len(Registry(tmp_path).runs()[0]) == 1


def test_damaged_runs_are_told_and_the_others_listed(tmp_path):
    made(tmp_path / "a", top1=40.0)
    for name, text in {"torn": "a: [", "empty": "", "list": "- a", "seed": "seed: one"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(text)
        (tmp_path / name / "splits.json").write_text("{}")
    made(tmp_path / "b", top1=40.0)
    (tmp_path / "b" / "result.json").write_text("{")
    found, damaged = Registry(tmp_path).runs()
    assert [run.folder for run in found] == ["a"]
    assert len(damaged) == 5
    assert all(name in line for name, line in zip(("b", "empty", "list", "seed", "torn"), damaged, strict=True))
    with pytest.raises(RunError, match=r"b/result\.json is damaged"):
        unlike(tmp_path / "a", tmp_path / "b")


def test_order(tmp_path):
    for name, top1 in (("low", 20.0), ("none", None), ("high", 90.0)):
        made(tmp_path / name, top1=top1)
    found = Registry(tmp_path).runs()[0]
    names = {by: [run.folder for run in ordered(found, by)] for by in ("folder", "best", "seconds", "state")}
    assert names == {
        "folder": ["high", "low", "none"],
        "best": ["high", "low", "none"],
        "seconds": ["high", "low", "none"],
        "state": ["high", "low", "none"],
    }


def test_links_are_not_followed_and_runs_not_searched(tmp_path):
    run = made(tmp_path / "a", top1=40.0)
    made(run / "checkpoints" / "inner")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert [*run_folders(tmp_path)] == [run]
    assert [*run_folders(run)] == [run]
    with pytest.raises(RunError, match="missing is not there"):
        [*run_folders(tmp_path / "missing")]


def test_how_two_runs_differ(tmp_path):
    one, other = made(tmp_path / "a", top1=40.0), made(tmp_path / "b", seed=4, epochs=3, top1=42.5)
    found = unlike(one, other)
    assert {key: pair for key, pair in found.settings.items() if key != "data.root"} == {
        "seed": (0, 4),
        "train.epochs": (2, 3),
    }
    looks = found.surroundings.pop("data.looks.train")  # one line, however many images were looked at
    assert looks[0] != looks[1]
    assert found.surroundings == {"data.train.images": ("d0", "d4"), "seconds": (6.0, 5.75)}
    assert found.results == {"top1": (40.0, 42.5), "loss": (0.5, 0.5)}
    (other / "result.json").unlink()
    assert [*unlike(one, other).surroundings] == ["data.train.images", "data.looks.train"]


def test_flat_and_changed():
    assert flat({"a": {"b": [1, {"c": 2}]}, "d": {}}) == {"a.b.0": 1, "a.b.1.c": 2}
    assert changed({"a": 1, "b": 2}, {"b": 3, "c": 4}) == {"a": (1, None), "b": (2, 3), "c": (None, 4)}


def test_what_is_no_number_is_none(tmp_path):
    folder = made(tmp_path / "odd", top1=40.0, vals=(30.0,))
    lines = ['{"epoch": 4, "val": [1]}', '{"epoch": 5, "val": {"top1": "x"}}', "[" * 100_000, "7"]
    lines += [f'{{"epoch": 1{"0" * 400}, "val": {{"top1": NaN, "knn": 1{"0" * 400}}}}}']
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    odd = {"epochs": "many", "seconds": [1], "eval_split": 3, "eval": {"top1": None, "knn": True, "linear": 5}}
    odd["images"] = odd["eval"]["classify"] = 10**400
    for result, measured in ((odd, ("linear", 5.0, "3")), ({**odd, "eval": [1]}, (None, None, None))):
        (folder / "result.json").write_text(json.dumps(result))
        ((known,), damaged) = Registry(tmp_path).runs()
        assert damaged == []
        assert (known.epochs, known.seconds) == (None, None)
        assert (known.measure, known.best, known.split) == measured
    (folder / "result.json").unlink()
    ((known,), damaged) = Registry(tmp_path).runs()
    assert (known.epochs, known.measure, damaged) == (5.0, None, [])
