"""The EMA teacher: a branch whose weights follow another's (MoCo: He et al., CVPR 2020, eq. 2; BYOL: Grill et al.,
NeurIPS 2020).

    teacher <- m teacher + (1 - m) online        after every update

BYOL raises m along half a cosine (its section 3.1): m_t = 1 - (1 - m) (cos(pi t / T) + 1) / 2, so that the teacher
stands still at the end. Weights follow; running statistics of BatchNorm do not: the teacher looks at its views in
training mode and keeps statistics of its own, as in both official codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from manyview.errors import unknown
from manyview.foundation.grammar import Name

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Ema:
    """`teacher: ema(online, momentum=0.996, schedule="cosine")`. of: the branch that is followed."""

    of: Name
    momentum: float = 0.996
    schedule: str = "constant"

    def __post_init__(self) -> None:
        if not isinstance(self.of, Name):
            raise ValueError(f"ema first names the branch that it follows, as in ema(online), got {self.of!r}")
        if type(self.momentum) not in (int, float) or not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be a number in [0, 1), got {self.momentum!r}")
        if isinstance(self.schedule, Name):
            raise ValueError(f"put quotes round schedule='{self.schedule}'")
        if self.schedule not in SCHEDULES:
            raise ValueError(unknown("schedule", str(self.schedule), SCHEDULES))

    @property
    def follows_progress(self) -> bool:
        """Whether the momentum depends on how much of the run is done, so that the run's length must be known."""
        return self.schedule == "cosine"

    def at(self, progress: float) -> float:
        """The momentum of an update at some progress of the run, from 0 to 1."""
        if self.schedule == "constant":
            return self.momentum
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2

    def __str__(self) -> str:
        return f"ema of {self.of}, momentum {self.momentum:g}" + (" to 1" if self.schedule == "cosine" else "")


@torch.no_grad()
def follow(teacher: nn.Module, online: nn.Module, momentum: float) -> None:
    """Moves the teacher's parameters towards those of the same names in `online`, in place."""
    theirs = dict(online.named_parameters())
    pairs = [(parameter, theirs[name]) for name, parameter in teacher.named_parameters()]
    torch._foreach_lerp_([one for one, _ in pairs], [two for _, two in pairs], 1 - momentum)
