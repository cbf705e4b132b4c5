"""Relation modules: each is the pure function of its readings; ports are checked before any image is read."""

import pytest
import torch
import torch.nn.functional as torch_functional
from torch import nn

from manyview import functional as F
from manyview.errors import ManyviewError, RecipeError
from manyview.recipe import parse_recipe
from manyview.relations import RELATIONS, Port, Reading
from manyview.relations.agmax import AgMax, Agreement, joint_width
from manyview.relations.cross_entropy import CrossEntropy
from manyview.relations.jensen_shannon import JensenShannon
from manyview.relations.joint import Distill, JointCrossEntropy, OrbitCrossEntropy
from manyview.relations.similarity import KINDS, Similarity
from manyview.step import Step

B, C, M = 6, 5, 4


def rows(count=B, columns=C, seed=0, scale=2.0):
    return scale * torch.randn(count, columns, generator=torch.Generator().manual_seed(seed))


def labels(count=B, classes=C):
    return torch.arange(count) % classes


def port(text="logits(a)", dim=C, **options):
    return Port(text, dim, **{"classes": C, **options})


def message(relation, *args, error=(RecipeError, ValueError), **kwargs):
    with pytest.raises(error) as caught:
        relation(*args, **kwargs)
    return str(caught.value)


# --------------------------------------------------------------------------------------------- modules are functions


@pytest.mark.parametrize("kind", KINDS)
def test_similarity(kind):
    a, b = rows(seed=1), rows(seed=2)
    module = Similarity(port("h(a)", 7), port("h(b)", 7), kind=kind)
    assert torch.equal(module(Reading(a), Reading(b)), F.similarity(a, b, kind))


@pytest.mark.parametrize("kind", ["mse", "kl", "ce"])
def test_agreement(kind):
    a, b = rows(seed=1), rows(seed=2)
    assert torch.equal(Agreement(port(), port(), kind=kind)(Reading(a), Reading(b)), F.agreement(a, b, kind))


@pytest.mark.parametrize("views", [2, 3])
def test_jensen_shannon(views):
    logits = [rows(seed=seed) for seed in range(views)]
    module = JensenShannon(*[port()] * views)
    assert torch.equal(module(*map(Reading, logits)), F.jensen_shannon(*logits))


@pytest.mark.parametrize("options", [{}, {"divergence_weight": 0.5}, {"over_classes": "sum"}])
def test_agmax_is_the_function_with_its_own_joint_network(options):
    a, b = rows(seed=1), rows(seed=2)
    module = AgMax(port(), port(), hidden=8, **options)
    first, last = module.joint[0], module.joint[2]
    hidden = (torch.cat([a, b], dim=1) @ first.weight.T + first.bias).clamp_min(0)
    entropy, divergence = F.agmax(a, b, hidden @ last.weight.T + last.bias, **options)
    found = module(Reading(a), Reading(b))
    assert list(found) == ["entropy", "divergence"]
    torch.testing.assert_close(found["entropy"], entropy)
    torch.testing.assert_close(found["divergence"], divergence)


@pytest.mark.parametrize("std", [0.2, 0.01])
def test_agmax_draws_its_weights_with_the_told_spread(std):
    torch.manual_seed(0)
    module = AgMax(port(dim=50), port(dim=50), hidden=400, **({} if std == 0.2 else {"std": std}))
    assert [tuple(layer.weight.shape) for layer in (module.joint[0], module.joint[2])] == [(400, 100), (50, 400)]
    for layer in (module.joint[0], module.joint[2]):
        # the spread of n normal numbers is within five standard errors, std / sqrt(2n), of std
        count = layer.weight.numel()
        assert abs(float(layer.weight.detach().std()) - std) < 5 * std / (2 * count) ** 0.5
        assert abs(float(layer.weight.detach().mean())) < 5 * std / count**0.5


@pytest.mark.parametrize(
    ("classes", "hidden"), [(2, 128), (10, 128), (99, 128), (100, 512), (999, 512), (1000, 4096), (21841, 4096)]
)
def test_hidden_units_follow_the_official_rule(classes, hidden):
    assert joint_width(classes) == hidden


@pytest.mark.parametrize(("classes", "hidden"), [(10, 128), (100, 512)])
def test_agmax_uses_the_rule_by_default(classes, hidden):
    assert AgMax(port(dim=classes), port(dim=classes)).joint[0].out_features == hidden
    assert AgMax(port(dim=classes), port(dim=classes), hidden=3).joint[0].out_features == 3


