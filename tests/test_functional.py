"""The pure losses: against slow NumPy references, by hand, by invariance, and by finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch

import references as ref
from cases import in_turn
from manyview import functional as F

KINDS = ["mse", "mae", "cosine", "l2_norm", "cosine_l2_norm", "cka", "vicreg"]
SHAPES = [(1, 3), (3, 4), (5, 2), (32, 6)]  # 32 rows: enough for distances by matrix product, if any, to show
M = 4  # transformations of an orbit


class Loss(NamedTuple):
    """One loss as a function of `inputs` real matrices, twice: in torch, and in NumPy."""

    torch: Callable
    numpy: Callable
    inputs: int = 2
    smallest: int = 1  # the fewest rows for which it is defined
    symmetric: bool = False  # under exchange of its inputs
    joint: bool = False  # its input is [B·m, C·m]


def labels_for(shape):
    rows, classes = shape
    return [(3 * i + 1) % classes for i in range(rows)]


def poly1(epsilon):
    return Loss(
        lambda x: F.poly1_cross_entropy(x, torch.tensor(labels_for(x.shape)), epsilon),
        lambda x: ref.poly1_cross_entropy(x, labels_for(x.shape), epsilon),
        inputs=1,
    )


def joint(reduction):
    def labels(x):
        return labels_for((x.shape[0] // M, x.shape[1] // M))

    return Loss(
        lambda x: F.joint_cross_entropy(x, torch.tensor(labels(x)), M, reduction),
        lambda x: ref.joint_cross_entropy(x, labels(x), M, reduction),
        inputs=1,
        joint=True,
    )


LOSSES = {
    **{
        f"similarity-{kind}": Loss(
            lambda a, b, kind=kind: F.similarity(a, b, kind),
            lambda a, b, kind=kind: ref.similarity(a, b, kind),
            smallest={"cka": 3, "vicreg": 2}.get(kind, 1),
            symmetric=True,
        )
        for kind in KINDS
    },
    "jensen_shannon-2": Loss(F.jensen_shannon, ref.jensen_shannon, symmetric=True),
    "jensen_shannon-3": Loss(F.jensen_shannon, ref.jensen_shannon, inputs=3, symmetric=True),
    "poly1-0": poly1(0.0),
    "poly1-1": poly1(1.0),
    "poly1-2.5": poly1(2.5),
    **{
        f"agreement-{kind}": Loss(
            lambda a, b, kind=kind: F.agreement(a, b, kind),
            lambda a, b, kind=kind: ref.agreement(a, b, kind),
            symmetric=kind == "mse",
        )
        for kind in ("mse", "kl", "ce")
    },
    "agmax-entropy": Loss(lambda *x: F.agmax(*x)[0], ref.agmax_entropy, inputs=3, symmetric=True),
    "agmax-divergence": Loss(lambda *x: F.agmax(*x)[1], ref.agmax_divergence, inputs=3),
    "agmax-weight": Loss(
        lambda *x: F.agmax(*x, divergence_weight=0.5)[1],
        lambda *x: ref.agmax_divergence(*x, weight=0.5),
        inputs=3,
    ),
    "agmax-sum": Loss(
        lambda *x: F.agmax(*x, over_classes="sum")[1],
        lambda *x: ref.agmax_divergence(*x, weight=4.0 * x[0].shape[1]),
        inputs=3,
    ),
    "joint-mean": joint("mean"),
    "joint-sum": joint("sum"),
    "distill-1": Loss(lambda s, t: F.distill(s, t, 1.0), lambda s, t: ref.distill(s, t, 1.0)),
    "distill-4": Loss(lambda s, t: F.distill(s, t, 4.0), lambda s, t: ref.distill(s, t, 4.0)),
}
OF_LOGITS = [name for name in LOSSES if not name.startswith("similarity")]


def draw(loss, shape, *, scale=1.0, dtype=np.float64, seed=0):
    """The inputs of a loss: Gaussian for scale 1, uniform in [−scale, scale] above."""
    rng = np.random.default_rng((seed, *shape))
    size = (shape[0] * M, shape[1] * M) if loss.joint else shape
    values = rng.normal(size=(loss.inputs, *size)) if scale == 1 else rng.uniform(-scale, scale, (loss.inputs, *size))
    return list(values.astype(dtype))


def tensors(arrays, **options):
    return [torch.tensor(array, **options) for array in arrays]


def finite_differences(function, arrays, which, step=1e-5):
    """d function / d arrays[which], element by element: (f(x + step) − f(x − step)) / 2 step."""
    out = np.zeros(arrays[which].shape)
    for place in np.ndindex(out.shape):
        sides = []
        for sign in (1, -1):
            moved = [array.copy() for array in arrays]
            moved[which][place] += sign * step
            sides.append(function(*moved))
        out[place] = (sides[0] - sides[1]) / (2 * step)
    return out


# --- Values ------------------------------------------------------------------------------------------


@in_turn("dtype, rtol, atol", [(np.float32, 1e-5, 1e-6), (np.float64, 1e-10, 1e-12)])
@in_turn("scale", [1.0, 50.0])
@in_turn(
    "name, shape",
    [(name, shape) for name in LOSSES for shape in SHAPES if shape[0] >= LOSSES[name].smallest],
    by="name",
)
def test_value(name, shape, scale, dtype, rtol, atol):
    loss = LOSSES[name]
    arrays = draw(loss, shape, scale=scale, dtype=dtype)
    options = {"epsilon": float(np.finfo(dtype).eps)} if name == "agmax-entropy" else {}
    expected = loss.numpy(*(array.astype(np.float64) for array in arrays), **options)
    actual = loss.torch(*tensors(arrays))
    assert actual.shape == ()
    assert actual.dtype == tensors(arrays)[0].dtype
    assert actual.item() == pytest.approx(expected, rel=rtol, abs=atol)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_underflowing_probabilities_are_finite(name):
    arrays = draw(LOSSES[name], (5, 4), scale=500.0, dtype=np.float32)
    inputs = tensors(arrays, requires_grad=True)
    value = LOSSES[name].torch(*inputs)
    value.backward()
    assert value.item() == pytest.approx(LOSSES[name].numpy(*arrays), rel=1e-4, abs=1e-5)
    assert all(x.grad is None or x.grad.isfinite().all() for x in inputs)


def similarity_by_hand():
    e1, e2 = [[1.0, 0.0]], [[0.0, 1.0]]
    yield "mse", [[0.0, 0.0]], [[1.0, 3.0]], 5.0
    yield "mae", [[0.0, 0.0]], [[1.0, -3.0]], 2.0
    yield "cosine", [[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [5.0, 0.0]], 0.5
    yield "cosine", e1, [[-2.0, 0.0]], 2.0
    yield "l2_norm", [[3.0, 4.0]], [[6.0, 8.0]], 0.0
    yield "l2_norm", e1, e2, 1.0
    yield "cosine_l2_norm", e1, e2, 2.0
    yield (
        "vicreg",
        [[2.0, 0.0], [-2.0, 0.0]],
        [[2.0, 0.0], [-2.0, 0.0]],
        0.495,
    )  # a dead feature: ½ (½ 0.99) · 2
    yield (
        "vicreg",
        [[2.0, 2.0], [-2.0, -2.0]],
        [[2.0, 2.0], [-2.0, -2.0]],
        2 * (2 * 8**2 / 2) / 25,
    )  # C_12 = 8


@pytest.mark.parametrize(("kind", "h1", "h2", "expected"), similarity_by_hand())
def test_similarity_by_hand(kind, h1, h2, expected):
    assert F.similarity(torch.tensor(h1), torch.tensor(h2), kind).item() == pytest.approx(expected, abs=1e-6)


QUARTERS = torch.tensor([[math.log(3.0), 0.0]])  # softmax: 3/4, 1/4
HALVES = torch.zeros(1, 2)
KL = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL((3/4, 1/4) ‖ (1/2, 1/2))
FIRST, SECOND = torch.tensor([[50.0, -50.0]]), torch.tensor([[-50.0, 50.0]])
LOGITS_BY_HAND = {
    "jensen_shannon of equals": (lambda: F.jensen_shannon(QUARTERS, QUARTERS, QUARTERS), 0.0),
    "jensen_shannon of opposites": (lambda: F.jensen_shannon(FIRST, SECOND), math.log(2)),
    "poly1, uniform": (
        lambda: F.poly1_cross_entropy(torch.zeros(3, 4), torch.tensor([0, 3, 1]), 2.0),
        math.log(4) + 1.5,
    ),
    "poly1, epsilon is 1": (lambda: F.poly1_cross_entropy(HALVES, torch.tensor([1])), math.log(2) + 0.5),
    "agreement kl is KL(second ‖ first)": (lambda: F.agreement(HALVES, QUARTERS, "kl"), KL),
    "agreement ce, uniform": (
        lambda: F.agreement(torch.ones(3, 4), torch.zeros(3, 4), "ce"),
        math.log(4) / 4,
    ),
    "agmax entropy, uniform": (lambda: F.agmax(*torch.zeros(3, 2, 10))[0], -math.log(10)),
    "agmax entropy, one class": (lambda: F.agmax(FIRST, FIRST, FIRST)[0], 0.0),
    "agmax entropy, of the batch": (lambda: F.agmax(*[torch.cat([FIRST, SECOND])] * 3)[0], -math.log(2)),
    "agmax divergence, equal": (lambda: F.agmax(QUARTERS, QUARTERS, QUARTERS)[1], 0.0),
    "agmax divergence, one view off": (lambda: F.agmax(FIRST, SECOND, FIRST)[1], 4 * 2 / 4),
    "joint, mean": (lambda: F.joint_cross_entropy(torch.zeros(8, 12), torch.tensor([0, 2]), 4), math.log(12)),
    "joint, sum": (
        lambda: F.joint_cross_entropy(torch.zeros(8, 12), torch.tensor([0, 2]), 4, "sum"),
        4 * math.log(12),
    ),
    "joint, right": (
        lambda: F.joint_cross_entropy(100 * torch.eye(8)[[4, 5, 6, 7]], torch.tensor([1]), 4),
        0.0,
    ),
    "distill, equal": (lambda: F.distill(QUARTERS, QUARTERS, 3.0), 0.0),
    "distill, KL(teacher ‖ student)": (lambda: F.distill(HALVES, QUARTERS, 1.0), KL),
    "distill, T²": (lambda: F.distill(HALVES, 2 * QUARTERS, 2.0), 4 * KL),
}


@pytest.mark.parametrize("case", LOGITS_BY_HAND)
def test_logits_by_hand(case):
    call, expected = LOGITS_BY_HAND[case]
    assert call().item() == pytest.approx(expected, abs=1e-5)


# --- Gradients ---------------------------------------------------------------------------------------


@in_turn("scale", [1.0, 8.0])
@in_turn("shape", [(5, 3), (4, 6)])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name, shape, scale):
    loss, shape = LOSSES[name], (2, 2) if LOSSES[name].joint else shape
    arrays = draw(loss, shape, scale=scale, seed=1)
    numpy = loss.numpy
    if name == "similarity-cka":  # the widths of its kernels are constants
        sigmas = tuple(ref.rbf_sigma(array) for array in arrays)
        numpy = lambda a, b: ref.cka(a, b, sigmas)  # noqa: E731
    inputs = tensors(arrays, requires_grad=True)
    loss.torch(*inputs).backward()
    for which, x in enumerate(inputs):
        if name.startswith("distill") and which == 1:
            assert x.grad is None or not x.grad.any()
            continue
        expected = finite_differences(numpy, arrays, which)
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["mse", "mae", "cosine", "l2_norm", "cosine_l2_norm", "cka"])
def test_gradient_is_finite_where_views_agree_or_rows_are_dead(kind):
    h = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    h[3], h[5] = 0.0, h[4]  # a row of zeros, and two equal rows
    h1, h2 = h.clone().requires_grad_(), h.clone().requires_grad_()
    value = F.similarity(h1, h2, kind)
    value.backward()
    dead = 1 / 40 if kind.startswith("cosine") else 0.0  # its cosine counts as 0
    assert value.item() == pytest.approx(dead, abs=1e-6)
    assert h1.grad.isfinite().all()
    assert h2.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["cosine", "l2_norm", "cosine_l2_norm", "cka", "vicreg"])
@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_gradient_is_finite_at_collapse(kind, constant):
    h1 = torch.full((4, 3), constant, requires_grad=True)
    h2 = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    F.similarity(h1, h2, kind).backward()
    assert h1.grad.isfinite().all()
    assert h2.grad.isfinite().all()


def test_cka_median_leaves_out_every_zero_distance():
    rng = np.random.default_rng(0)
    h1, h2 = rng.normal(size=(2, 5, 4)).repeat(8, axis=1) + 10.0  # each row eight times, far from the origin
    expected = ref.cka(h1, h2)
    actual = F.similarity(torch.tensor(h1), torch.tensor(h2), "cka").item()
    assert actual == pytest.approx(expected, rel=1e-8)


# --- Invariances -------------------------------------------------------------------------------------


def call(name, arrays):
    return LOSSES[name].torch(*tensors(arrays)).item()


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith(("poly1", "joint"))])
def test_order_of_rows_and_columns_is_indifferent(name):
    arrays = draw(LOSSES[name], (6, 5))
    rows, columns = [4, 2, 0, 5, 1, 3], [3, 0, 4, 1, 2]
    moved = [array[rows][:, columns] for array in arrays]
    assert call(name, moved) == pytest.approx(call(name, arrays), rel=1e-10)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].inputs > 1])
def test_exchanging_the_views(name):
    arrays = draw(LOSSES[name], (6, 5))
    same = call(name, [*arrays[1:], arrays[0]]) == pytest.approx(call(name, arrays), rel=1e-10)
    assert same == LOSSES[name].symmetric


def test_agmax_views_are_interchangeable_and_joint_is_not():
    l1, l2, joint = tensors(draw(LOSSES["agmax-entropy"], (6, 5)))
    divergence = F.agmax(l1, l2, joint)[1].item()
    assert F.agmax(l2, l1, joint)[1].item() == pytest.approx(divergence, rel=1e-10)
    assert F.agmax(l1, joint, l2)[1].item() != pytest.approx(divergence, rel=1e-3)


@pytest.mark.parametrize("name", [name for name in OF_LOGITS if name != "agreement-mse"])
def test_a_constant_added_to_a_row_of_logits_is_indifferent(name):
    arrays = draw(LOSSES[name], (6, 5))
    moved = [array + np.arange(len(array))[:, None] for array in arrays]
    assert call(name, moved) == pytest.approx(call(name, arrays), rel=1e-10)


def test_scale_and_rotation():
    h1, h2 = draw(LOSSES["similarity-cka"], (6, 5))
    by_row = np.arange(1.0, 7.0)[:, None]
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    for kind, moved in {"cosine": h1 * by_row, "l2_norm": 7 * h1, "cka": 7 * h1 @ turn + 3}.items():
        name = f"similarity-{kind}"
        assert call(name, [moved, h2]) == pytest.approx(call(name, [h1, h2]), rel=1e-9)
    assert call("similarity-cka", [h1, 7 * h1 @ turn + 3]) == pytest.approx(0.0, abs=1e-12)


# --- Joint labels and orbits -------------------------------------------------------------------------


def test_joint_labels():
    assert F.joint_labels(torch.tensor([2, 0, 5]), 3).tolist() == [6, 7, 8, 0, 1, 2, 15, 16, 17]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_joint_labels_are_int64_whatever_the_labels_are(dtype):
    labels = F.joint_labels(torch.tensor([99], dtype=dtype), 4)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [396, 397, 398, 399]


@pytest.mark.parametrize(("rows", "classes", "m"), [(1, 2, 1), (1, 3, 4), (5, 2, 6), (3, 10, 24)])
def test_aggregate_reads_view_t_at_its_own_columns(rows, classes, m):
    joint = torch.full((rows * m, classes * m), float("nan"))  # what it must not read
    for i in range(rows):
        for t in range(m):
            for c in range(classes):
                joint[i * m + t, c * m + t] = 1000 * i + 10 * c + 2 * t
    expected = [[1000 * i + 10 * c + m - 1 for c in range(classes)] for i in range(rows)]
    assert F.aggregate(joint, m).tolist() == expected


@pytest.mark.parametrize("m", [1, 4, 6])
def test_aggregate(m):
    joint = np.random.default_rng(m).normal(size=(5 * m, 3 * m))
    np.testing.assert_allclose(F.aggregate(torch.tensor(joint), m).numpy(), ref.aggregate(joint, m), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", ref.ORBITS)
def test_orbit(name, dtype):
    images = np.random.default_rng(0).integers(0, 256, size=(2, 3, 5, 5)).astype(dtype)
    given = torch.tensor(images)
    views = F.orbit(given, name)
    expected = ref.orbit(images, name)
    assert views.dtype == given.dtype
    np.testing.assert_array_equal(views.numpy(), expected)
    np.testing.assert_array_equal(views[:, 0].numpy(), images)
    views.zero_()
    np.testing.assert_array_equal(given.numpy(), images)


def test_orbit_of_a_half_turn_takes_oblong_images():
    images = np.arange(2 * 3 * 4 * 7).reshape(2, 3, 4, 7)
    np.testing.assert_array_equal(F.orbit(torch.tensor(images), "rotation2").numpy(), ref.orbit(images, "rotation2"))


def test_orbit_turns_anticlockwise():
    image = torch.tensor([[1, 2], [3, 4]]).expand(1, 3, 2, 2)
    assert F.orbit(image, "rotation")[0, 1, 0].tolist() == [[2, 4], [1, 3]]


# --- Evaluation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("k", [1, 5, 60])
def test_knn(k, temperature, dtype):
    rng = np.random.default_rng(k)
    features, bank = rng.normal(size=(20, 8)).astype(dtype), 3 * rng.normal(size=(60, 8)).astype(dtype)
    labels = rng.integers(0, 7, size=60)
    votes = ref.knn_votes(features.astype(np.float64), bank.astype(np.float64), labels, 7, k, temperature)
    predicted = F.knn_predict(*tensors([features, bank, labels]), 7, k, temperature)
    assert predicted.dtype == torch.int64
    assert predicted.tolist() == votes.argmax(axis=1).tolist()


@pytest.mark.parametrize(("k", "temperature", "expected"), [(1, 1.0, 1), (3, 1.0, 0), (3, 0.01, 1), (4, 9.0, 0)])
def test_knn_weighs_votes_by_similarity(k, temperature, expected):
    """Class 1 is nearest (cosine 1), class 0 next twice (0.95); exp(1/0.01) is more than float32 holds."""
    bank = torch.tensor([[0.95, 0.3122499], [9.5, -3.122499], [2.0, 0.0], [-1.0, 0.0]])
    predicted = F.knn_predict(torch.tensor([[5.0, 0.0]]), bank, torch.tensor([0, 0, 1, 1]), 2, k, temperature)
    assert predicted.tolist() == [expected]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "classes", "bins"), [(1, 2, 10), (50, 3, 1), (50, 4, 10), (200, 10, 15)])
def test_expected_calibration_error(rows, classes, bins, dtype):
    rng = np.random.default_rng(rows + bins)
    probabilities = rng.dirichlet(np.full(classes, 0.5), size=rows).astype(dtype)
    labels = rng.integers(0, classes, size=rows)
    expected = ref.expected_calibration_error(probabilities.astype(np.float64), labels, bins)
    actual = F.expected_calibration_error(*tensors([probabilities, labels]), bins)
    assert actual.shape == ()
    assert actual.item() == pytest.approx(expected, rel=1e-5 if dtype == np.float32 else 1e-10)
    backwards = F.expected_calibration_error(*tensors([probabilities[::-1].copy(), labels[::-1].copy()]), bins)
    assert backwards.item() == pytest.approx(expected, rel=1e-5)


def test_expected_calibration_error_by_hand():
    """Bin (0, ½]: accuracy ½, confidence 0.45. Bin (½, 1]: accuracy 1, confidence 0.85. ½·0.05 + ½·0.15."""
    rows = [[0.4, 0.3, 0.3], [0.5, 0.25, 0.25], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1]]
    error = F.expected_calibration_error(torch.tensor(rows), torch.tensor([0, 1, 0, 1]), 2)
    assert error.item() == pytest.approx(0.1, abs=1e-6)
    sure = F.expected_calibration_error(torch.eye(3), torch.tensor([0, 1, 2]), 10)  # confidence 1 is in the last bin
    assert sure.item() == 0.0
    wrong = F.expected_calibration_error(torch.eye(3), torch.tensor([1, 2, 0]), 10)
    assert wrong.item() == 1.0


# --- Errors ------------------------------------------------------------------------------------------

X, SHORT, NARROW = torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(4, 2)
Y = torch.tensor([0, 1, 2, 0])
JOINT = torch.zeros(8, 6)  # 4 images, 3 classes, m = 2
SHAPE, RANGE = r"(?i)shape|size|rows|length|expected.*got", r"(?i)label.*(range|class|0|\d)|range"
ERRORS = {
    **{
        f"similarity {kind}, {other.shape[0]} x {other.shape[1]}": (
            lambda kind=kind, other=other: F.similarity(X, other, kind),
            SHAPE,
        )
        for kind in KINDS
        for other in (SHORT, NARROW, torch.zeros(1, 3))
    },
    "similarity, kind": (lambda: F.similarity(X, X, "cosin"), "cosin.*cosine"),
    "jensen_shannon, second": (lambda: F.jensen_shannon(X, SHORT), SHAPE),
    "jensen_shannon, third": (lambda: F.jensen_shannon(X, X, torch.zeros(1, 3)), SHAPE),
    "poly1, rows": (lambda: F.poly1_cross_entropy(X, Y[:3]), SHAPE),
    "poly1, high": (lambda: F.poly1_cross_entropy(X, Y + 1), RANGE),
    "poly1, low": (lambda: F.poly1_cross_entropy(X, Y - 1), RANGE),
    "poly1, torch's ignored label": (lambda: F.poly1_cross_entropy(X, torch.full((4,), -100)), RANGE),
    "agreement, rows": (lambda: F.agreement(X, torch.zeros(1, 3), "mse"), SHAPE),
    "agreement, columns": (lambda: F.agreement(X, NARROW, "kl"), SHAPE),
    "agreement, kind": (lambda: F.agreement(X, X, "kll"), "kll.*kl"),
    "agmax, second": (lambda: F.agmax(X, torch.zeros(1, 3), X), SHAPE),
    "agmax, joint": (lambda: F.agmax(X, X, torch.zeros(1, 3)), SHAPE),
    "agmax, over_classes": (lambda: F.agmax(X, X, X, over_classes="men"), "mean.*'men'|'men'.*mean"),
    "orbit, name": (lambda: F.orbit(torch.zeros(1, 3, 4, 4), "rotatoin"), "rotatoin.*rotation"),
    "orbit, oblong": (lambda: F.orbit(torch.zeros(1, 3, 4, 5), "rotation"), r"(?i)square|4.*5"),
    "orbit, channels": (lambda: F.orbit(torch.zeros(1, 1, 4, 4), "color_perm"), r"(?i)channel|RGB|3"),
    "joint, rows": (lambda: F.joint_cross_entropy(JOINT, Y[:3], 2), SHAPE),
    "joint, m and rows": (lambda: F.joint_cross_entropy(JOINT[:7], Y, 2), r"(?i)multiple|divi|rows|m ?="),
    "joint, m and columns": (
        lambda: F.joint_cross_entropy(JOINT[:, :5], Y, 2),
        r"(?i)multiple|divi|column|m ?=",
    ),
    "joint, high": (lambda: F.joint_cross_entropy(JOINT, Y + 1, 2), RANGE),
    "joint, low": (lambda: F.joint_cross_entropy(JOINT, Y - 1, 2), RANGE),
    "joint, torch's ignored label": (
        lambda: F.joint_cross_entropy(X, torch.tensor([0, 1, 2, -100]), 1),
        RANGE,
    ),
    "joint, reduction": (lambda: F.joint_cross_entropy(JOINT, Y, 2, "man"), "mean.*'man'|'man'.*mean"),
    "aggregate, rows": (lambda: F.aggregate(JOINT[:7], 2), r"(?i)multiple|divi|rows|m ?="),
    "aggregate, columns": (lambda: F.aggregate(JOINT[:, :5], 2), r"(?i)multiple|divi|column|m ?="),
    "distill, rows": (lambda: F.distill(X, torch.zeros(1, 3), 1.0), SHAPE),
    "distill, temperature": (lambda: F.distill(X, X, 0.0), "(?i)temperature"),
    "similarity cka, one row": (lambda: F.similarity(X[:1], X[:1], "cka"), "(?i)two|2|rows"),
    "similarity vicreg, one row": (lambda: F.similarity(X[:1], X[:1], "vicreg"), "(?i)two|2|rows"),
    "jensen_shannon, one view": (lambda: F.jensen_shannon(X), "(?i)two|2|views"),
    "knn, temperature": (lambda: F.knn_predict(X, X, Y, 3, 1, 0.0), "(?i)temperature"),
    "ece, bins": (lambda: F.expected_calibration_error(X, Y, 0), "(?i)bins"),
    "knn, k": (lambda: F.knn_predict(X, SHORT, Y[:2], 3, 3, 0.1), r"(?i)\bk\b"),
    "knn, no neighbour": (lambda: F.knn_predict(X, SHORT, Y[:2], 3, 0, 0.1), r"(?i)\bk\b"),
    "knn, width": (lambda: F.knn_predict(X, NARROW, Y, 3, 1, 0.1), r"(?i)shape|size|width|feature"),
    "knn, bank's labels": (
        lambda: F.knn_predict(X, X, Y[:3], 3, 1, 0.1),
        r"(?i)shape|size|rows|length|label",
    ),
    "knn, high": (lambda: F.knn_predict(X, X, Y + 1, 3, 1, 0.1), RANGE),
    "ece, rows": (lambda: F.expected_calibration_error(X, Y[:3], 10), SHAPE),
    "ece, high": (lambda: F.expected_calibration_error(X, Y + 1, 10), RANGE),
    "ece, low": (lambda: F.expected_calibration_error(X, Y - 1, 10), RANGE),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_problem(case):
    call, match = ERRORS[case]
    with pytest.raises(ValueError, match=match):
        call()
