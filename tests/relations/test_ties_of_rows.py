"""Ties of the rows that are classified right: by hand with their gradients, and what is refused for want of labels."""

import numpy as np
import pytest
import torch

import manyview
from manyview.errors import BatchError, RecipeError
from manyview.relations import Port, Reading
from manyview.relations.similarity import ROWS, Similarity

B, D, C = 5, 3, 4
LABELS = torch.tensor([0, 3, 1, 2, 1])
SAID = torch.tensor([0, 2, 1, 2, 3])  # right on the rows 0, 2 and 3
RIGHT = [0, 2, 3]
MORE = {"where": Port("logits(a)", C, classes=C), "threshold": "right"}

RECIPE = """
data: {source: digits, limit: 100}
views: {a: {from: image, make: "pad_crop(8, padding=1)"}, b: {like: a}}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations: ["TIE"]
train: {steps: 2, batch_size: 4}
"""
TIE = "similarity(h(a), h(b), where=stop(logits(a)), threshold='right')"


def tie(kind="mse"):
    return Similarity(Port("h(a)", D), Port("h(b)", D), kind=kind, **MORE)


def features(seed):
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def logits():
    return torch.nn.functional.one_hot(SAID, C).double().requires_grad_()


def by_hand(kind, h1, h2):
    """The term, and its gradient to the first features, row by row."""
    value, gradient = 0.0, np.zeros_like(h1)
    for row in RIGHT:
        x, y = h1[row], h2[row]
        if kind == "cosine":
            lengths = np.sqrt(x @ x) * np.sqrt(y @ y)
            value += (1 - x @ y / lengths) / B
            gradient[row] = -(y / lengths - (x @ y) / lengths * x / (x @ x)) / B
        else:
            each, slope = {"mse": ((x - y) ** 2, 2 * (x - y)), "mae": (np.abs(x - y), np.sign(x - y))}[kind]
            value += each.mean() / B
            gradient[row] = slope / D / B
    return value, gradient


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("soft", [False, True])
def test_rows_that_are_right_are_tied_and_no_others(kind, soft):
    h1, h2, said = features(1), features(2), logits()
    target = torch.nn.functional.one_hot(LABELS, C) * 0.6 + 0.1 if soft else LABELS
    loss = tie(kind)(Reading(h1), Reading(h2), where=Reading(said, target))
    loss.backward()
    value, gradient = by_hand(kind, h1.detach().numpy(), h2.detach().numpy())
    assert loss.item() == pytest.approx(value)
    np.testing.assert_allclose(h1.grad, gradient, atol=1e-12)
    assert np.flatnonzero(np.abs(h2.grad).sum(1)).tolist() == RIGHT
    assert said.grad is None  # with or without stop


def test_without_labels_it_is_one_line():
    step = manyview.Step(manyview.parse_recipe(RECIPE.replace("TIE", TIE)), 10).train()
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for labels in (None, torch.tensor([0, 1, -1, 2]), torch.tensor([0, 1, 10, 2])):
        with pytest.raises(BatchError) as error:
            step(images, labels, index=range(4), epoch=0)
        assert "label" in str(error.value)
        assert "\n" not in str(error.value)
    step(images, torch.arange(4), index=range(4), epoch=0)["loss"].backward()


def test_a_stream_without_labels_is_refused():
    text = RECIPE.replace("limit: 100", "labels_per_class: 4, unlabeled: all")
    text = text.replace("TIE", f'cross_entropy(logits(x))", "{TIE}')
    text = text.replace("views: {a: {from: image", "views: {x: {from: image, make: resize(8)}, a: {from: unlabeled")
    with pytest.raises(RecipeError, match=r"relations\.1: .*'right'\) needs labels, and a is of the stream unlabeled"):
        manyview.parse_recipe(text)
    assert manyview.parse_recipe(text.replace("threshold='right'", "threshold=0.9")).needs_labels == [
        "cross_entropy(logits(x))"
    ]


@pytest.mark.parametrize(
    ("threshold", "told"),
    {
        "'left'": r"threshold must be in \(0, 1\], or 'right', got 'left'",
        "0": r"threshold must be in \(0, 1\], or 'right', got 0",
        "True": r"threshold must be in \(0, 1\], or 'right', got True",
        "right": "put quotes round threshold='right'",
    }.items(),
    ids=str,
)
def test_other_thresholds_are_refused(threshold, told):
    with pytest.raises(RecipeError, match=rf"relations\.0: .*{told}"):
        manyview.parse_recipe(RECIPE.replace("TIE", TIE.replace("'right'", threshold)))


def test_right_is_of_where():
    with pytest.raises(RecipeError, match="threshold is of where="):
        manyview.parse_recipe(RECIPE.replace("TIE", "similarity(h(a), h(b), threshold='right')"))


def test_with_its_views_exchanged_it_is_another():
    """A tie is the same for both of its views; which rows count is not."""
    swapped = manyview.parse_recipe(RECIPE.replace("TIE", TIE[:-1] + ", swapped=True)")).relation_plan[0]
    assert [str(call.named_reads["where"]) for call in swapped.calls] == ["stop(logits(a))", "stop(logits(b))"]
    with pytest.raises(RecipeError, match="with its views exchanged this line is the same"):
        manyview.parse_recipe(RECIPE.replace("TIE", "similarity(h(a), h(b), swapped=True)"))
