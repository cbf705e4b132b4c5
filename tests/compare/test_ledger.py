"""Finished runs as lines of a file: written side by side, gone on from without folders, and refused where wrong."""

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from commands import manyview, one_line
from manyview.compare import ledger, runs
from manyview.compare.compare import compare
from manyview.compare.ledger import Ledger, line_of, mark_of, read_lines
from manyview.compare.plan import plan_comparison
from manyview.errors import ManyviewWarning, RunError


@pytest.fixture
def texts(recipes) -> list[str]:
    return [recipes["two"], recipes["one"], recipes["sla"]]


@pytest.fixture
def kept(compared, texts, tmp_path):
    """The lines of a finished comparison: (file, what compare.json held)."""
    folder = tmp_path / "out"
    shutil.copytree(compared[0], folder)
    return tmp_path / "runs.jsonl", compare(texts, folder, seeds=2, runs=tmp_path / "runs.jsonl", quiet=True)


def test_a_line_has_what_tables_need(compared, kept):
    path, _ = kept
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [(line["recipe"], line["seed"]) for line in lines] == [
        (name, seed) for seed in (0, 1) for name in ("two", "one", "sla")
    ]
    for line in lines:
        folder = compared[0] / "runs" / line["recipe"] / f"seed-{line['seed']}"
        result = json.loads((folder / "result.json").read_text())
        assert line["setting"] == "out"
        assert (line["split"], line["budget"]) == ("test", "forwards")
        assert line["measures"] == result["eval"]
        assert line["val"] == result["val"]
        assert line["n"] == result["n"]["test"] > 0
        assert line["versions"] == result["versions"]
        assert line["forwards"] > 0
        assert line["flops"] > 0


def test_another_machine_goes_on_without_the_folders(kept, texts, tmp_path, monkeypatch):
    path, written = kept
    trained = []
    train = runs.train

    def training(recipe, folder, **more):
        trained.append((folder.parent.name, recipe.seed))
        return train(recipe, folder, **more)

    monkeypatch.setattr(runs, "train", training)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"recipe": "one", "seed": 1' not in line))
    again = compare(texts, tmp_path / "elsewhere", seeds=2, runs=path, setting="out", quiet=True)
    assert trained == [("one", 1)]
    assert again["table"] == written["table"]
    assert again["holm"] == written["holm"]
    assert {(line["recipe"], line["seed"]) for line in read_lines(path)} == {
        (name, seed) for name in ("two", "one", "sla") for seed in (0, 1)
    }


def test_lines_of_another_recipe_or_setting_are_not_taken(kept, texts, tmp_path):
    path, _ = kept
    arguments = ("compare", *texts, "--seeds", 2, "--out", tmp_path / "elsewhere", "--runs", path, "--setting", "out")
    line = one_line(*manyview(*arguments, "train.optimizer.lr=0.2"))
    assert "runs.jsonl, line 1: two, seed 0 of out was made by another recipe or at another length" in line
    assert not (tmp_path / "elsewhere" / "runs").exists()
    made = plan_comparison(texts, tmp_path / "elsewhere", seeds=2)
    assert Ledger(path, "other").outcome(made, made.entries[0], 0) is None
    assert Ledger(path, "out").outcome(made, made.entries[0], 7) is None
    assert Ledger(path, "out").outcome(made, made.entries[0], 1).result["eval_split"] == "test"


def test_what_two_lines_say_of_one_run_is_refused_where_it_differs(kept, texts, tmp_path):
    path, _ = kept
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("\n" + "".join([*lines, lines[0]]))  # said twice is said once
    made = plan_comparison(texts, tmp_path / "elsewhere", seeds=2)
    assert Ledger(path, "out").outcome(made, made.entries[0], 0).result["eval"] == json.loads(lines[0])["measures"]
    other = {**json.loads(lines[0]), "measures": {"top1": 99.0}}
    path.write_text("\n" + "".join([*lines, json.dumps(other) + "\n"]))
    arguments = ("compare", *texts, "--seeds", 2, "--out", tmp_path / "elsewhere", "--runs", path, "--setting", "out")
    assert one_line(*manyview(*arguments)) == (
        f"{path}, lines 2 and 8 are of one run, two, seed 0 of out, and say different things of it; keep the one that "
        "is to count"
    )


