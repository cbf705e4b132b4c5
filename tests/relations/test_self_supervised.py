"""The losses of learning without labels: against slow NumPy references, in closed form, by invariance and memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import references as ref
from cases import in_turn
from manyview import functional as F
from test_functional import finite_differences, tensors

SHAPES = [(1, 3), (2, 4), (5, 2), (32, 6)]
CODES = {"temperature": 0.1, "epsilon": 0.05, "iterations": 3}


class Loss(NamedTuple):
    """One loss as a function of real matrices, in torch and in NumPy."""

    torch: Callable
    numpy: Callable
    constant: tuple[int, ...] = ()  # inputs that get no gradient
    smallest: int = 1  # the fewest rows for which it is defined
    symmetric: bool = False  # under exchange of its inputs
    unit: str = ""  # what it normalises: each of its "rows" or "columns"
    inputs: int = 2
    size: float = 1.0  # of the inputs that are drawn for it


def raised(tensor):
    """At least in float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def axes(z):
    """Unit columns [D, D + 1], the same columns in any order of the dimensions."""
    width = z.shape[1]
    return torch.cat([torch.eye(width), torch.full((width, 1), width**-0.5)], dim=1).to(raised(z))


def centre(teacher):
    return raised(teacher).mean(dim=0)


def classes(rows):
    """Two classes, but the last row has one of its own."""
    return [i % 2 for i in range(len(rows) - 1)] + [7]


def contrastive(temperature, chunk):
    return Loss(
        lambda a, b: F.nt_xent(a, b, temperature, chunk),
        lambda a, b: ref.nt_xent(a, b, temperature),
        smallest=2,
        symmetric=True,
        unit="rows",
    )


def supervised(temperature):
    return Loss(
        lambda z: F.supervised_contrastive(z, torch.tensor(classes(z)), temperature),
        lambda z: ref.supervised_contrastive(z, classes(z), temperature),
        smallest=2,
        unit="rows",
        inputs=1,
    )


LOSSES = {
    "negative_cosine": Loss(F.negative_cosine, ref.negative_cosine, constant=(1,), unit="rows"),
    "nt_xent": contrastive(0.2, None),
    "nt_xent-chunk-1": contrastive(0.2, 1),
    "nt_xent-chunk-3": contrastive(0.5, 3),
    "nt_xent-chunk-all": contrastive(0.5, 1000),
    "info_nce": Loss(
        lambda q, k, queue: F.info_nce(q, k, queue, 0.2),
        lambda q, k, queue: ref.info_nce(q, k, queue, 0.2),
        constant=(1, 2),
        unit="rows",
        inputs=3,
    ),
    "supervised-0.1": supervised(0.1),
    "supervised-1": supervised(1.0),
    "swav": Loss(lambda a, b: F.swav(a, b, **CODES), lambda a, b: ref.swav(a, b, **CODES), symmetric=True, size=0.3),
    "vicreg": Loss(F.vicreg, lambda a, b: ref.vicreg(a, b, (25, 25, 1)), smallest=2, symmetric=True),
    "vicreg-weights": Loss(
        lambda a, b: F.vicreg(a, b, invariance=2, variance=3, covariance=5),
        lambda a, b: ref.vicreg(a, b, (2, 3, 5)),
        smallest=2,
        symmetric=True,
        size=0.3,
    ),
    "barlow_twins": Loss(
        F.barlow_twins, lambda a, b: ref.barlow_twins(a, b, 0.0051), smallest=2, symmetric=True, unit="columns"
    ),
    "barlow_twins-lambd": Loss(
        lambda a, b: F.barlow_twins(a, b, 0.5),
        lambda a, b: ref.barlow_twins(a, b, 0.5),
        smallest=2,
        symmetric=True,
        unit="columns",
    ),
    "pseudo_label": Loss(
        lambda s, w: F.pseudo_label(s, w, 0.5), lambda s, w: ref.pseudo_label(s, w, 0.5), constant=(1,)
    ),
    "pseudo_label-sharp": Loss(
        lambda s, w: F.pseudo_label(s, w, 0.95, temperature=0.3),
        lambda s, w: ref.pseudo_label(s, w, 0.95, 0.3),
        constant=(1,),
    ),
    "dino": Loss(
        lambda s, t: F.dino(s, t, centre(t)), lambda s, t: ref.dino(s, t, t.mean(axis=0)), constant=(1,), size=0.2
    ),
    "dino-warm": Loss(
        lambda s, t: F.dino(s, t, 2 * centre(t), 0.5, 0.25),
        lambda s, t: ref.dino(s, t, 2 * t.mean(axis=0), 0.5, 0.25),
        constant=(1,),
    ),
    "sigreg": Loss(
        lambda z: F.sigreg(z, axes(z)),
        lambda z: ref.sigreg(z, axes(torch.tensor(z)).numpy()),
        inputs=1,
    ),
    "sigreg-knots": Loss(
        lambda z: F.sigreg(z, axes(z), knots=5, reach=2.0),
        lambda z: ref.sigreg(z, axes(torch.tensor(z)).numpy(), 5, 2.0),
        inputs=1,
    ),
    "spread": Loss(lambda *z: F.spread(torch.stack(z)), lambda *z: ref.spread(np.stack(z)), symmetric=True),
}


