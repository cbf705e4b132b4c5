"""The pure losses and metrics by name: tensors in, a scalar (or what the docstring says) out; no state."""

from __future__ import annotations

from manyview.evaluate.calibration import expected_calibration_error
from manyview.evaluate.knn import knn_predict
from manyview.relations.agmax import agmax, agreement
from manyview.relations.contrastive import info_nce, nt_xent, supervised_contrastive
from manyview.relations.cosine import negative_cosine
from manyview.relations.cross_entropy import poly1_cross_entropy
from manyview.relations.dino import dino
from manyview.relations.jensen_shannon import jensen_shannon
from manyview.relations.joint import aggregate, distill, joint_cross_entropy, joint_labels
from manyview.relations.lejepa import sigreg, spread
from manyview.relations.pseudo_label import pseudo_label
from manyview.relations.redundancy import barlow_twins, vicreg
from manyview.relations.similarity import similarity
from manyview.relations.swav import sinkhorn, swav
from manyview.relations.thresholds import flex_thresholds, free_thresholds, soft_weights
from manyview.views.ops.orbit import orbit
from manyview.views.ops.soften import soften

__all__ = [
    "aggregate",
    "agmax",
    "agreement",
    "barlow_twins",
    "dino",
    "distill",
    "expected_calibration_error",
    "flex_thresholds",
    "free_thresholds",
    "info_nce",
    "jensen_shannon",
    "joint_cross_entropy",
    "joint_labels",
    "knn_predict",
    "negative_cosine",
    "nt_xent",
    "orbit",
    "poly1_cross_entropy",
    "pseudo_label",
    "sigreg",
    "similarity",
    "sinkhorn",
    "soft_weights",
    "soften",
    "spread",
    "supervised_contrastive",
    "swav",
    "vicreg",
]