def test_lines_that_say_little_and_measures_that_came_out_as_none_are_left_out_and_told(kept, texts, tmp_path):
    path, written = kept
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    for line in lines:
        for key in ("seconds", "images_per_second", "selected_by", "device", "git", "versions"):
            if line["recipe"] == "two":
                del line[key]
        if (line["recipe"], line["seed"]) == ("one", 0):
            line["measures"]["knn"] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = compare(texts, tmp_path / "elsewhere", seeds=2, runs=path, setting="out", quiet=True)
    assert again["table"]["top1"] == written["table"]["top1"]
    assert again["recipes"][0]["cost"] is None
    assert again["recipes"][1]["cost"]["relative"] is None
    (told,) = [line for line in again["remarks"] if line.startswith("No number")]
    assert told == "No number, and left out of means and pairs, which flatters those recipes: kNN of one, seed 0."
    assert again["table"]["knn"]["one"]["n"] == again["table"]["knn"]["one"]["difference"]["n"] == 1
    compare(texts, tmp_path / "by kNN", seeds=2, runs=path, setting="out", measure="knn", quiet=True)
    assert "| one | 1, 1 without a number | " in (tmp_path / "by kNN" / "compare.md").read_text()
    path.write_text(path.read_text().replace('"top1": ', '"top1": "a lot", "top": ', 1))
    with pytest.raises(RunError, match=r"line 1 is no finished run: measures: .*top1.* is no number"):
        read_lines(path)


def test_the_mark_is_of_what_a_result_depends_on(recipes):
    def mark(*overrides):
        both = [recipes["two"], recipes["one"]]
        return mark_of(plan_comparison(both, Path("nowhere"), seeds=1, overrides=overrides).entries[0].recipe)

    usual = mark()
    assert mark("data.workers=1", "train.log_every=3", "title=other") == usual
    assert len({usual, mark("train.epochs=3"), mark("evaluate=['knn(k=3)']")}) == 3


def test_a_line_names_no_place_of_a_machine(recipes):
    made = plan_comparison([recipes["two"], recipes["one"]], Path("nowhere"), seeds=1)
    entry = replace(made.entries[0], overrides=("data.root=/somewhere/images", "train.batch_size=24"))
    assert line_of(made, entry, 0, {"eval_split": "test", "eval": {}}, "out")["overrides"] == ["train.batch_size=24"]


def test_what_is_cut_short_is_left_out_and_what_is_no_run_is_refused(kept):
    path, _ = kept
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.warns(ManyviewWarning, match=r"line 6 is cut short and left out"):
        assert len(read_lines(path)) == 5
    for wrong, told in {
        b"{}\n": "it has no 'setting'",
        b"[1]\n": "it is no table of names and values",
        b"<<<<<<< HEAD\n": r"it is not JSON \(expecting value at column 1\)",
        b'{"setting": "a", "recipe": "b", "seed": "0"}\n': "it has no 'split'",
    }.items():
        path.write_bytes(wrong + whole)
        with pytest.raises(RunError, match=rf"runs.jsonl, line 1 is no finished run: {told}; take it out"):
            read_lines(path)
    assert read_lines(path.with_name("none.jsonl")) == []


def test_a_line_after_one_that_was_cut_stands_by_itself(kept, texts, tmp_path):
    path, _ = kept
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    made = plan_comparison(texts, tmp_path / "out", seeds=2)
    last, seed = made.runs[-1]
    result = made.run(last, seed).finished()
    with pytest.warns(ManyviewWarning, match="cut short"):
        Ledger(path, "out").append(made, last, seed, result)
    with pytest.warns(ManyviewWarning, match="line 6 is cut short"):
        assert [line["recipe"] for line in read_lines(path)] == ["two", "one", "sla", "two", "one", "sla"]


def test_numbers_that_json_does_not_know_are_null(kept, texts, tmp_path):
    made = plan_comparison(texts, tmp_path / "out", seeds=2)
    entry, seed = made.runs[0]
    result = {**made.run(entry, seed).finished(), "eval": {"top1": math.nan, "knn": 3.0}}
    line = line_of(made, entry, seed, result, "out")
    assert line["measures"] == {"top1": None, "knn": 3.0}
    json.dumps(line, allow_nan=False)


def test_who_writes_at_the_same_time_writes_whole_lines_and_none_twice(tmp_path, monkeypatch):
    """A lock is of an opened file, so threads stand for processes."""

    def made_up(comparison, entry, seed, result, setting):
        return {"setting": setting, "recipe": "r", "seed": seed, "split": "test", "measures": {}, "mark": "x" * 20000}

    monkeypatch.setattr(ledger, "line_of", made_up)
    path = tmp_path / "runs.jsonl"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda seed: Ledger(path, "s").append(None, None, seed % 40, {}), range(120)))
    assert sorted(line["seed"] for line in read_lines(path)) == list(range(40))


def test_seeds_that_chose_by_the_file_do_not_claim(recipes, tmp_path):
    both, path = [recipes["two"], recipes["one"]], tmp_path / "runs.jsonl"
    compare(both, tmp_path / "here" / "choose", seeds=1, split="val", runs=path, quiet=True)
    arguments = ("compare", *both, "--seeds", 1, "--out", tmp_path / "there" / "claim")
    line = one_line(*manyview(*arguments, "--runs", path))
    assert f"seed 0 chose on validation in {path}, so" in line
