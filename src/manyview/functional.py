"""The pure losses and metrics by name: tensors in, a scalar (or what the docstring says) out; no state."""

from __future__ import annotations

from manyview.augment.orbit import orbit
from manyview.evaluate.calibration import expected_calibration_error
from manyview.evaluate.knn import knn_predict
from manyview.relations.agmax import agmax, agreement
from manyview.relations.cross_entropy import poly1_cross_entropy
from manyview.relations.jensen_shannon import jensen_shannon
from manyview.relations.joint import aggregate, distill, joint_cross_entropy, joint_labels
from manyview.relations.similarity import similarity

__all__ = [
    "aggregate",
    "agmax",
    "agreement",
    "distill",
    "expected_calibration_error",
    "jensen_shannon",
    "joint_cross_entropy",
    "joint_labels",
    "knn_predict",
    "orbit",
    "poly1_cross_entropy",
    "similarity",
]