def draw(name, shape, seed=0, dtype=np.float64):
    """The inputs of a loss, [B, D] each; the third has more rows (a queue)."""
    loss, rng = LOSSES[name], np.random.default_rng((seed, *shape))
    rows = [shape[0], shape[0], 2 * shape[0] + 1][: loss.inputs]
    return [loss.size * rng.normal(size=(n, shape[1])).astype(dtype) for n in rows]


def value(name, arrays):
    return LOSSES[name].torch(*tensors(arrays)).item()


# --- Values and gradients ------------------------------------------------------------------------------


@in_turn("dtype, rtol, atol", [(np.float32, 1e-5, 1e-6), (np.float64, 1e-10, 1e-12)])
@in_turn(
    "name, shape",
    [(name, shape) for name in LOSSES for shape in SHAPES if shape[0] >= LOSSES[name].smallest],
    by="name",
)
def test_value(name, shape, dtype, rtol, atol):
    arrays = draw(name, shape, dtype=dtype)
    expected = LOSSES[name].numpy(*(array.astype(np.float64) for array in arrays))
    actual = LOSSES[name].torch(*tensors(arrays))
    assert actual.shape == ()
    assert actual.dtype == tensors(arrays)[0].dtype
    assert actual.item() == pytest.approx(expected, rel=rtol, abs=atol)


@in_turn("shape", [(5, 3), (4, 6)])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_what_gets_none(name, shape):
    loss, arrays = LOSSES[name], draw(name, shape, seed=1)
    numpy = loss.numpy
    if name == "swav":  # the codes are constants
        codes = tuple(ref.sinkhorn(array, CODES["epsilon"], CODES["iterations"]) for array in arrays)
        numpy = lambda a, b: ref.swav(a, b, **CODES, codes=codes)  # noqa: E731
    inputs = tensors(arrays, requires_grad=True)
    loss.torch(*inputs).backward()
    for which, x in enumerate(inputs):
        if which in loss.constant:
            assert x.grad is None
        else:
            expected = finite_differences(numpy, arrays, which)
            assert np.abs(expected).max() > 1e-3
            np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_pseudo_label_takes_rows_at_or_over_the_threshold():
    weak = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, 2.0]])  # sure to 1/2, 3/4, 0.88
    strong = torch.zeros(3, 2, requires_grad=True)
    for threshold, sure in ((0.5, 3), (0.75, 2), (0.8, 1), (0.9, 0), (1.0, 0)):
        loss = F.pseudo_label(strong, weak, threshold)
        assert loss.item() == pytest.approx(sure * math.log(2) / 3)
        (gradient,) = torch.autograd.grad(loss, strong)
        assert (gradient.abs().sum(dim=1) > 0).sum() == sure


