"""Relations: what is asked between readouts. One idea a file; this table is all there is to register.

Files have the names of what is asked; a paper's own loss is in

    Tied-Augment    similarity (of features), weight (its schedules)
    SimCLR, MoCo    contrastive; SupCon, too
    SimSiam, BYOL   cosine
    Barlow Twins    redundancy; VICReg, too
    SLA             joint; its aggregation and self-distillation, too
    AugMix          jensen_shannon
    FixMatch        pseudo_label; thresholds of its family
    AgMax, AugSelf, SwAV   files of their names
"""

from __future__ import annotations

from torch import nn

from manyview.relations.agmax import AgMax, Agreement
from manyview.relations.augself import AugSelf
from manyview.relations.contrastive import InfoNce, NtXent, SupervisedContrastive
from manyview.relations.cosine import Cosine
from manyview.relations.cross_entropy import CrossEntropy
from manyview.relations.jensen_shannon import JensenShannon
from manyview.relations.joint import Distill, JointCrossEntropy, OrbitCrossEntropy
from manyview.relations.pseudo_label import PseudoLabel
from manyview.relations.reading import TRAITS, FitError, HasState, Port, Reading
from manyview.relations.redundancy import BarlowTwins, VicReg
from manyview.relations.similarity import Similarity
from manyview.relations.swav import SwAV

RELATIONS: dict[str, type[nn.Module]] = {
    "agmax": AgMax,
    "agreement": Agreement,
    "augself": AugSelf,
    "barlow_twins": BarlowTwins,
    "cosine": Cosine,
    "cross_entropy": CrossEntropy,
    "distill": Distill,
    "info_nce": InfoNce,
    "jensen_shannon": JensenShannon,
    "joint_cross_entropy": JointCrossEntropy,
    "nt_xent": NtXent,
    "orbit_cross_entropy": OrbitCrossEntropy,
    "pseudo_label": PseudoLabel,
    "similarity": Similarity,
    "supervised_contrastive": SupervisedContrastive,
    "swav": SwAV,
    "vicreg": VicReg,
}

__all__ = ["RELATIONS", "TRAITS", "FitError", "HasState", "Port", "Reading"]