def test_cross_entropy_is_the_mean_over_the_rows_of_all_views():
    a, b, y = rows(seed=1), rows(seed=2), labels()
    module = CrossEntropy(port(), port("logits(b)"))
    by_hand = -torch.cat([a, b]).log_softmax(1)[torch.arange(2 * B), torch.cat([y, y])].mean()
    torch.testing.assert_close(module(Reading(a, y), Reading(b, y)), by_hand)


def test_cross_entropy_uses_each_views_own_target():
    a, b, y = rows(seed=1), rows(seed=2), labels()
    other = y.flip(0)
    by_hand = -torch.cat([a, b]).log_softmax(1)[torch.arange(2 * B), torch.cat([y, other])].mean()
    torch.testing.assert_close(CrossEntropy(port(), port())(Reading(a, y), Reading(b, other)), by_hand)


def test_cross_entropy_weighs_rows_alike_when_views_have_unlike_numbers_of_rows():
    a, r, y = rows(seed=1), rows(B * M, seed=2), labels()
    family = y.repeat_interleave(M)
    picked = torch.cat([a, r]).log_softmax(1)[torch.arange(B + B * M), torch.cat([y, family])]
    module = CrossEntropy(port(), port("logits(r)", members=M))
    torch.testing.assert_close(module(Reading(a, y), Reading(r, family, members=M)), -picked.mean())


def test_label_smoothing_by_hand():
    a, y, s = rows(), labels(), 0.2
    target = torch.full((B, C), s / C)
    target[torch.arange(B), y] += 1 - s
    by_hand = -(target * a.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(CrossEntropy(port(), smoothing=s)(Reading(a, y)), by_hand)


def test_poly_is_the_function():
    a, y = rows(), labels()
    assert torch.equal(CrossEntropy(port(), poly=1.5)(Reading(a, y)), F.poly1_cross_entropy(a, y, 1.5))


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.1}, {"poly": 2.0}])
def test_labels_and_one_hot_targets_are_the_same(options):
    a, b, y = rows(seed=1), rows(seed=2), labels()
    module = CrossEntropy(port(), port(), **options)
    hard = module(Reading(a, y), Reading(b, y))
    soft = torch_functional.one_hot(y, C).float()
    torch.testing.assert_close(module(Reading(a, soft), Reading(b, soft)), hard)
    torch.testing.assert_close(module(Reading(a, y), Reading(b, soft)), hard)  # mixed: one view has labels