def test_thresholds_and_weights_of_later_papers():
    rng = np.random.default_rng(0)
    learned, local, confidence = rng.random(7), rng.random(7), rng.random(9)
    torch.testing.assert_close(
        F.flex_thresholds(torch.tensor(learned), 0.9), torch.tensor(ref.flex_thresholds(learned, 0.9))
    )
    torch.testing.assert_close(
        F.free_thresholds(torch.tensor(0.8, dtype=torch.float64), torch.tensor(local)),
        torch.tensor(ref.free_thresholds(0.8, local)),
    )
    mean, variance = (torch.tensor(value, dtype=torch.float64) for value in (0.6, 0.04))
    torch.testing.assert_close(
        F.soft_weights(torch.tensor(confidence), mean, variance, 3.0),
        torch.tensor(ref.soft_weights(confidence, 0.6, 0.04, 3.0)),
    )
    # a class learned wholly has FixMatch's threshold, the most expected one the overall, a sure row its whole weight
    assert F.flex_thresholds(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0, 0.95])
    assert F.free_thresholds(torch.tensor(0.7), torch.tensor([0.1, 0.4])).tolist() == pytest.approx([0.175, 0.7])
    assert F.soft_weights(torch.tensor([0.9, 0.4]), mean, variance).tolist() == pytest.approx([1, math.exp(-2)])


def test_supervised_contrastive_of_images_is_nt_xent():
    z1, z2 = tensors(draw("nt_xent", (6, 4)))
    expected = F.nt_xent(z1, z2, 0.3).item()
    actual = F.supervised_contrastive(torch.cat([z1, z2]), torch.arange(6).repeat(2), 0.3).item()
    assert actual == pytest.approx(expected, rel=1e-12)


def test_supervised_contrastive_without_any_positive_is_zero():
    z = torch.randn(4, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    loss = F.supervised_contrastive(z, torch.arange(4), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert not z.grad.any()


# --- Sinkhorn --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 3), (6, 4), (32, 5)])
@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn(shape, iterations, dtype):
    scores = np.random.default_rng(shape).uniform(-1, 1, shape)
    actual = F.sinkhorn(torch.tensor(scores, dtype=dtype, requires_grad=True), 0.05, iterations)
    assert not actual.requires_grad
    assert actual.dtype == dtype
    rtol = 1e-5 if dtype == torch.float32 else 1e-10
    np.testing.assert_allclose(actual.numpy(), ref.sinkhorn(scores, 0.05, iterations), rtol=rtol, atol=1e-6 * rtol)
    torch.testing.assert_close(actual.sum(dim=1), torch.ones(shape[0], dtype=dtype), rtol=rtol, atol=0)


def test_many_iterations_share_the_rows_among_the_prototypes():
    scores = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        F.sinkhorn(scores, 0.5, 500).sum(dim=0), torch.full((4,), 3.0, dtype=torch.float64), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("size", [1e2, 1e4, 1e8])
def test_large_scores_and_a_prototype_far_from_all(size):
    scores = size * torch.rand(8, 5, generator=torch.Generator().manual_seed(0))
    scores[:, 2] -= 10 * size  # exp of it is 0 in any precision
    codes = F.sinkhorn(scores, 0.05, 3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(8), rtol=1e-5, atol=0)
    scores.requires_grad_()
    loss = F.swav(scores, scores.detach().roll(1, 0), **CODES)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("shift", [-1000.0, 3.0])
def test_a_constant_added_to_all_scores_changes_no_codes(shift):
    scores = torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(F.sinkhorn(scores + shift, 0.05, 3), F.sinkhorn(scores, 0.05, 3), rtol=1e-8, atol=1e-12)


# --- Invariances -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("supervised")])
def test_order_of_rows_and_columns_is_indifferent(name):
    arrays = draw(name, (6, 5))
    rows, columns = [4, 2, 0, 5, 1, 3], [3, 0, 4, 1, 2]
    moved = [array[rows + list(range(6, len(array)))[::-1]][:, columns] for array in arrays]
    assert value(name, moved) == pytest.approx(value(name, arrays), rel=1e-10)


def test_order_of_rows_and_names_of_classes_are_indifferent():
    (z,) = tensors(draw("supervised-0.1", (9, 5)))
    labels, rows = torch.tensor(classes(z)), torch.tensor([3, 0, 8, 6, 1, 2, 7, 5, 4])
    expected = F.supervised_contrastive(z, labels, 0.1).item()
    assert F.supervised_contrastive(z[rows], labels[rows], 0.1).item() == pytest.approx(expected, rel=1e-10)
    assert F.supervised_contrastive(z, -1000 * labels, 0.1).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].inputs == 2])
