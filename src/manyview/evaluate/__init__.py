"""Evaluation: functions on features, labels and scores, usable alone, and the protocols that `manyview eval` names."""

from __future__ import annotations

from manyview.evaluate.attacks import fgsm, fgsm_normalized, pgd
from manyview.evaluate.calibration import (
    brier_score,
    calibration_floor,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from manyview.evaluate.corruptions import corrupt, corruption
from manyview.evaluate.fewshot import episodes, few_shot
from manyview.evaluate.invariance import cosines, overlap
from manyview.evaluate.knn import knn_predict
from manyview.evaluate.linear import fit_linear, fit_path, linear_probe
from manyview.evaluate.linear_sgd import sgd_probe

__all__ = [
    "brier_score",
    "calibration_floor",
    "corrupt",
    "corruption",
    "cosines",
    "episodes",
    "expected_calibration_error",
    "few_shot",
    "fgsm",
    "fgsm_normalized",
    "fit_linear",
    "fit_path",
    "fit_temperature",
    "knn_predict",
    "linear_probe",
    "negative_log_likelihood",
    "overlap",
    "pgd",
    "reliability",
    "sgd_probe",
]
