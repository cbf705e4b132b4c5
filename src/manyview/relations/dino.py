"""DINO: the student's softmax follows a centred, sharpened one of a teacher (Caron et al., ICCV 2021).

For a teacher's view t and another view s of the student, scores [B, K] of the same images (eq. 1-2, algorithm 1):

    loss = - mean over rows of  softmax((t - c) / T_t)  log softmax(s / T_s)

T_s = 0.1, T_t = 0.04. Sharpening alone lets one column win, centring alone makes all columns alike; together they
keep the embeddings from either collapse (section 5.3). The centre c is a moving mean of the teacher's scores:
c <- 0.9 c + 0.1 mean t (eq. 4).

The loss is the mean over all pairs of a global view, as the teacher sees it, and another view, as the student does
(eq. 3). T_t rises from 0.04 to 0.07 over the first 30 epochs in the official code, by the epoch; here by the update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manyview.foundation.distributed import gather
from manyview.relations.precision import check_temperature, in_float32
from manyview.relations.reading import FitError, Port, Reading, check_alike, members_of, same_shape
from manyview.views.ops.op import check_whole


@in_float32
def dino(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """DINO's loss of one pair of views, a scalar, the mean over rows; no gradient to teacher and centre.

    student, teacher: scores [B, K] of the same images. centre: [K], taken off the teacher's scores. A mean over rows:
    processes need no gather. Raises ValueError for shapes that disagree and temperatures <= 0.
    """
    same_shape(student, teacher)
    if centre.shape != student.shape[1:]:
        raise ValueError(f"expected a centre [{student.shape[1]}], got {tuple(centre.shape)}")
    check_temperature(student_temperature)
    check_temperature(teacher_temperature)
    target = ((teacher - centre).detach() / teacher_temperature).softmax(dim=1)
    return -(target * (student / student_temperature).log_softmax(dim=1)).sum(dim=1).mean()


class Dino(nn.Module):
    """`dino(z(a), z(b), toward=teacher, others=z(local))`, of scores, `z: dino_head(h, 4096)`; owns the centre [K].

    toward: the branch that teaches, an EMA; it sees the global views, those of the first arguments. others: small
    crops, which only the student sees, a view or a family. temperature: the student's. teacher_temperature: the
    teacher's, or where it begins and ends, (0.04, 0.07), rising evenly for so many updates (warmup). momentum: of the
    centre, which moves by the mean over all rows of an update, of all its parts and processes.
    Measures, logged with a run: entropy, the mean over the teacher's answers, over log K; kl, how far the student's are
    from them; told, what an answer tells of its image, the entropy of the mean answer less the mean entropy, over log
    K. All images alike: told is 0, and entropy at one of its ends, 0 or 1.
    """

    symmetric = True

    def __init__(
        self,
        *views: Port,
        toward: tuple[Port, ...],
        others: Port | None = None,
        temperature: float = 0.1,
        teacher_temperature: float | tuple[float, float] = 0.04,
        warmup: int = 0,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if not views or sum(view.members for view in (*views, *([others] if others else []))) < 2:
            raise ValueError("dino reads at least two views, as in dino(z(a), z(b), toward=teacher)")
        check_temperature(temperature)
        ends = teacher_temperature if isinstance(teacher_temperature, (tuple, list)) else (teacher_temperature,) * 2
        if len(ends) != 2:
            raise ValueError(f"teacher_temperature is one, or where it begins and ends, got {teacher_temperature!r}")
        for end in ends:
            check_temperature(end)
        check_whole("warmup", warmup, least=0)
        if ends[0] != ends[1] and not warmup:
            raise ValueError("teacher_temperature begins and ends apart; say over how many updates, as in warmup=1000")
        if type(momentum) not in (int, float) or not 0 <= momentum < 1:
            raise ValueError(f"momentum must be a number in [0, 1), got {momentum!r}")
        for port in (*views[1:], *toward, *([] if others is None else [others])):
            if port.dim != views[0].dim:
                check_alike(views[0], port)
        if trained := [port for port in toward if not port.constant]:
            raise FitError(f"{trained[0]} would learn, too; a teacher is an EMA, as in teacher: ema(online)")
        self.temperature, self.ends, self.warmup, self.momentum = temperature, ends, warmup, momentum
        self.register_buffer("centre", torch.zeros(views[0].dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.centre: Tensor
        self.updates: Tensor
        self._seen: list[Tensor] = []  # of the update under way: sums of the teacher's scores, and their rows
        self.measures: dict[str, Tensor] = {}

    def forward(self, *views: Reading, toward: Sequence[Reading], others: Reading | None = None) -> Tensor:
        students = [rows for view in (*views, *([others] if others else [])) for rows in members_of(view)]
        teachers = [rows.detach() for view in toward for rows in members_of(view)]
        targets = [((rows - self.centre) / self._teacher_temperature()).softmax(dim=1) for rows in teachers]
        answers = [(rows / self.temperature).log_softmax(dim=1) for rows in students]
        pairs = [
            -(target * answer).sum(dim=1).mean()
            for t, target in enumerate(targets)
            for s, answer in enumerate(answers)
            if s != t  # the global views come first among the student's
        ]
        loss = torch.stack(pairs).mean()
        if self.training and torch.is_grad_enabled():  # else no update follows
            self._seen += [torch.cat([rows.sum(dim=0), rows.new_full((1,), len(rows))]) for rows in teachers]
        self._measure(torch.cat(targets), loss.detach())
        return loss

    def _teacher_temperature(self) -> float | Tensor:
        first, last = self.ends
        return last if first == last else first + (last - first) * (self.updates / self.warmup).clamp(max=1)

    def _measure(self, answers: Tensor, loss: Tensor) -> None:
        entropy = torch.special.entr(answers).sum(dim=1).mean()
        told = torch.special.entr(answers.mean(dim=0)).sum() - entropy
        most = math.log(answers.shape[1])
        self.measures = {"entropy": entropy / most, "told": told / most, "kl": loss - entropy}

    @torch.no_grad()
    def after_step(self) -> None:
        """The centre moves by what the teacher said in this update, on all processes."""
        self.updates += 1
        if not self._seen:
            return
        seen = gather(torch.stack(self._seen).sum(dim=0)[None]).sum(dim=0)
        self.centre.lerp_(seen[:-1] / seen[-1], 1 - self.momentum)
        self._seen = []
