"""Accuracies are the shares that were counted, to the last digit that is written."""

import json

import pytest
import torch

from manyview.evaluate.accuracy import accuracy


@pytest.mark.parametrize("right", range(0, 101, 4))
def test_a_share_of_a_hundred_is_written_with_no_more_digits_than_it_has(right):
    """In float32, 16 of 100 are 15.999999642372131 per cent."""
    labels = torch.arange(100) % 10
    shown = torch.where(torch.arange(100) < right, labels, (labels + 1) % 10)
    measured = accuracy(torch.nn.functional.one_hot(shown, 10).float(), labels)
    assert measured["top1"] == pytest.approx(right, abs=1e-12)
    assert json.dumps(round(measured["top1"], 10)) == f"{right}.0"
    assert len(json.dumps(measured["top1"])) <= len("16.000000000000004")
    assert measured["class_mean"] == pytest.approx(right, abs=1e-12)