def test_exchanging_the_views(name):
    arrays = draw(name, (6, 5))
    same = value(name, arrays[::-1]) == pytest.approx(value(name, arrays), rel=1e-10)
    # the value of the cosine is symmetric; its gradient is not
    assert same == (LOSSES[name].symmetric or name == "negative_cosine")


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].unit])
def test_scale_of_what_is_normalised_is_indifferent(name):
    arrays = draw(name, (6, 5))
    scaled = [
        array * (0.3 + np.arange(len(array))[:, None])
        if LOSSES[name].unit == "rows"
        else array * (0.3 + np.arange(5)) + 7
        for array in arrays
    ]
    assert value(name, scaled) == pytest.approx(value(name, arrays), rel=1e-10)


# --- Collapse and other closed forms ---------------------------------------------------------------------


ONE = torch.ones(6, 4)
EYE = torch.eye(8)
# the integral of (1 - exp(-t^2/2))^2 exp(-t^2/2)
COLLAPSED = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + math.sqrt(1 / 3))
CLOSED = {
    "cosine, collapsed": (lambda: F.negative_cosine(ONE, 3 * ONE), -1.0),
    "cosine, opposite": (lambda: F.negative_cosine(ONE, -ONE), 1.0),
    "nt_xent, collapsed": (lambda: F.nt_xent(ONE, ONE, 0.2), math.log(11)),
    "nt_xent, collapsed, chunks": (lambda: F.nt_xent(ONE, ONE, 0.2, chunk=5), math.log(11)),
    "nt_xent, orthogonal images": (lambda: F.nt_xent(EYE, EYE, 0.5), math.log(1 + 14 * math.exp(-2))),
    "info_nce, collapsed": (lambda: F.info_nce(ONE, ONE, ONE, 0.07), math.log(7)),
    "info_nce, orthogonal images": (lambda: F.info_nce(EYE[:2], EYE[:2], EYE[2:], 0.5), math.log(1 + 6 * math.exp(-2))),
    "supervised, collapsed": (
        lambda: F.supervised_contrastive(ONE, torch.tensor([0, 0, 0, 1, 1, 1]), 0.1),
        math.log(5),
    ),
    "supervised, two far classes": (
        lambda: F.supervised_contrastive(EYE[[0, 0, 0, 1, 1, 1]], torch.tensor([0, 0, 0, 1, 1, 1]), 0.5),
        math.log(2 + 3 * math.exp(-2)),
    ),
    "swav, collapsed": (lambda: F.swav(ONE, ONE, 0.1, 0.05, 3), 2 * math.log(4)),
    "swav, one cluster each": (lambda: F.swav(EYE, EYE, 0.5, 0.01, 3), 2 * math.log(1 + 7 * math.exp(-2))),
    "vicreg, collapsed": (lambda: F.vicreg(ONE, ONE), 25 * 0.99),
    "vicreg, apart": (lambda: F.vicreg(ONE, -ONE), 25 * 4 + 25 * 0.99),
    "barlow, collapsed": (lambda: F.barlow_twins(ONE, ONE), 4.0),
    "barlow, equal dimensions": (
        lambda: F.barlow_twins(*[torch.arange(6.0)[:, None].expand(6, 4)] * 2, lambd=0.5),
        0.5 * 12,
    ),
    "pseudo_label, nothing learnt": (lambda: F.pseudo_label(ONE, ONE, 0.25), math.log(4)),
    "pseudo_label, nobody sure": (lambda: F.pseudo_label(ONE, ONE, 0.95), 0.0),
    "dino, collapsed to a point": (lambda: F.dino(ONE, ONE, ONE[0]), math.log(4)),
    "dino, a centred teacher that is sure": (
        lambda: F.dino(0.05 * EYE, EYE, torch.full((8,), 0.125)),
        math.log(7 + math.exp(0.5)) - 0.5,
    ),
    "spread, views agree": (lambda: F.spread(torch.stack([ONE, ONE])), 0.0),
    "spread, views apart": (lambda: F.spread(torch.stack([ONE, -ONE])), 1.0),
    # of zeros the difference is 1 - exp(-t^2/2) in every direction
    "sigreg, collapsed": (lambda: F.sigreg(0 * ONE, torch.eye(4), 1001, 6.0), 6 * COLLAPSED),
}


