"""Relation modules: each is the pure function of its readings; ports are checked before any image is read."""

import inspect
import warnings

import pytest
import torch
import torch.nn.functional as torch_functional
from torch import nn

from manyview import functional as F
from manyview.errors import ManyviewError, ManyviewWarning, RecipeError
from manyview.load import parse_recipe
from manyview.relations import RELATIONS, HasState, Port, Reading
from manyview.relations.agmax import AgMax, Agreement, joint_width
from manyview.relations.contrastive import InfoNce, NtXent, SupervisedContrastive
from manyview.relations.cosine import Cosine
from manyview.relations.cross_entropy import CrossEntropy
from manyview.relations.jensen_shannon import JensenShannon
from manyview.relations.joint import Distill, JointCrossEntropy, OrbitCrossEntropy
from manyview.relations.redundancy import BarlowTwins, VicReg
from manyview.relations.similarity import KINDS, Similarity
from manyview.relations.swav import SwAV
from manyview.step import Step
from manyview.views.ops.flip import Flip

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


def test_agmax_starts_as_torch_does_unless_told():
    """As the authors' WRN configurations; its branch's `init` is the step's to apply."""
    torch.manual_seed(0)
    module = AgMax(port(dim=50), port(dim=50), hidden=400)
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(100, 400), torch.nn.ReLU(), torch.nn.Linear(400, 50))
    assert all(torch.equal(one, two) for one, two in zip(module.joint.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("std", [0.2, 0.01])
def test_agmax_draws_its_weights_with_the_told_spread(std):
    torch.manual_seed(0)
    module = AgMax(port(dim=50), port(dim=50), hidden=400, std=std)
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


OWN = {  # relation: what it holds, parameters and buffers
    "agmax": ["joint.0.bias", "joint.0.weight", "joint.2.bias", "joint.2.weight"],
    "info_nce": ["oldest", "queue"],
    "swav": ["prototypes", "start", "updates"],
}
BUILD = {  # relations that take more than two readouts, or others
    "augself": lambda relation: relation(
        port("h(a)", ops={"flip": Flip()}), port("h(b)", ops={"flip": Flip()}), flip=1.0
    ),
    "cosine": lambda relation: relation(port(), toward=port("stop(z(b))", constant=True)),
    "distill": lambda relation: relation(port(), toward=port()),
    "info_nce": lambda relation: relation(port(), toward=port("teacher.z(b)"), queue=7),
    "joint_cross_entropy": lambda relation: relation(port()),
    "orbit_cross_entropy": lambda relation: relation(port(dim=1)),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_what_a_relation_owns(name):
    module = BUILD.get(name, lambda relation: relation(port(), port("logits(b)")))(RELATIONS[name])
    assert isinstance(module, nn.Module)
    if name == "augself":
        assert all(key.startswith("predictors.flip.") for key in module.state_dict())
    else:
        assert sorted(module.state_dict()) == OWN.get(name, [])
    assert bool(list(module.parameters())) == (name in ("agmax", "augself", "swav"))
    assert isinstance(module, HasState) == (name in ("info_nce", "swav"))


# ------------------------------------------------------------------------------------------- learning without labels


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def constant(text="stop(z(b))", dim=C, **options):
    return port(text, dim, constant=True, **options)


# relation: its module, and what it should give for the values of two views
LEARNING = {
    "cosine": (lambda: Cosine(port(), toward=constant()), F.negative_cosine),
    "nt_xent": (lambda: NtXent(port(), port(), temperature=0.2), lambda a, b: F.nt_xent(a, b, 0.2)),
    "nt_xent-chunk": (lambda: NtXent(port(), port(), chunk=4), lambda a, b: F.nt_xent(a, b, NT_XENT_T, chunk=4)),
    "vicreg": (lambda: VicReg(port(), port()), F.vicreg),
    "vicreg-weights": (
        lambda: VicReg(port(), port(), invariance=1, variance=0, covariance=2.5),
        lambda a, b: F.vicreg(a, b, 1, 0, 2.5),
    ),
    "barlow_twins": (lambda: BarlowTwins(port(), port()), F.barlow_twins),
    "barlow_twins-lambd": (lambda: BarlowTwins(port(), port(), lambd=0.1), lambda a, b: F.barlow_twins(a, b, 0.1)),
}
NT_XENT_T = inspect.signature(NtXent).parameters["temperature"].default


def call(module, a, b, **options):
    if "toward" in inspect.signature(module.forward).parameters:
        return module(Reading(a, **options), toward=Reading(b, **options))
    return module(Reading(a, **options), Reading(b, **options))


@pytest.mark.parametrize("case", LEARNING)
def test_learning_without_labels_is_the_function(case):
    build, function = LEARNING[case]
    a, b = rows(seed=1), rows(seed=2)
    assert torch.equal(call(build(), a, b), function(a, b))


def test_cosine_leaves_out_no_gradient_that_the_recipe_leaves_in():
    p, z = rows(seed=1).requires_grad_(), rows(seed=2).requires_grad_()
    call(Cosine(port(), toward=constant()), p, z).backward()
    assert p.grad.abs().sum() > 0
    assert z.grad.abs().sum() > 0  # what is stopped, and it is, arrives without a graph


def test_info_nce_is_the_function_with_its_own_queue():
    torch.manual_seed(0)
    q, k = rows(seed=1).requires_grad_(), rows(seed=2).requires_grad_()
    module = InfoNce(port(), toward=constant(), queue=7, temperature=0.3)
    found = call(module, q, k)
    assert torch.equal(found, F.info_nce(q, k, module.queue, 0.3))
    found.backward()
    assert k.grad is None
    assert q.grad.abs().sum() > 0


@pytest.mark.parametrize("members", [1, 3])
def test_supervised_contrastive_is_the_function(members):
    a, b = rows(seed=1), rows(B * members, seed=2)
    y = torch.tensor([0, 1, 1, 2, 0, 4])
    module = SupervisedContrastive(port("z(a)"), port("z(b)", members=members), temperature=0.3)
    found = module(Reading(a, y), Reading(b, y.repeat_interleave(members), members=members))
    both = torch.cat([y, y.repeat_interleave(members)])
    assert torch.equal(found, F.supervised_contrastive(torch.cat([a, b]), both, 0.3))


def swav_by_hand(module, *values):
    scores = [unit(value) @ module.prototypes.detach().T for value in values]
    return F.swav(*scores[:2], module.temperature, module.epsilon, module.iterations, *scores[2:])


@pytest.mark.parametrize("members", [0, 1, 3])
def test_swav_is_the_function_of_unit_rows_and_prototypes(members):
    torch.manual_seed(0)
    a, b, small = rows(seed=1), rows(seed=2), rows(B * max(members, 1), seed=3)
    options = {"prototypes": 4, "temperature": 0.2, "epsilon": 0.1, "iterations": 2}
    if not members:
        module = SwAV(port(), port(), **options)
        found, others = module(Reading(a), Reading(b)), []
    else:
        module = SwAV(port(), port(), others=port("z(small)", members=members), **options)
        found = module(Reading(a), Reading(b), others=Reading(small, members=members))
        others = [small[t::members] for t in range(members)]  # row i m + t is crop t of image i
    torch.testing.assert_close(found, swav_by_hand(module, a, b, *others))
    found.backward()
    assert module.prototypes.grad.abs().sum() > 0


def test_small_crops_count_as_one_view_each_in_the_mean():
    """A loss with a crop that is b itself: a code is predicted from two views, of which one is the usual one."""
    torch.manual_seed(0)
    a, b = rows(seed=1), rows(seed=2)
    module = SwAV(port(), port(), others=port("z(small)"), prototypes=4)
    scores = [unit(value) @ module.prototypes.detach().T for value in (a, b)]
    codes = [F.sinkhorn(score, 0.05, 3) for score in scores]
    log_p = [(score / 0.1).log_softmax(1) for score in scores]
    told = [-(codes[i] * log_p[j]).sum(1).mean() for i, j in ((1, 0), (1, 1), (0, 1), (0, 1))]
    found = module(Reading(a), Reading(b), others=Reading(b))
    torch.testing.assert_close(found, (told[0] + told[1]) / 2 + (told[2] + told[3]) / 2)


@pytest.mark.parametrize("freeze", [0, 1, 3])
def test_prototypes_have_unit_length_and_stay_while_frozen(freeze):
    torch.manual_seed(0)
    module = SwAV(port(), port(), prototypes=4, freeze=freeze)
    start = module.prototypes.detach().clone()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    for number in range(5):
        optimizer.zero_grad()
        module(Reading(rows(seed=number)), Reading(rows(seed=number + 9))).backward()
        optimizer.step()
        module.after_step()
        assert torch.equal(module.prototypes, start) == (number < freeze)
        torch.testing.assert_close(module.prototypes.norm(dim=1), torch.ones(4))


def test_a_resumed_run_thaws_when_the_other_does():
    torch.manual_seed(0)
    first, second = (SwAV(port(), port(), prototypes=4, freeze=3) for _ in range(2))
    for _ in range(2):
        first.after_step()
    second.load_state_dict(first.state_dict())
    for number in (3, 4):
        with torch.no_grad():
            second.prototypes += 1
        second.after_step()
        assert torch.equal(second.prototypes, second.start) == (number == 3)
    assert torch.equal(second.start, first.prototypes)


@pytest.mark.parametrize("case", [*LEARNING, "info_nce", "swav", "supervised_contrastive"])
def test_half_precision_is_computed_in_float32(case):
    """Also under autocast, which would take the matrix products back to bfloat16."""
    torch.manual_seed(0)
    if case == "supervised_contrastive":
        relation = SupervisedContrastive(port(), port())

        def value(a, b):
            return relation(Reading(a, labels(B, 2)), Reading(b, labels(B, 2)))
    else:
        module = {
            "info_nce": lambda: InfoNce(port(), toward=constant(), queue=7),
            "swav": lambda: SwAV(port(), port(), prototypes=4),
            **{name: build for name, (build, _) in LEARNING.items()},
        }[case]()

        def value(a, b):
            return call(module, a, b)

    a, b = (rows(seed=seed).bfloat16() for seed in (1, 2))
    wanted = value(a.float(), b.float())
    with torch.autocast("cpu", torch.bfloat16):
        under = value(a, b)
    for found in (value(a, b), under):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)


def caught_warnings(build):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build()
    assert all(issubclass(warning.category, ManyviewWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


def test_a_gradient_through_the_target_is_warned_of():
    (found,) = caught_warnings(lambda: Cosine(port("p(a)"), toward=port("z(b)")))
    assert "write toward=stop(z(b)), or read an EMA branch" in found
    assert "\n" not in found
    assert caught_warnings(lambda: Cosine(port("p(a)"), toward=constant())) == []


def test_more_prototypes_than_images_are_warned_of():
    for count, warned in ((B, False), (B + 1, True)):
        module = SwAV(port(), port(), prototypes=count)
        found = caught_warnings(lambda module=module: module(Reading(rows(seed=1)), Reading(rows(seed=2))))
        assert bool(found) == warned
        assert all(text.startswith(f"swav: {B} images a step for {B + 1} prototypes; ") for text in found)


# -------------------------------------------------------------------------------------------------------------- ports


UNLIKE_WIDTH = "h(a) has 5 columns and h(b) has 7; relate readouts of the same width"
UNLIKE_ROWS = "h(a) has 1 row an image and h(r) has 4; relate views with the same number of members"


@pytest.mark.parametrize(
    "relation",
    [Similarity, AgMax, Agreement, JensenShannon, Distill, Cosine, NtXent, InfoNce, SwAV, VicReg, BarlowTwins],
)
def test_compared_readouts_are_alike(relation):
    def build(a, b):
        return relation(a, toward=b) if relation in (Distill, Cosine, InfoNce) else relation(a, b)

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


def test_contrasted_readouts_are_alike_but_in_supervised_contrastive_for_their_rows():
    assert message(SupervisedContrastive, port("h(a)"), port("h(b)", 7)) == UNLIKE_WIDTH
    SupervisedContrastive(port("h(a)"), port("h(r)", members=4))
    wanted = "supervised_contrastive reads at least one view, as in supervised_contrastive(z(a), z(b))"
    assert message(SupervisedContrastive) == wanted


@pytest.mark.parametrize("relation", [NtXent, InfoNce, SwAV])
def test_images_are_contrasted_with_images(relation):
    family = port("z(r)", members=4)
    wanted = "z(r) has 4 rows an image; name one member, as in r.0"
    options = {"toward": family} if relation is InfoNce else {}
    assert message(relation, family, *([] if options else [family]), **options) == wanted


def test_small_crops_have_the_width_of_the_others():
    wanted = "z(small) has 7 columns and z(a) has 5; read the same head of both"
    assert message(SwAV, port("z(a)"), port("z(b)"), others=port("z(small)", 7)) == wanted


def test_supervised_contrastive_needs_labels():
    module = SupervisedContrastive(port(), port())
    wanted = "supervised_contrastive needs one label a row; pass labels, and mix none of its views"
    assert message(module, Reading(rows(), labels()), Reading(rows())) == wanted
    assert message(module, Reading(rows(), labels()), Reading(rows(), rows().softmax(1))) == wanted
    wrong = labels().clone()
    wrong[2] = C
    assert message(module, Reading(rows(), labels()), Reading(rows(), wrong)) == f"label {C} is outside [0, {C})"


@pytest.mark.parametrize(
    ("build", "wanted"),
    [
        (lambda: NtXent(port(), port(), temperature=0), "temperature must be positive, got 0"),
        (lambda: NtXent(port(), port(), temperature=-1.0), "temperature must be positive, got -1.0"),
        (lambda: NtXent(port(), port(), chunk=0), "chunk must be a whole number of at least 1, got 0"),
        (lambda: NtXent(port(), port(), chunk=2.5), "chunk must be a whole number of at least 1, got 2.5"),
        (lambda: InfoNce(port(), toward=port(), queue=0), "queue must be a whole number of at least 1, got 0"),
        (lambda: InfoNce(port(), toward=port(), queue="x"), "queue must be a whole number of at least 1, got 'x'"),
        (lambda: InfoNce(port(), toward=port(), temperature=0), "temperature must be positive, got 0"),
        (lambda: SupervisedContrastive(port(), temperature=0), "temperature must be positive, got 0"),
        (lambda: SwAV(port(), port(), prototypes=0), "prototypes must be a whole number of at least 1, got 0"),
        (lambda: SwAV(port(), port(), temperature=0), "temperature must be positive, got 0"),
        (lambda: SwAV(port(), port(), epsilon=0), "epsilon must be a positive number, got 0"),
        (lambda: SwAV(port(), port(), iterations=0), "iterations must be a whole number of at least 1, got 0"),
        (lambda: SwAV(port(), port(), freeze=-1), "freeze must be a whole number of at least 0, got -1"),
        (
            lambda: SwAV(port(), port(), freeze="410 steps"),
            "freeze must be a whole number of at least 0, got '410 steps'",
        ),
        (lambda: VicReg(port(), port(), variance=-1), "variance must be a number of at least 0, got -1"),
        (lambda: VicReg(port(), port(), covariance="x"), "covariance must be a number of at least 0, got 'x'"),
        (lambda: BarlowTwins(port(), port(), lambd=-1), "lambd must be a number of at least 0, got -1"),
        (lambda: BarlowTwins(port(), port(), lambd=True), "lambd must be a number of at least 0, got True"),
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
            "unknown kind of agreement 'kll'; did you mean 'kl'? kinds: ce, kl, mse, probabilities",
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
            "h(a) has 1 row an image and h(r) has 4; relate views with the same number of members",
        ),
        ("cross_entropy(h(a))", "h(a) has 64 columns where 10 are needed; change its head"),
        ("cross_entropy(joint(r))", "joint(r) has 40 columns where 10 are needed; change its head"),
        ("joint_cross_entropy(logits(r))", "logits(r) has 10 columns where 40 are needed; change its head"),
        ("orbit_cross_entropy(turn(r))", "turn(r) has 3 columns where 4 are needed; change its head"),
        ("joint_cross_entropy(joint(s))", "head 'joint' tells 4 members of 'r' apart, but 's' has 2"),
        (
            "distill(logits(a), toward=aggregate(joint(r.0)))",
            "aggregate needs joint logits of a family, a column a class and member; joint(r.0) has 40 columns for "
            "1 member",
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
        ("cosine(h(a), toward=stop(z(b)))",
         "h(a) has 64 columns and stop(z(b)) has 32; relate readouts of the same width"),
        ("nt_xent(z(r), z(r))", "z(r) has 4 rows an image; name one member, as in r.0"),
        ("nt_xent(z(a), z(b), temperature='x')", None),
        ("info_nce(z(a), toward=stop(z(b)), temperature='x')", None),
        ("swav(z(a), z(b), epsilon='x')", "epsilon must be a positive number, got 'x'"),
        ("swav(z(a), z(b), others=h(r))", "h(r) has 64 columns and z(a) has 32; read the same head of both"),
        ("vicreg(z(a), h(b))", "z(a) has 32 columns and h(b) has 64; relate readouts of the same width"),
        ("barlow_twins(z(a), z(b), lambd='x')", "lambd must be a number of at least 0, got 'x'"),
    ],
)  # fmt: skip
def test_a_step_that_does_not_fit_names_the_line(line, wanted):
    with pytest.raises(ManyviewError) as caught:
        Step(parse_recipe(RECIPE.format(line=line)), 10)
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
        ("cosine(z(a), z(b))", "relations.0: cosine(z(a), z(b)): too many positional arguments; arguments: p, toward"),
        ("cosine(z(a), toward=3)", "relations.0: cosine: toward is a readout such as h(a), got 3"),
        ("swav(z(a), z(b), others=None)", "relations.0: swav: others is a readout such as h(a), got None"),
        ("swav(z(a), z(b), prototypes=z(b))", "relations.0: swav: prototypes is a plain value, got z(b)"),
        ("similarity(h(a), 3)", "relations.0: expected a readout such as h(a), got 3"),
        ("similarity(h(a), b)", "relations.0: expected a readout such as h(a), got b"),
        ("simlarity(h(a), h(b))", "relations.0: unknown relation 'simlarity'; did you mean 'similarity'? relations: "
                                  "similarity, distill, swav, … "
                                  f"(docs/reference.md has all {len(RELATIONS)})"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_meant(line, wanted):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(RECIPE.format(line=line))
    assert str(caught.value) == wanted
