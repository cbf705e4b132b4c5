"""What is called from Python is given the wrong kind of thing: one line that says what is wanted."""

from pathlib import Path

import pytest
import torch

import manyview
from manyview.compare.compare import compare
from manyview.errors import ManyviewError
from manyview.export.export import export_model
from manyview.judge.embed import embed
from manyview.judge.export import export_timm
from manyview.judge.judge import judge
from manyview.judge.predict import image_files, predict_files
from manyview.judge.subject import open_subject
from manyview.training.run import Run, run_of

QUICK = "quickstart"
CALLS = {
    "load_mapping": (lambda: manyview.load_recipe(QUICK, {"train.epochs": 1}), "as in 'train.epochs=1', got {"),
    "load_list": (lambda: manyview.load_recipe(QUICK, ["train.epochs=1"]), r"each is given apart, as \*overrides of a"),
    "load_number": (lambda: manyview.load_recipe(QUICK, 3), "an override is a text, as in 'train.epochs=1', got 3"),
    "load_none": (lambda: manyview.load_recipe(None), "^load_recipe: name: a path is wanted"),
    "load_bytes": (lambda: manyview.load_recipe(b"quickstart"), "^load_recipe: name: a path is wanted"),
    "load_use": (
        lambda: manyview.load_recipe(QUICK, use=3),
        "^recipe|use: a file, a module, or a list of these is wanted",
    ),
    "load_uses": (lambda: manyview.load_recipe(QUICK, use=[3]), "use: a file, a module, or a list of these is wanted"),
    "parse_mapping": (lambda: manyview.parse_recipe({"views": {}}), "a recipe's YAML as text is wanted, got {'views'"),
    "parse_number": (lambda: manyview.parse_recipe("", 3), "^parse_recipe: an override is a text"),
    "train_name": (
        lambda: manyview.train(QUICK, "x"),
        r"^train: recipe is what load_recipe\('quickstart'\) gives, got",
    ),
    "train_path": (lambda: manyview.train(Path("a.yaml"), "x"), r"load_recipe\('a.yaml'\) gives"),
    "train_out": (lambda: manyview.train(manyview.load_recipe(QUICK), None), "^train: out: a path is wanted"),
    "step_name": (lambda: manyview.Step(QUICK, 10), r"^Step: recipe is what load_recipe\('quickstart'\) gives"),
    "replay_none": (lambda: manyview.replay(None, 0, 0), "^run: a path is wanted, .* got None"),
    "replay_index": (
        lambda: manyview.replay("x", 0.5, 0),
        "^replay: index and epoch are whole numbers from 0 on, got 0.5",
    ),
    "replay_epoch": (lambda: manyview.replay("x", 0, -1), "^replay: index and epoch are whole numbers from 0 on"),
    "run_none": (lambda: Run(None), "^Run: folder: a path is wanted"),
    "export_text": (lambda: export_timm("nowhere", "out"), "nowhere is no run: it has no recipe.yaml"),
    "export_none": (lambda: export_timm("nowhere", None), "^export_timm: out: a path is wanted"),
    "export_model_none": (lambda: export_model("nowhere", None), "^export_model: out: a path is wanted"),
    "export_model_run": (lambda: export_model("nowhere", "out", "hub"), "nowhere is no run: it has no recipe.yaml"),
    "predict_text": (
        lambda: [*predict_files("nowhere", "a.png")],
        r"^predict_files: model is what open_model\(RUN\) gives first, got",
    ),
    "predict_none": (lambda: image_files(None), "^paths: a list of paths is wanted"),
    "predict_kinds": (lambda: image_files([3]), "^paths: a path is wanted, .* got 3"),
    "subject_path": (lambda: open_subject(Path("nowhere")), "^nowhere is neither a run"),
    "subject_run": (lambda: open_subject(Run("nowhere")), "^nowhere is neither a run"),
    "subject_none": (lambda: open_subject(None), "^a run, an export or a model of timm: a path is wanted"),
    "embed_none": (lambda: embed(None), "a path is wanted"),
    "judge_text": (lambda: judge(None, "knn"), r"^judge: a list of protocols is wanted, as \['knn', 'linear'\]"),
    "compare_text": (lambda: compare(QUICK, "x"), r"^compare: recipes: a list of texts is wanted, .* got 'quickstart'"),
    "compare_kinds": (lambda: compare([QUICK, 3], "x"), "^compare: recipes: a list of texts is wanted, .* one with 3"),
    "compare_out": (lambda: compare([QUICK, "simclr_digits"], None), "^compare: out: a path is wanted"),
    "compare_overrides": (
        lambda: compare([QUICK, QUICK], "x", overrides="a=1"),
        "^compare: overrides: a list of texts",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_wrong_kind_of_thing_is_told_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, told = CALLS[name]
    with pytest.raises(ManyviewError, match=told) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_a_run_is_a_run_or_its_folder():
    assert run_of("a") == run_of(Path("a")) == run_of(Run("a")) == Run(Path("a"))
    assert run_of(Run("a"), "words.py").use == "words.py"


def test_a_view_is_of_images():
    assert manyview.View(torch.zeros(1, 3, 2, 2)).pixels.shape == (1, 3, 2, 2)