def test_a_sketch_of_a_normal_is_that_of_chance_alone():
    """Of N independent normal rows, N times the integral of the variance (1 - exp(-t^2)) / N over t."""
    z = torch.randn(2048, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = torch.eye(16, dtype=torch.float64)
    expected = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)  # of (1 - exp(-t^2)) exp(-t^2/2)
    assert F.sigreg(z, directions, 61, 6.0).item() == pytest.approx(expected, rel=0.3)
    assert F.sigreg(1.5 * z, directions, 61, 6.0).item() > 25 * expected
    assert F.sigreg(z + 0.5, directions, 61, 6.0).item() > 25 * expected


@pytest.mark.parametrize("case", CLOSED)
def test_closed_form(case):
    call, expected = CLOSED[case]
    assert call().item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@in_turn("constant", [0.0, 0.1, 100.0])
def test_gradient_is_finite_at_collapse(name, constant):
    """One view collapsed, to nothing or to a point; the others alive."""
    shapes = [array.shape for array in draw(name, (6, 5))]
    generator = torch.Generator().manual_seed(0)
    others = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes[1:]]
    collapsed = torch.full(shapes[0], constant, requires_grad=True)
    LOSSES[name].torch(collapsed, *others).backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in (collapsed, *others))


def test_a_dead_dimension_does_not_blow_up_barlow_twins():
    z1, z2 = torch.randn(2, 32, 4, generator=torch.Generator().manual_seed(0))
    z1[:, 1] = 12.3  # its mean is rounded, so that what remains after centring is noise
    z1.requires_grad_()
    F.barlow_twins(z1, z2).backward()
    living = F.barlow_twins(z1[:, [0, 2, 3]], z2[:, [0, 2, 3]], 0.0).item()
    assert F.barlow_twins(z1, z2, 0.0).item() == pytest.approx(living + 1, abs=0.1)
    assert z1.grad.abs().max() < 1e4


# --- Precision -------------------------------------------------------------------------------------------


