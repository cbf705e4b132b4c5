"""Few-shot classification of frozen features: many small tasks, each a few classes with a few labelled images.

A task draws `ways` classes, and of each `shots` images to learn from and `queries` others to judge by. AugSelf (Lee et
al., NeurIPS 2021) reports 2,000 tasks of 5 ways, 1 or 5 shots and 16 queries, as mean and 95 % interval. Its official
code, which the defaults follow, takes features as they are and scikit-learn's liblinear with C = 1: each class against
the rest, with weights and biases penalised alike. Others scale features to unit length and fit all classes at once
(Tian et al., ECCV 2020), or take the nearest centroid (Snell et al., NeurIPS 2017; of unit features, SimpleShot, Wang
et al., 2019).

A logistic regression's weights are sums of its support rows, so that a task of n rows has n unknowns a class at most,
however wide the features are: one for each singular value of the rows. Those are scaled such that neither the largest
features nor the smallest leave the range of numbers near 1, and that no product of rows is formed, whose rounding
would hide what few of them tell. Newton's steps are conjugate gradients', which each class's own curvature
preconditions. All tasks take their steps together, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.errors import DataError, unknown
from manyview.evaluate.logistic import check_rows
from manyview.evaluate.report import Report
from manyview.foundation.words import counted
from manyview.views.draws import Draws
from manyview.views.ops.op import check_kind, check_whole

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features

CLASSIFIERS = ("one_vs_rest", "softmax", "centroid")
NUMBERS_AT_ONCE = 2**22
"""Bounds the tasks that are solved together, by the size of what one of them needs."""
STEPS, PRODUCTS, HALVINGS = 500, 100, 30
TOLERANCE = 1e-12
"""Of the objective, as a fraction: what Newton's last step promises to lower it by, and rounding may raise it by."""
FORCING = 0.1


@dataclass(frozen=True)
class Episodes:
    """Which rows each task is about. Row k of the first two is of the task's k-th class.

    support: int64 [tasks, ways, shots]. query: int64 [tasks, ways, queries]. classes: labels, int64 [tasks, ways].
    left_out: the labels of which there were too few rows.
    """

    support: Tensor
    query: Tensor
    classes: Tensor
    left_out: tuple[int, ...]


