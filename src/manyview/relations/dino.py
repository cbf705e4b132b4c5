"""DINO: the student's softmax follows a centred, sharpened one of a teacher (Caron et al., ICCV 2021).

For a teacher's view t and another view s of the student, scores [B, K] of the same images (eq. 1-2, algorithm 1):

    loss = - mean over rows of  softmax((t - c) / T_t)  log softmax(s / T_s)

T_s = 0.1, T_t = 0.04. Sharpening alone lets one column win, centring alone makes all columns alike; together they
keep the embeddings from either collapse (section 5.3). The centre c is a moving mean of the teacher's scores.
"""

from __future__ import annotations

from torch import Tensor

from manyview.relations.precision import check_temperature, in_float32
from manyview.relations.reading import same_shape


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