def test_soft_targets_by_hand():
    a, target = rows(), rows(seed=3).softmax(1)
    by_hand = -(target * a.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(CrossEntropy(port())(Reading(a, target)), by_hand)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_joint_cross_entropy(reduction):
    joint, y = rows(B * M, C * M), labels()
    module = JointCrossEntropy(port("joint(r)", C * M, members=M), reduction=reduction)
    found = module(Reading(joint, y.repeat_interleave(M), members=M))
    assert torch.equal(found, F.joint_cross_entropy(joint, y, M, reduction))


def test_orbit_cross_entropy_by_hand():
    turn = rows(B * M, M)
    log_p = turn.log_softmax(1).view(B, M, M)
    by_hand = -sum(log_p[i, t, t] for i in range(B) for t in range(M)) / (B * M)
    module = OrbitCrossEntropy(port("turn(r)", M, members=M))
    torch.testing.assert_close(module(Reading(turn, members=M)), by_hand)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distill(temperature):
    student, teacher = rows(seed=1).requires_grad_(), rows(seed=2).requires_grad_()
    module = Distill(port(), toward=port("aggregate(joint(r))"), temperature=temperature)
    found = module(Reading(student), toward=Reading(teacher))
    assert torch.equal(found, F.distill(student, teacher, temperature))
    found.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_only_agmax_has_parameters():
    ports = [port(), port()]
    for name, relation in RELATIONS.items():
        if name in ("joint_cross_entropy", "orbit_cross_entropy"):
            module = relation(port(dim=C if name == "joint_cross_entropy" else 1))
        elif name == "distill":
            module = relation(ports[0], toward=ports[1])
        else:
            module = relation(*ports)
        assert isinstance(module, nn.Module)
        assert bool(list(module.parameters())) == (name == "agmax")


# -------------------------------------------------------------------------------------------------------------- ports


UNLIKE_WIDTH = "h(a) has 5 columns and h(b) has 7; relate readouts of the same width"
UNLIKE_ROWS = "h(a) has 1 rows an image and h(r) has 4; relate views with the same number of members"


@pytest.mark.parametrize("relation", [Similarity, AgMax, Agreement, JensenShannon, Distill])
def test_compared_readouts_are_alike(relation):
    def build(a, b):
        return relation(a, toward=b) if relation is Distill else relation(a, b)

    assert message(build, port("h(a)"), port("h(b)", 7), error=RecipeError) == UNLIKE_WIDTH
    assert message(build, port("h(a)"), port("h(r)", members=4), error=RecipeError) == UNLIKE_ROWS


def test_jensen_shannon_checks_every_view():
    assert message(JensenShannon, port("h(a)"), port("h(c)"), port("h(b)", 7)) == UNLIKE_WIDTH
    wanted = "jensen_shannon compares two or more readouts, as in jensen_shannon(logits(a), logits(b))"
    assert message(JensenShannon, port()) == wanted


def test_classifying_relations_need_a_column_a_class():
    wanted = "h(a) has 7 columns where 5 are needed; change its head"
    assert message(CrossEntropy, port(), port("h(a)", 7)) == wanted
    wanted = "joint(r) has 5 columns where 20 are needed; change its head"
    assert message(JointCrossEntropy, port("joint(r)", C, members=M)) == wanted
    wanted = "turn(r) has 5 columns where 4 are needed; change its head"
    assert message(OrbitCrossEntropy, port("turn(r)", C, members=M)) == wanted


def test_labels_that_were_not_passed():
    wanted = "these views have no targets: pass labels to the step"
    assert message(CrossEntropy(port(), port()), Reading(rows(), labels()), Reading(rows())) == wanted
    joint = JointCrossEntropy(port("joint(r)", C * M, members=M))
    assert message(joint, Reading(rows(B * M, C * M), members=M)) == wanted


def test_joint_labels_are_not_mixed():
    joint = JointCrossEntropy(port("joint(r)", C * M, members=M))
    mixed = rows(B * M, C).softmax(1)
    wanted = "joint_cross_entropy needs one label a row; mixed targets have no joint label"
    assert message(joint, Reading(rows(B * M, C * M), mixed, members=M)) == wanted


@pytest.mark.parametrize(
    ("build", "wanted"),
    [
        (lambda: CrossEntropy(), "cross_entropy needs at least one readout, as in cross_entropy(logits(a))"),
        (lambda: CrossEntropy(port(), smoothing=1.0), "smoothing must be in [0, 1), got 1.0"),
        (lambda: CrossEntropy(port(), smoothing=-0.1), "smoothing must be in [0, 1), got -0.1"),
        (
            lambda: CrossEntropy(port(), smoothing=0.1, poly=1),
            "smoothing and poly are alternatives; give one of them",
        ),
        (lambda: AgMax(port(), port(), hidden=0), "hidden must be at least 1, got 0"),
        (lambda: AgMax(port(), port(), divergence_weight=-1), "divergence_weight must not be negative, got -1"),
        (lambda: AgMax(port(), port(), over_classes="max"), "over_classes must be 'mean' or 'sum', got 'max'"),
        (lambda: JointCrossEntropy(port(), reduction="max"), "reduction must be 'mean' or 'sum', got 'max'"),
        (lambda: Distill(port(), toward=port(), temperature=0), "temperature must be positive, got 0"),
        (
            lambda: Similarity(port(), port(), kind="mes"),
            "unknown kind of similarity 'mes'; did you mean 'mse'? kinds: "
            "cka, cosine, cosine_l2_norm, l2_norm, mae, mse, vicreg",
        ),
        (
            lambda: Agreement(port(), port(), kind="kll"),
            "unknown kind of agreement 'kll'; did you mean 'kl'? kinds: ce, kl, mse",
        ),
    ],
)
def test_wrong_options(build, wanted):
    assert message(build) == wanted


# --------------------------------------------------------------------------------------- the same, through a recipe


RECIPE = """
views:
  a: {{from: image, make: pad_crop(16)}}
  b: {{like: a}}
  r: {{from: a, orbit: rotation}}
  s: {{from: a, orbit: rotation2}}
branches:
  net: {{backbone: cresnet20, z: "linear(h, 32)", joint: "linear(h, orbit=r)", turn: "linear(h, 3)"}}
relations: ["{line}"]
train: {{epochs: 1}}
"""


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (
            "similarity(h(a), z(b))",
            "h(a) has 64 columns and z(b) has 32; relate readouts of the same width",
        ),
        (
            "similarity(h(a), h(r))",
            "h(a) has 1 rows an image and h(r) has 4; relate views with the same number of members",
        ),
        ("cross_entropy(h(a))", "h(a) has 64 columns where 10 are needed; change its head"),
        ("cross_entropy(joint(r))", "joint(r) has 40 columns where 10 are needed; change its head"),
        ("joint_cross_entropy(logits(r))", "logits(r) has 10 columns where 40 are needed; change its head"),
        ("orbit_cross_entropy(turn(r))", "turn(r) has 3 columns where 4 are needed; change its head"),
        ("joint_cross_entropy(joint(s))", "head 'joint' tells 4 members of 'r' apart, but 's' has 2"),
        (
            "distill(logits(a), toward=aggregate(joint(r.0)))",
            "aggregate needs joint logits of a family, a column a class and member; joint(r.0) has 40 columns for "
            "1 members",
        ),
        (
            "distill(logits(a), toward=stop(aggregate(turn(r))))",
            "aggregate needs joint logits of a family, a column a class and member; turn(r) has 3 columns for "
            "4 members",
        ),
        (
            "distill(logits(r), toward=stop(aggregate(joint(r))))",
            "logits(r) has 4 rows an image and stop(aggregate(joint(r))) has 1; relate views with the same number "
            "of members",
        ),
        ("similarity(h(a), h(b), kind='mes')", "unknown kind of similarity 'mes'; did you mean 'mse'? kinds: "
                                               "cka, cosine, cosine_l2_norm, l2_norm, mae, mse, vicreg"),
        ("agmax(logits(a), logits(b), hidden='x')", None),
        ("cross_entropy(logits(a), smoothing='x')", None),
        ("distill(logits(a), toward=logits(b), temperature='x')", None),
        ("agmax(logits(a), logits(b), hidden=1.5)", None),
        ("agmax(logits(a), logits(b), std='x')", None),
        ("agmax(logits(a), logits(b), divergence_weight='x')", None),
        ("cross_entropy(logits(a), poly='x')", None),
        ("agmax(logits(a), logits(b), std=-1)", None),
    ],
)  # fmt: skip
def test_a_step_that_does_not_fit_names_the_line(line, wanted):
    recipe = parse_recipe(RECIPE.format(line=line))
    with pytest.raises(ManyviewError) as caught:
        Step(recipe, 10)
    found = str(caught.value)
    assert found.startswith(f"relations.0: {line}: ")
    assert "\n" not in found
    if wanted is not None:
        assert found == f"relations.0: {line}: {wanted}"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("similarity(h(a))", "relations.0: similarity(h(a)): missing a required argument: 'b'; arguments: a, b, kind"),
        (
            "agmax(logits(a), logits(b), logits(a))",
            "relations.0: agmax(logits(a), logits(b), logits(a)): too many positional arguments; "
            "arguments: a, b, hidden, divergence_weight, over_classes, std",
        ),
        (
            "similarity(h(a), h(b), kinds='mse')",
            "relations.0: similarity: unknown argument 'kinds'; did you mean 'kind'? arguments: a, b, kind",
        ),
        ("similarity(h(a), h(b), kind=mse)", "relations.0: similarity: put quotes round kind='mse'"),
        ("similarity(h(a), q(b))", "relations.0: unknown readout 'q'; readouts: "
                                   "aggregate, h, joint, logits, mix, stop, turn, z"),
        ("similarity(h(a), h(q))", "relations.0: unknown view 'q'; views: a, b, r, s"),
        ("similarity(h(a), h(a.0))", "relations.0: 'a' is a single view and has no member 'a.0'"),
        ("similarity(h(a), h(r.4))", "relations.0: 'r' has members r.0 to r.3, not 'r.4'"),
        ("similarity(h(a), nett.h(b))", "relations.0: unknown branch 'nett'; did you mean 'net'? branches: net"),
        ("similarity(h(a), stop(h(b), h(a)))", "relations.0: stop takes one readout, got stop(h(b), h(a))"),
        ("similarity(h(a), h(a, b))", "relations.0: a readout takes one view, as in h(a), got h(a, b)"),
        ("similarity(h(a), 3)", "relations.0: expected a readout such as h(a), got 3"),
        ("similarity(h(a), b)", "relations.0: expected a readout such as h(a), got b"),
        ("simlarity(h(a), h(b))", "relations.0: unknown relation 'simlarity'; did you mean 'similarity'? relations: "
                                  "agmax, agreement, cross_entropy, distill, jensen_shannon, joint_cross_entropy, "
                                  "orbit_cross_entropy, similarity"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_meant(line, wanted):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(RECIPE.format(line=line))
    assert str(caught.value) == wanted