@dataclass(frozen=True)
class FewShot:
    """What `few_shot` found. accuracies: percent, float64 [tasks]. left_out: labels of which there were too few rows.

    The interval is about the mean over all tasks that these rows allow, not about other images or classes.
    """

    accuracies: Tensor
    left_out: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """The mean, in percent."""
        return float(self.accuracies.mean())

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of the mean, in percent: t sd / sqrt(tasks), t of tasks - 1; 1.96 of many."""
        from scipy.special import stdtrit  # which few others need

        count = len(self.accuracies)
        return float(stdtrit(count - 1, 0.975)) * float(self.accuracies.std()) / math.sqrt(count)


def episodes(labels: Tensor, ways: int, shots: int, queries: int, tasks: int, seed: int) -> Episodes:
    """Draws tasks: classes, and rows of each, all different. A pure function of its arguments.

    labels: integers [N], none negative. A class with fewer than shots + queries rows is in no task (AugSelf's code
    keeps those with more than `shots` rows and repeats their queries, which concerns none of its data sets).
    Tasks nest: the first are the same however many there are; fewer ways are the first of more; and as long as no
    class is too small for it, more shots are fewer and others, judged by the same queries. So what differs between
    two results is never the tasks.

    Raises ValueError for labels that are not [N] or negative, ways < 2, shots, queries or tasks < 1, and fewer than
    `ways` classes with enough rows.
    """
    for name, number, least in (("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1), ("tasks", tasks, 1)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    if labels.ndim != 1:
        raise ValueError(f"expected labels [N], got {tuple(labels.shape)}")
    labels = labels.cpu().long()
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"label {int(labels.min())} is negative; leave out rows without a label")
    found, sizes = labels.unique(return_counts=True)
    needed = shots + queries
    enough = sizes >= needed
    if int(enough.sum()) < ways:
        raise ValueError(
            f"{ways} ways need as many classes with {needed} rows ({shots} shots and {queries} queries); "
            f"of {len(found)} classes {int(enough.sum())} have as many"
        )
    by_class, first = labels.argsort(stable=True), sizes.cumsum(0) - sizes
    usable = enough.nonzero()[:, 0]

    chosen = usable[Draws(seed, 0, range(tasks), "fewshot").permutation("classes", len(usable))[:, :ways]]
    places = torch.arange(tasks)[:, None] * len(usable) + torch.arange(ways)
    unit = Draws(seed, 0, places.flatten().numpy(), "fewshot").uniform("rows", needed)
    drawn = _without_replacement(unit, sizes[chosen].flatten()).view(tasks, ways, needed)
    rows = by_class[first[chosen][:, :, None] + drawn]
    return Episodes(rows[:, :, queries:], rows[:, :, :queries], found[chosen], tuple(found[~enough].tolist()))


def within_reach(labels: Tensor, ways: int, shots: int, queries: int) -> tuple[int, int]:
    """The ways and queries that labels [N] allow: as they are, or as many classes and then queries as there are.

    Shots stay: they are what tells one such figure from another. Raises ValueError where not even two classes have a
    query beside their shots, with the shots that would do.
    """
    sizes = labels.unique(return_counts=True)[1].sort(descending=True).values
    if int((sizes >= shots + queries).sum()) >= ways:
        return ways, queries
    fitting = min(ways, int((sizes > shots).sum()))
    if fitting < 2:
        most = int(sizes[1]) - 1 if len(sizes) > 1 else 0
        cure = f"; ask for fewshot(shots={most})" if most > 0 else ""
        raise ValueError(f"{counted(shots, 'shot')} and a query need two classes of {shots + 1} images or more{cure}")
    return fitting, min(queries, int(sizes[fitting - 1]) - shots)


def few_shot(
    features: Tensor,
    labels: Tensor,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 16,
    tasks: int = 2000,
    seed: int = 0,
    classifier: str = "one_vs_rest",
    weight: float = 0.5,
    unit: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FewShot:
    """The accuracy of a classifier that learns each task of `episodes` from its support rows alone.

    features: [N, D]. labels: integers [N]. unit: whether features are first scaled to length 1. progress: told how
    many tasks are done, of how many. classifier:

    - `one_vs_rest`: logistic regression of each class against the rest, the largest score wins (AugSelf's code).
    - `softmax`: multinomial logistic regression.
    - `centroid`: the nearest mean of a class's support rows.

    Both regressions minimise the *sum* over rows of the cross-entropy plus weight * (|W|^2 + |b|^2), as `fit_linear`
    does; weight = 1 / 2C, so that 0.5 is scikit-learn's C = 1. They find the minimum of features of any scale, also
    where rows repeat or lie on a line, and whether or not they can be told apart. A step costs some
    ways * (ways * shots)^3 operations a task, and as much memory as ways * (ways * shots)^2 numbers: few shots.

    Raises ValueError as `episodes` does, and for features and labels of unlike length, features that are not finite,
    one task alone (no interval), an unknown classifier, a weight that is not positive, and, rather than be wrong, if
    a regression does not converge, as where squares of features leave the range of float64.
    """
    check_rows(features, labels)
    if classifier not in CLASSIFIERS:
        raise ValueError(f"classifier must be one of {', '.join(CLASSIFIERS)}, got {classifier!r}")
    if not 0 < weight < math.inf:
        raise ValueError(f"weight must be positive, got {weight!r}")
    if tasks < 2:
        raise ValueError(f"tasks must be at least 2 for an interval, got {tasks}")
    drawn = episodes(labels, ways, shots, queries, tasks, seed)
    if unit:
        features = F.normalize(features.double(), dim=1)
    n = ways * shots
    size = n * max(features.shape[1], ways * n) + ways * queries * (features.shape[1] + n)
    accuracies = []
    parts = [rows.to(features.device).split(max(1, NUMBERS_AT_ONCE // size)) for rows in (drawn.support, drawn.query)]
    for support, query in zip(*parts, strict=True):
        learnt, asked = features[support.flatten(1)].double(), features[query.flatten(1)].double()
        if classifier == "centroid":
            scores = _by_centroid(learnt, asked, ways)
        else:
            scores = _by_regression(learnt, asked, ways, weight, classifier == "softmax")
        truth = torch.arange(ways, device=scores.device).repeat_interleave(queries)
        accuracies.append(100 * (scores.argmax(dim=2) == truth).double().mean(dim=1).cpu())
        if progress is not None:
            progress(sum(map(len, accuracies)), tasks)
    return FewShot(torch.cat(accuracies), drawn.left_out)


def _without_replacement(unit: Tensor, sizes: Tensor) -> Tensor:
    """Different numbers below each row's size, in random order: int64 [R, count] of uniform [R, count], sizes [R]."""
    drawn = torch.empty(unit.shape, dtype=torch.int64)
    for at in range(unit.shape[1]):
        # a place among those not yet taken; each that is taken at or before it moves it on by one
        place = (unit[:, at] * (sizes - at)).long()
        for taken in drawn[:, :at].sort(dim=1).values.unbind(dim=1):
            place += place >= taken
        drawn[:, at] = place
    return drawn


def _by_centroid(support: Tensor, query: Tensor, ways: int) -> Tensor:
    """Scores [T, Q, ways] that fall with the distance; support [T, ways * shots, D] in order of class, query [T, Q, D].

    |q - c|^2 without |q|^2, which all classes share.
    """
    centroids = support.unflatten(1, (ways, -1)).mean(dim=2)
    return 2 * query @ centroids.mT - centroids.square().sum(dim=2)[:, None]


def _by_regression(support: Tensor, query: Tensor, ways: int, weight: float, joint: bool) -> Tensor:
    """Scores [T, Q, ways] of the penalised logistic regression; arguments as of `_by_centroid`.

    With U S V' the rows' singular values and t a class's unknowns, its weights are V (S^2 + 2w)^-1/2 t, its scores of
    the rows are Z t, and the penalty is t' P t / 2 with P = 2w (S^2 + 2w)^-1: Z'Z + P is the identity.
    """
    rows = torch.cat([support, support.new_ones(*support.shape[:2], 1)], dim=2)
    basis, low = torch.linalg.qr(rows.mT)
    left, size, right = torch.linalg.svd(low.mT, full_matrices=False)
    scale = torch.hypot(size, size.new_tensor(math.sqrt(2 * weight)))[:, None]
    found = _solve(left * (size[:, None] / scale), 2 * weight / scale.square(), support.shape[1] // ways, joint)
    theta = (found / scale) @ right @ basis.mT
    return query @ theta[..., :-1].mT + theta[:, None, :, -1]


def _solve(rows: Tensor, penalty: Tensor, shots: int, joint: bool) -> Tensor:
    """Each class's unknowns t [T, ways, r], of rows Z [T, n, r] in order of class, with penalty P [T, 1, r].

    The objective is CE(Z t) + sum_c t_c' P t_c / 2. A task's steps end with the first that promises to lower it by less
    than TOLERANCE of it, and what it does until then does not depend on the tasks it is solved with.
    """
    problem = _Tasks(rows, penalty, shots, joint)
    t = rows.new_zeros(len(rows), problem.ways, rows.shape[2])
    loss = problem.value(t)
    done = torch.zeros_like(loss, dtype=torch.bool)
    for _ in range(STEPS):
        step, slope = problem.newton(t, ~done)
        length = (slope < 0).to(t.dtype)
        for _ in range(HALVINGS):
            moved = t + length * step
            lower = problem.value(moved)
            wrong = lower > loss + 1e-4 * length * slope + TOLERANCE * loss
            if not bool(wrong.any()):
                break
            length = torch.where(wrong, length / 2, length)
        t, loss = moved, lower
        done = done | (-slope / 2 <= TOLERANCE * loss)
        if bool(done.all()):
            return t
    raise ValueError("a few-shot regression does not converge; features this large want unit=True or more weight")


@final
class _Tasks:
    """Rows of many tasks, and the objective on them (see `_solve`). Numbers of a task are [T, 1, 1]."""

    def __init__(self, rows: Tensor, penalty: Tensor, shots: int, joint: bool) -> None:
        self.rows, self.penalty, self.joint = rows, penalty, joint
        self.ways = rows.shape[1] // shots
        self.own = torch.eye(self.ways, dtype=torch.bool, device=rows.device).repeat_interleave(shots, dim=1)

    def value(self, t: Tensor) -> Tensor:
        """The objective."""
        # log(1 + e^x) with x below 0 where a row is right: a small loss is not a difference of large numbers
        x = t @ self.rows.mT
        if self.joint:
            x = (x - (x * self.own).sum(dim=1, keepdim=True)).masked_fill(self.own, -math.inf).logsumexp(1, True)
        else:
            x = torch.where(self.own, -x, x)
        return _dot(t, self.penalty * t) / 2 - F.logsigmoid(-x).sum(dim=(1, 2), keepdim=True)

    def newton(self, t: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The direction -H^-1 gradient by conjugate gradients, to a tenth of the preconditioned gradient's length, and
        the objective's slope along it; both 0 for tasks that are not wanted."""
        chance, rest, likeliest = self._chances(t)
        bent = chance * rest
        gradient = torch.where(self.own, -rest, chance) @ self.rows + self.penalty * t
        if self.joint:  # what all classes share changes no score; it is rounding
            gradient = gradient - gradient.mean(dim=1, keepdim=True)

        def curved(x: Tensor) -> Tensor:
            """The Hessian times a direction."""
            change = x @ self.rows.mT
            if self.joint:
                change = change - (change * likeliest).sum(dim=1, keepdim=True)  # chances that round to 1 do no harm
                change = chance * (change - (chance * change).sum(dim=1, keepdim=True))
            else:
                change = bent * change
            return change @ self.rows + self.penalty * x

        solve = self._solver(bent)
        direction, residual = torch.zeros_like(gradient), -gradient
        step = ahead = solve(residual)
        size = _dot(residual, ahead)
        enough = FORCING**2 * size
        for _ in range(PRODUCTS):
            going = wanted & (size > enough)
            if not bool(going.any()):
                break
            turned = curved(step)
            length = torch.where(going, size / _dot(step, turned), 0.0)
            direction, residual = direction + length * step, residual - length * turned
            ahead = solve(residual)
            last, size = size, torch.where(going, _dot(residual, ahead), size)
            step = torch.where(going, ahead + size / last * step, step)
        return direction, _dot(gradient, direction)

    def _chances(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's chance of each class, 1 less that without cancellation, and which is the likeliest of a row."""
        scores = t @ self.rows.mT
        if not self.joint:
            return scores.sigmoid(), (-scores).sigmoid(), self.own
        chance = scores.softmax(dim=1)
        likeliest = F.one_hot(chance.argmax(dim=1), self.ways).mT.bool()
        others = chance.masked_fill(likeliest, 0.0).sum(dim=1, keepdim=True)
        return chance, torch.where(likeliest, others, 1 - chance), likeliest

    def _solver(self, bent: Tensor) -> Callable[[Tensor], Tensor]:
        """Vector -> about the inverse Hessian times it: each class by itself. One against the rest, it is that."""
        hessian = (self.rows.mT[:, None] * bent[:, :, None]) @ self.rows[:, None]
        diagonal = hessian.diagonal(dim1=2, dim2=3)
        # more than the rounding of the sums, so that it stays positive where the penalty is less than that
        diagonal.add_(self.penalty).mul_(1 + 1e-14 * self.rows.shape[1])
        factor = torch.linalg.cholesky(hessian)

        def solve(vector: Tensor) -> Tensor:
            solved = torch.cholesky_solve(vector[..., None], factor)[..., 0]
            return solved - solved.mean(dim=1, keepdim=True) if self.joint else solved

        return solve


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of each task: [T, 1, 1]."""
    return (a * b).sum(dim=(1, 2), keepdim=True)


@dataclass(frozen=True)
class FewShotTasks:
    """Mean accuracy over few-shot tasks drawn from the split alone, with half its 95 % interval, `half_width`.

    Each task has `ways` classes, `shots` images of each to learn from, `queries` to judge by; tasks are a function of
    the run's seed. Where the split has too few classes or images, there are fewer ways or queries, which are told.
    classifier: one_vs_rest (AugSelf's), softmax or centroid. unit: features scaled to length 1.
    """

    ways: int = 5
    shots: int = 5
    queries: int = 16
    tasks: int = 2000
    classifier: str = "one_vs_rest"
    unit: bool = False

    def __post_init__(self) -> None:
        for name in ("ways", "shots", "queries", "tasks"):
            check_whole(name, getattr(self, name), 2 if name in ("ways", "tasks") else 1)
        if self.classifier not in CLASSIFIERS:
            raise ValueError(unknown("classifier", str(self.classifier), CLASSIFIERS))
        check_kind("unit", self.unit, bool, "True or False")

    def check(self, splits: Splits) -> None:
        """Raises DataError where no held-out split has two classes with enough images."""
        why = []
        held = [images for images in (splits.val, splits.test) if images is not None]
        for images in held:
            try:
                within_reach(torch.from_numpy(images.labels[images.labels >= 0]), self.ways, self.shots, self.queries)
            except ValueError as error:
                why.append(str(error))
        if held and len(why) == len(held):
            raise DataError(f"evaluate: fewshot: {why[-1]}")

    def measure(self, features: Features, split: str) -> Report:
        """The mean, its interval, and how many classes had too few images."""
        outputs = features.of(split)
        with features.watch("fewshot", self.tasks, "tasks") as tick:
            try:
                ways, queries = within_reach(outputs.labels, self.ways, self.shots, self.queries)
                asked = {**vars(self), "ways": ways, "queries": queries}
                found = few_shot(outputs.features, outputs.labels, **asked, seed=features.seed, progress=tick)
            except ValueError as error:
                raise DataError(f"fewshot on {split}: {error}") from None
        changed = {name: float(asked[name]) for name in ("ways", "queries") if asked[name] != getattr(self, name)}
        note = " and ".join(f"{name}={number:g}, not {getattr(self, name)}" for name, number in changed.items())
        measures = {"": found.accuracy, "half_width": found.half_width, "classes_left_out": len(found.left_out)}
        told = f"fewshot takes {note}: {split} has too few classes with as many images" if note else ""
        return Report(measures | changed, note=told)