@in_turn("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name, dtype):
    inputs = [x.to(dtype).requires_grad_() for x in tensors(draw(name, (8, 5)))]
    loss = LOSSES[name].torch(*inputs)
    assert loss.dtype == torch.float32
    assert loss.item() == LOSSES[name].torch(*(x.detach().float() for x in inputs)).item()
    loss.backward()
    assert inputs[0].grad.dtype == dtype


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(name):
    found = []
    for enabled in (False, True):
        inputs = tensors(draw(name, (8, 5), dtype=np.float32), requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = LOSSES[name].torch(*inputs)
        loss.backward()
        found.append((loss.item(), inputs[0].grad))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_half_precision_codes():
    scores = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes = F.sinkhorn(scores, 0.05, 3)
    assert codes.dtype == torch.float32
    assert torch.equal(codes, F.sinkhorn(scores.float(), 0.05, 3))


@pytest.mark.parametrize("name", LOSSES)
def test_it_compiles_to_one_graph(name):
    function, arrays = LOSSES[name].torch, draw(name, (6, 5))
    eager, compiled = tensors(arrays, requires_grad=True), tensors(arrays, requires_grad=True)
    function(*eager).backward()
    torch.compile(function, backend="aot_eager", fullgraph=True)(*compiled).backward()
    torch.testing.assert_close(compiled[0].grad, eager[0].grad, rtol=1e-9, atol=1e-12)


# --- Memory of NT-Xent -----------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The largest tensor made by any operation, in elements."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(out) if torch.is_tensor(x)]
        self.elements = max([self.elements, *made])
        return out


def memory(images, chunk, dim=4):
    """(largest tensor made, all that is kept for the backward pass) by value and gradients, in elements."""
    z1, z2 = (torch.randn(images, dim, requires_grad=True) for _ in range(2))
    kept = {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    with Largest() as largest:
        with saved_tensors_hooks(keep, lambda x: x):
            loss = F.nt_xent(z1, z2, 0.2, chunk)
        loss.backward()
    return largest.elements, sum(kept.values())


@pytest.mark.parametrize("images", [128, 256, 512])
@pytest.mark.parametrize("chunk", [16, 64])
def test_memory_grows_with_the_chunk_and_not_with_the_square(images, chunk):
    rows, dim = 2 * images, 4
    largest, kept = memory(images, chunk, dim)
    assert largest == chunk * rows
    assert kept <= 5 * rows * dim  # some matrices [2B, D]


def test_all_rows_at_once_hold_the_square():
    largest, kept = memory(64, None)
    assert largest == 128**2
    assert kept >= 128**2


# --- Bad input -------------------------------------------------------------------------------------------


Z = torch.ones(4, 3)
LABELS = torch.tensor([0, 1, 0, 1])
UNLIKE = "expected tensors of one shape [B, D], got (4, 3), (3, 3)"
POSITIVE = "temperature must be positive, got {}"
BAD = {
    "cosine, unlike": (lambda: F.negative_cosine(Z, Z[:3]), UNLIKE),
    "nt_xent, unlike": (lambda: F.nt_xent(Z, Z[:3], 0.2), UNLIKE),
    "nt_xent, vectors": (lambda: F.nt_xent(Z[0], Z[0], 0.2), "expected tensors of one shape [B, D], got (3,), (3,)"),
    "nt_xent, one image": (lambda: F.nt_xent(Z[:1], Z[:1], 0.2), "nt_xent contrasts at least two images, got 1"),
    "nt_xent, chunk": (lambda: F.nt_xent(Z, Z, 0.2, chunk=0), "chunk must be at least 1, got 0"),
    "info_nce, unlike": (lambda: F.info_nce(Z, Z[:3], Z, 0.2), UNLIKE),
    "info_nce, queue of other keys": (
        lambda: F.info_nce(Z, Z, Z.T, 0.2),
        "expected a queue [K, 3] of at least one key, got (3, 4)",
    ),
    "info_nce, empty queue": (
        lambda: F.info_nce(Z, Z, Z[:0], 0.2),
        "expected a queue [K, 3] of at least one key, got (0, 3)",
    ),
    "supervised, labels": (
        lambda: F.supervised_contrastive(Z, LABELS[:3], 0.1),
        "expected rows [N, D] with labels [N], got (4, 3) and (3,)",
    ),
    "supervised, one row": (
        lambda: F.supervised_contrastive(Z[:1], LABELS[:1], 0.1),
        "supervised_contrastive contrasts at least two rows, got 1",
    ),
    "sinkhorn, shape": (lambda: F.sinkhorn(Z[0], 0.05, 3), "expected scores [B, K], got (3,)"),
    "sinkhorn, epsilon": (lambda: F.sinkhorn(Z, 0.0, 3), "epsilon must be positive, got 0.0"),
    "sinkhorn, iterations": (lambda: F.sinkhorn(Z, 0.05, 0), "iterations must be at least 1, got 0"),
    "swav, unlike": (lambda: F.swav(Z, Z[:3], 0.1, 0.05, 3), UNLIKE),
    "swav, epsilon": (lambda: F.swav(Z, Z, 0.1, -1, 3), "epsilon must be positive, got -1"),
    "swav, iterations": (lambda: F.swav(Z, Z, 0.1, 0.05, 0), "iterations must be at least 1, got 0"),
    "vicreg, unlike": (lambda: F.vicreg(Z, Z[:3]), UNLIKE),
    "vicreg, one row": (
        lambda: F.vicreg(Z[:1], Z[:1]),
        "vicreg compares dimensions over at least two rows, got 1",
    ),
    "barlow, unlike": (lambda: F.barlow_twins(Z, Z[:3]), UNLIKE),
    "barlow, one row": (
        lambda: F.barlow_twins(Z[:1], Z[:1]),
        "barlow_twins compares dimensions over at least two rows, got 1",
    ),
    "barlow, lambd": (lambda: F.barlow_twins(Z, Z, -1.0), "lambd must not be negative, got -1.0"),
    "pseudo_label, unlike": (lambda: F.pseudo_label(Z, Z[:3], 0.95), UNLIKE),
    "dino, unlike": (lambda: F.dino(Z, Z[:3], Z[0]), UNLIKE),
    "dino, centre": (lambda: F.dino(Z, Z, Z), "expected a centre [3], got (4, 3)"),
    "sigreg, directions": (
        lambda: F.sigreg(Z, Z),
        "expected rows [B, D] and directions [D, M], got (4, 3) and (4, 3)",
    ),
    "sigreg, knots": (lambda: F.sigreg(Z, Z.T, knots=1), "knots must be at least 2, got 1"),
    "sigreg, reach": (lambda: F.sigreg(Z, Z.T, reach=0.0), "reach must be positive, got 0.0"),
    "spread, one view": (lambda: F.spread(Z), "expected embeddings [V, B, D], got (4, 3)"),
    "flex, shape": (lambda: F.flex_thresholds(Z), "expected how well each class is learned [C], got (4, 3)"),
    "flex, threshold": (lambda: F.flex_thresholds(Z[0], 0), "threshold must be in (0, 1], got 0"),
    "free, shape": (lambda: F.free_thresholds(Z[0], Z[0]), "expected a scalar and [C], got (3,) and (3,)"),
    "soft, shape": (
        lambda: F.soft_weights(Z, Z[0, 0], Z[0, 0]),
        "expected [B] and two scalars, got (4, 3), (), ()",
    ),
    "soft, sigmas": (lambda: F.soft_weights(Z[0], Z[0, 0], Z[0, 0], 0), "sigmas must be positive, got 0"),
    "pseudo_label, threshold": (lambda: F.pseudo_label(Z, Z, 95), "threshold must be in [0, 1], got 95"),
    **{
        f"{name}, temperature {t}": (lambda call=call, t=t: call(t), POSITIVE.format(t))
        for t in (0, -0.5, math.nan)
        for name, call in {
            "nt_xent": lambda t: F.nt_xent(Z, Z, t),
            "info_nce": lambda t: F.info_nce(Z, Z, Z, t),
            "supervised": lambda t: F.supervised_contrastive(Z, LABELS, t),
            "swav": lambda t: F.swav(Z, Z, t, 0.05, 3),
            "pseudo_label": lambda t: F.pseudo_label(Z, Z, 0.95, t),
            "dino, student's": lambda t: F.dino(Z, Z, Z[0], t),
            "dino, teacher's": lambda t: F.dino(Z, Z, Z[0], 0.1, t),
        }.items()
    },
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case):
    call, message = BAD[case]
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
