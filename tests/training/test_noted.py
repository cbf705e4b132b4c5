"""What a run's folder holds, of another shape than it was written: one line that names the file and the place."""

import json
import math

import pytest

from manyview.errors import RecipeError, RunError
from manyview.training.log import Metrics
from manyview.training.noted import read_result
from manyview.training.registry import Registry
from manyview.training.run import Run

RESULT = {
    "eval": {"top1": 93.1, "loss": math.inf, "knn": None},
    "eval_split": "test",
    "val": {},
    "seconds": 3,
    "evaluations": {"knn(k=20) on test": {"measures": {"": 90.0}, "note": "a note", "tables": {}}},
    "starts": {"net.backbone": {"source": "run"}},
    "skipped_images": ["a.png"],
    "words": {},
}


def test_a_result_is_taken_as_it_is(tmp_path):
    path = tmp_path / "result.json"
    for found in ({}, {"eval": {"top1": 1}}, {**RESULT, "eval_split": None}):
        path.write_text(json.dumps(found))
        assert read_result(path) == found
    path.write_text(json.dumps(RESULT))
    assert read_result(path).keys() == RESULT.keys()


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"eval": 3}, "eval: "),
        ({"eval": {"top1": "a lot"}}, "eval.top1: "),
        ({"eval_split": 7}, "eval_split: "),
        ({"seconds": "many"}, "seconds: "),
        ({"starts": 3}, "starts: "),
        ({"evaluations": {"knn on test": 3}}, "evaluations.knn on test: "),
        ({"evaluations": {"knn on test": {"note": ""}}}, "evaluations.knn on test.measures: "),
    ],
)
def test_a_result_of_another_shape_is_damaged(tmp_path, changed, place):
    (tmp_path / "result.json").write_text(json.dumps({**RESULT, **changed}))
    with pytest.raises(RunError) as told:
        Run(tmp_path).finished()
    assert str(told.value).startswith(f"{tmp_path / 'result.json'} is damaged: {place}")


def test_a_recipe_that_is_none_is_told_by_its_file(tmp_path):
    (tmp_path / "recipe.yaml").write_text("a: [")
    for overrides in ((), ("data.workers=0",)):
        with pytest.raises(RecipeError) as told:
            Run(tmp_path).recipe(*overrides)
        assert str(told.value).startswith(f"{tmp_path / 'recipe.yaml'}: line 1: not YAML: ")


def test_bytes_that_a_crash_left_in_the_metrics_are_no_lines(tmp_path):
    """Of a machine that went down, blocks may be zeros, or of another file."""
    whole = [f'{{"step": {step}, "epoch": {step}, "val": {{"top1": {50 + step}}}}}\n'.encode() for step in (1, 2, 3)]
    odd = b'\0\0\xff\xfe\n7\n{"step": []}\n{"epoch": 1}\n{"step": "x"}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole[0] + odd + whole[1] + whole[2])
    (tmp_path / "recipe.yaml").write_text("title: one\n")
    (known,), damaged = Registry(tmp_path).runs()
    assert damaged == []
    assert (known.epochs, known.best) == (3, 53)
    Metrics(tmp_path / "metrics.jsonl", 2, track=()).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole[0] + whole[1]
