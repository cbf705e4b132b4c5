"""Relations: what is asked between readouts. One idea a file; this table is all there is to register."""

from __future__ import annotations

from torch import nn

from manyview.relations.agmax import AgMax, Agreement
from manyview.relations.cross_entropy import CrossEntropy
from manyview.relations.jensen_shannon import JensenShannon
from manyview.relations.joint import Distill, JointCrossEntropy, OrbitCrossEntropy
from manyview.relations.reading import Port, Reading
from manyview.relations.similarity import Similarity

RELATIONS: dict[str, type[nn.Module]] = {
    "agmax": AgMax,
    "agreement": Agreement,
    "cross_entropy": CrossEntropy,
    "distill": Distill,
    "jensen_shannon": JensenShannon,
    "joint_cross_entropy": JointCrossEntropy,
    "orbit_cross_entropy": OrbitCrossEntropy,
    "similarity": Similarity,
}

__all__ = ["RELATIONS", "Port", "Reading"]
