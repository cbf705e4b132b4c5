"""What runs keep of every image and task, against a model that answers again, and how comparisons pair it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import png
from manyview.compare.compare import compare
from manyview.compare.kept import over_images_of
from manyview.compare.plan import plan_comparison
from manyview.data import open_splits
from manyview.errors import RunError
from manyview.evaluate.accuracy import answers
from manyview.foundation.files import write_bytes
from manyview.training.predictions import keep_predictions, kept_predictions

FEWSHOT = """evaluate=["fewshot(ways=3, shots=2, queries=4, tasks=50, classifier='centroid')"]"""


def test_a_run_keeps_what_its_model_answers(compared):
    run = compared[0] / "runs" / "sla" / "seed-0"
    kept = kept_predictions(run, "test")
    result = json.loads((run / "result.json").read_text())
    assert result["n"]["test"] == len(kept["labels"])
    assert {name: value.dtype.itemsize for name, value in kept.items()} == dict.fromkeys(kept, 2)
    for prefix in ("", "aggregated_"):
        right = kept[f"{prefix}predicted"] == kept["labels"]
        assert 100 * right.mean() == pytest.approx(result["eval"][f"{prefix}top1"], abs=1e-9)
        assert (kept[f"{prefix}probability"] > 0.09).all()
    assert kept_predictions(run, "val").keys() == kept.keys()
    assert kept_predictions(run, "train") == {}


@pytest.mark.parametrize(
    ("predicted", "why"),
    [
        (np.zeros(2, np.uint16), "what it holds is not of the same images"),
        (np.zeros((3, 2), np.uint16), "what it holds is not of the same images"),
        (np.zeros(3, np.float32), "predicted are no classes"),
        (b"half a fi", "Error while deserializing"),
    ],
)
def test_predictions_of_another_shape_are_damaged(tmp_path, predicted, why):
    path = tmp_path / "predictions" / "test.safetensors"
    if isinstance(predicted, bytes):
        write_bytes(path, predicted)
    else:
        keep_predictions(tmp_path, "test", {"labels": np.zeros(3, np.uint16), "predicted": predicted})
    with pytest.raises(RunError) as told:
        kept_predictions(tmp_path, "test")
    assert str(told.value).startswith(f"{path} is damaged: {why}")


def test_answers_are_the_likeliest_class_and_none_for_what_is_no_number():
    scores = torch.tensor([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0], [float("nan"), 0.0, 1.0]])
    found = answers(scores)
    assert found["predicted"].tolist() == [1, 0, 3]
    assert found["predicted"].dtype == np.uint16
    assert found["probability"][:2] == pytest.approx(scores[:2].softmax(1).max(1).values.numpy(), abs=1e-3)


def test_a_comparison_pairs_images(compared):
    folder, written = compared
    for name in ("one", "sla"):
        found = written["by_images"][name]
        difference = written["table"]["top1"][name]["difference"]
        runs = [[folder / "runs" / of / f"seed-{seed}" for of in (name, "two")] for seed in (0, 1)]
        pairs = [[kept_predictions(run, "test") for run in both] for both in runs]
        assert all((ours["labels"] == theirs["labels"]).all() for ours, theirs in pairs)
        assert (found["seeds"], found["images"]) == (2, len(pairs[0][0]["labels"]))
        assert found["mean"] == pytest.approx(difference["mean"], abs=1e-9)
        assert found["interval"][0] < found["mean"] < found["interval"][1]
        right = [[each["predicted"] == each["labels"] for each in pair] for pair in pairs]
        assert found["only_this"] == np.mean([(ours & ~theirs).sum() for ours, theirs in right])
        assert found["only_reference"] == np.mean([(theirs & ~ours).sum() for ours, theirs in right])
        assert set(found["mcnemar"]) == {"0", "1"}
    assert "By images" in (folder / "compare.md").read_text()


def test_images_that_a_seed_changes_are_not_taken_for_the_same(recipes, tmp_path):
    for number in range(40):  # whose labels are in order, whatever is held out
        png(tmp_path / "data" / "ab"[number // 20] / f"{number}.png", (8, 8), number)
    recipe = tmp_path / "two.yaml"
    text = Path(recipes["two"]).read_text()
    recipe.write_text(text.replace("digits, limit: 120", f"folder, root: {tmp_path / 'data'}, val_fraction: 0.2"))

    def found(*overrides):
        made = plan_comparison([str(recipe), f"{recipe}@other"], tmp_path / "out", seeds=2, overrides=overrides)
        for entry, seed in made.runs:
            run, asked = made.run(entry, seed), made.recipe(entry, seed)
            splits = open_splits(asked.data, seed)
            assert splits.test.labels.tolist() == [0] * 4 + [1] * 4
            run.begin(asked, splits, resume=False)
            keep_predictions(run.folder, "test", {"labels": splits.test.labels, "predicted": splits.test.labels})
        return over_images_of(made, "top1")["other"]

    assert found().seeds == 1
    shutil.rmtree(tmp_path / "out")
    assert found("data.seed=3").seeds == 2


def test_few_shot_tasks_are_paired(recipes, tmp_path):
    written = compare(
        [recipes["two"], recipes["one"]], tmp_path / "out", seeds=1, overrides=[FEWSHOT], measure="fewshot", quiet=True
    )
    found = written["by_tasks"]["fewshot"]["one"]["0"]
    ours, theirs = (
        kept_predictions(tmp_path / "out" / "runs" / name / "seed-0", "test")["fewshot_tasks"].astype(float)
        for name in ("one", "two")
    )
    assert found["tasks"] == len(ours) == 50
    assert found["mean"] == pytest.approx((ours - theirs).mean(), abs=1e-6)
    assert found["low"] < found["mean"] < found["high"]
    assert written["by_images"] == {}
    assert "Few-shot tasks in pairs" in (tmp_path / "out" / "compare.md").read_text()
