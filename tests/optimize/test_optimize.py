"""Optimisers and schedules: the lr of every step against formulas by hand; durations; groups and their rules; LARS
against NumPy; synchronised BatchNorm; errors."""

import copy
import math
import sys

import numpy as np
import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from manyview.errors import RecipeError
from manyview.load import load_recipe, parse_recipe
from manyview.optimize.optimize import (
    Clock,
    check_training,
    clock_of,
    make_optimizer,
    make_schedule,
    steps_of,
)
from manyview.optimize.sync_batchnorm import sync_batchnorm
from manyview.recipe.settings import Train
from manyview.step import Step

CLOCK = Clock(steps=60, steps_per_epoch=6)  # ten epochs
LR = 0.4


def rates(schedule, clock=CLOCK, lr=LR, order=None):
    """The lr of every step of the run, in two groups; order: how the steps are visited."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))]}]
    optimizer = torch.optim.SGD(groups, lr=lr)
    set_lr = make_schedule(Train(steps=clock.steps, schedule=schedule), optimizer, clock)
    found = {}
    for step in order or range(clock.steps):
        found[step] = set_lr(step)
        assert [group["lr"] for group in optimizer.param_groups] == [found[step]] * 2
    return [found[step] for step in sorted(found)]


def warm(step, steps):
    """From lr/steps at step 0, on a straight line, to lr at `steps`."""
    return LR / steps + (LR - LR / steps) * step / steps


def half_cosine(step, start=0, floor=0.0, steps=60):
    return floor + (LR - floor) * (1 + math.cos(math.pi * (step - start) / (steps - start))) / 2


@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_cosine(floor):
    assert rates(f"cosine(floor={floor})") == pytest.approx([half_cosine(n, floor=floor) for n in range(60)])


@pytest.mark.parametrize("warmup", ["'12 steps'", "'2 epochs'", "0.2"])
def test_cosine_after_a_warm_up(warmup):
    expected = [warm(n, 12) if n < 12 else half_cosine(n, 12) for n in range(60)]
    assert expected[0] > 0
    assert rates(f"cosine(warmup={warmup})") == pytest.approx(expected)


def test_cosine_by_epoch_is_constant_within_an_epoch():
    assert rates("cosine(per='epoch')") == pytest.approx([half_cosine(n // 6 * 6) for n in range(60)])


@pytest.mark.parametrize(("warmup", "epochs"), [("'2 epochs'", 2), ("0.4", 4), ("'1 epochs'", 1), ("'7 steps'", 2)])
def test_cosine_by_epoch_warms_up_by_epoch(warmup, epochs):
    """Each epoch has one rate, the first its share: 1/2 and 1, not 1/12 and 7/12."""
    expected = [
        LR * (n // 6 + 1) / epochs if n < 6 * epochs else half_cosine(n // 6 * 6, 6 * epochs) for n in range(60)
    ]
    assert rates(f"cosine(warmup={warmup}, per='epoch')") == pytest.approx(expected)


@pytest.mark.parametrize("steps_per_epoch", [1, 390])
def test_the_first_of_ten_epochs_has_a_tenth_of_the_lr(steps_per_epoch):
    clock = Clock(800 * steps_per_epoch, steps_per_epoch)
    found = rates("cosine(warmup='10 epochs', per='epoch')", clock, order=range(11 * steps_per_epoch))
    assert found[0] == found[steps_per_epoch - 1] == pytest.approx(LR / 10)
    assert found[9 * steps_per_epoch] == found[10 * steps_per_epoch] == pytest.approx(LR)


def test_a_warm_up_may_start_elsewhere():
    """DSSL's script: np.linspace(0, lr, warm-up epochs)[epoch], then half a cosine."""
    expected = np.linspace(0, LR, 5).repeat(6).tolist() + [half_cosine(n // 6 * 6, 30) for n in range(30, 60)]
    assert rates("cosine(warmup='5 epochs', per='epoch', start=0)") == pytest.approx(expected)
    expected = np.linspace(LR / 4, LR, 10).tolist() + [half_cosine(n, 10) for n in range(10, 60)]
    assert rates("cosine(warmup='10 steps', start=0.25)") == pytest.approx(expected)
    with pytest.raises(RecipeError, match="start is where a warm-up begins; give warmup, too"):
        rates("cosine(start=0.25)")


@pytest.mark.parametrize("at", ["(0.5, 0.75)", "('30 steps', '45 steps')", "('5 epochs', '45 steps')", "(0.75, 0.5)"])
def test_multistep_multiplies_from_the_milestone_on(at):
    # step 30 is the 31st update: half of the 60 updates are made with the full lr
    assert rates(f"multistep(at={at})") == pytest.approx([LR] * 30 + [LR * 0.1] * 15 + [LR * 0.01] * 15)


def test_multistep_gamma_and_warm_up_counts_milestones_from_the_start_of_the_run():
    expected = [warm(n, 6) for n in range(6)] + [LR] * 24 + [LR * 0.2] * 30
    assert rates("multistep(at=(0.5,), gamma=0.2, warmup='1 epochs')") == pytest.approx(expected)


def test_step_multiplies_each_time():
    assert rates("step('2 epochs', gamma=0.5)") == pytest.approx([LR * 0.5 ** (n // 12) for n in range(60)])
    assert rates("step(0.25)") == pytest.approx([LR * 0.1 ** (n // 15) for n in range(60)])
    expected = [warm(n, 6) if n < 6 else LR * 0.1 ** (n // 30) for n in range(60)]
    assert rates("step('30 steps', warmup='6 steps')") == pytest.approx(expected)


def test_constant():
    assert rates("constant()") == [LR] * 60
    assert rates("constant(warmup=0.1)") == pytest.approx([warm(n, 6) for n in range(6)] + [LR] * 54)


@pytest.mark.parametrize(
    "schedule",
    ["cosine(warmup='2 epochs', per='epoch')", "multistep(at=(0.5, 0.75), warmup='3 steps')", "step('2 epochs')"],
)
def test_the_lr_is_a_function_of_the_step_alone(schedule):
    forwards = rates(schedule)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    assert rates(schedule, order=order) == forwards
    assert rates(schedule, order=[44]) == forwards[44:45]  # as after a restart


@pytest.mark.parametrize(
    ("duration", "steps"),
    [("10 epochs", 60), ("1 epoch", 6), ("500 steps", 500), ("1 step", 1), ("0.5 epochs", 3), (0.25, 15), (0, 0),
     ("0 steps", 0), (" 2  epochs ", 12)],
)  # fmt: skip
def test_durations(duration, steps):
    assert steps_of(duration, CLOCK) == steps


@pytest.mark.parametrize("text", ["10", "ten epochs", "10 minutes", "-1 epochs", "", "nan epochs", "inf steps"])
def test_wrong_durations(text):
    with pytest.raises(ValueError) as caught:
        steps_of(text, CLOCK, "warmup")
    assert str(caught.value) == f"warmup is written '10 epochs' or '500 steps', got {text!r}"


@pytest.mark.parametrize("number", [10, 1.0, -0.1, True, None, 1, float("nan")])
def test_bare_numbers_are_fractions(number):
    with pytest.raises(ValueError) as caught:
        steps_of(number, CLOCK, "warmup")
    expected = "warmup is '10 epochs', '500 steps', or a fraction of the run in (0, 1), got "
    assert str(caught.value) == expected + repr(number)


@pytest.mark.parametrize(
    ("options", "images", "clock"),
    [
        ({"epochs": 3, "batch_size": 10}, 100, Clock(30, 10)),
        ({"epochs": 3, "batch_size": 10}, 109, Clock(30, 10)),
        ({"steps": 7, "batch_size": 10}, 109, Clock(7, 10)),
        ({"epochs": 3, "batch_size": 10}, 4, Clock(3, 1)),
    ],
)
def test_the_clock(options, images, clock):
    assert clock_of(Train(**options), images) == clock


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def decays(optimizer, module):
    """Weight decay by parameter name; every trainable parameter stands in one group."""
    of = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(of)
    assert set(of) == {id(p) for p in module.parameters() if p.requires_grad}
    return {name: of[id(p)] for name, p in module.named_parameters() if p.requires_grad}


def test_all_parameters_decay_unless_told_otherwise():
    module = network()
    optimizer = make_optimizer(Train(epochs=1, optimizer="sgd(lr=0.1, weight_decay=5e-4)"), module)
    assert set(decays(optimizer, module).values()) == {5e-4}


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_norms_and_biases_do_not_decay_on_request(name):
    module = network()
    optimizer = make_optimizer(
        Train(epochs=1, optimizer=f"{name}(lr=0.1, weight_decay=0.05, decay_norms=False)"), module
    )
    found = decays(optimizer, module)
    assert {key for key, value in found.items() if value == 0.05} == {"0.weight", "3.weight"}
    assert {key for key, value in found.items() if value == 0} == {"0.bias", "1.weight", "1.bias", "3.bias"}


def test_sgd_has_the_arguments_the_recipe_gives():
    optimizer = make_optimizer(load_recipe("sla_cifar10").train, network())
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.1, 0.9, False, 1e-4)
    assert make_optimizer(load_recipe("tied_cifar10").train, network()).param_groups[0]["nesterov"] is True


def test_averaged_weights_are_not_optimised():
    recipe = load_recipe("quickstart", "train.ema=0.9")
    step = Step(recipe, 10)
    decays(make_optimizer(recipe.train, step), step)  # asserts: the trainable ones and no others
    assert not any(p.requires_grad for p in step.average.parameters())


TWO_BRANCHES = """
views:
  a: {from: image, make: "crop(8)"}
  b: {like: a}
branches:
  online: {backbone: cresnet20, z: "projector(h, 8)", p: "predictor(z, 4)"}
  second: {backbone: cresnet20, z: "projector(h, 8)", q: "linear(z, 8)"}
relations:
  - similarity(online.p(a), second.q(b))
  - agmax(online.logits(a), online.logits(b), hidden=4)
train: {steps: 60, batch_size: 4}
"""


@pytest.fixture(scope="module")
def two_branches():
    return Step(parse_recipe(TWO_BRANCHES), 3)


def train_with(arguments, name="sgd", schedule="cosine()"):
    return Train(steps=60, optimizer=f"{name}(lr={LR}, {arguments})", schedule=schedule)


def marks(optimizer, module, mark):
    """What a group says, by parameter name; each trainable parameter stands in one group."""
    decays(optimizer, module)
    of = {id(p): group[mark] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in module.named_parameters() if p.requires_grad}


def weights_and_decays(optimizer):
    return [([id(p) for p in group["params"]], group["weight_decay"]) for group in optimizer.param_groups]


@pytest.mark.parametrize("decay", ["0.0", "0.1"])
@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize("backbone", ["cresnet20", "vit_tiny_patch16_224(img_size=32, depth=1)"])
def test_without_rules_the_groups_are_those_of_timm(backbone, decay_norms, decay):
    step = Step(load_recipe("baseline_cifar10", f"branches.net.backbone={backbone}"), 10)
    list(step.main.backbone.parameters())[-1].requires_grad_(False)
    ours = make_optimizer(train_with(f"weight_decay={decay}, decay_norms={decay_norms}", "adamw"), step)
    timms = create_optimizer_v2(step, opt="adamw", lr=LR, weight_decay=float(decay), filter_bias_and_bn=not decay_norms)
    assert weights_and_decays(ours) == weights_and_decays(timms)
    assert ours.defaults == timms.defaults


PLACES = {
    "'p'": ["branches.online.heads.p."],
    "'online.p'": ["branches.online.heads.p."],
    "'z'": ["branches.online.heads.z.", "branches.second.heads.z."],
    "'second.z'": ["branches.second.heads.z."],
    "'backbone'": ["branches.online.backbone.", "branches.second.backbone."],
    "'online.backbone'": ["branches.online.backbone."],
    "'agmax'": ["relations.agmax."],
    "('agmax', 'p', 'second.backbone')": ["relations.agmax.", "branches.online.heads.p.", "branches.second.backbone."],
    "()": [],
}


@pytest.mark.parametrize(("parts", "places"), PLACES.items())
@pytest.mark.parametrize("decay_norms", [True, False])
def test_a_rule_holds_for_its_part_and_no_other(two_branches, parts, places, decay_norms):
    train = train_with(f"weight_decay=0.1, decay_norms={decay_norms}, constant={parts}")
    found = marks(make_optimizer(train, two_branches), two_branches, "constant")
    assert {name for name, constant in found.items() if constant} == {
        name for name in found if name.startswith(tuple(places))
    }


def test_rules_do_not_change_what_decays(two_branches):
    arguments = "weight_decay=0.1, decay_norms=False"
    plain = decays(make_optimizer(train_with(arguments), two_branches), two_branches)
    ruled = train_with(f"{arguments}, constant=('p', 'agmax'), scale={{'backbone': 0.5, 'p': 2}}")
    assert set(plain.values()) == {0.0, 0.1}
    assert decays(make_optimizer(ruled, two_branches), two_branches) == plain


def test_what_needs_no_gradient_is_in_no_group_and_is_no_part(two_branches):
    step = copy.deepcopy(two_branches)
    step.branch("second").requires_grad_(False)
    found = marks(make_optimizer(train_with("constant='z'"), step), step, "constant")
    assert {name[: name.index(".z.")] for name, constant in found.items() if constant} == {"branches.online.heads"}
    with pytest.raises(RecipeError, match=r"unknown part 'second\.z'"):
        make_optimizer(train_with("constant='second.z'"), step)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("constant='pp'", "unknown part 'pp'; did you mean 'p'? parts: p, online.p, z, … (13 in all)"),
        (
            "scale={'onlin.p': 2}",
            "unknown part 'onlin.p'; did you mean 'online.p'? parts: online.p, online.z, online.logits, … (13 in all)",
        ),
        (
            "constant=('p', 'similarity')",
            "unknown part 'similarity'; parts: logits, online.logits, agmax, … (13 in all)",
        ),
        ("scale={'p': 2, 'online.p': 3}", "scale has 'p' and 'online.p', which are the same part; keep one"),
    ],
)
def test_parts_that_are_not_there(two_branches, arguments, message):
    train = train_with(arguments)
    with pytest.raises(RecipeError) as caught:
        make_optimizer(train, two_branches)
    assert str(caught.value).startswith(f"train.optimizer: sgd(lr={LR}, {arguments}): ")
    assert str(caught.value).endswith(message)


RULED = "constant=('p', 'agmax'), scale={'p': 0.5, 'q': 10, 'online.backbone': 0.1}"
FACTORS = {"branches.online.heads.p": 0.5, "branches.second.heads.q": 10, "branches.online.backbone": 0.1}


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
@pytest.mark.parametrize(
    "schedule", ["cosine(warmup='12 steps', floor=0.01)", "multistep(at=(0.5,), warmup='6 steps')", "constant()"]
)
def test_constant_and_scaled_parts_through_warm_up_and_schedule(two_branches, schedule, name):
    plain = rates(schedule)
    optimizer = make_optimizer(train_with(RULED, name), two_branches)
    set_lr = make_schedule(train_with(RULED, name, schedule), optimizer, CLOCK)
    for step in range(60):
        assert set_lr(step) == plain[step]
        for parameter, lr in marks(optimizer, two_branches, "lr").items():
            held = parameter.startswith(("branches.online.heads.p.", "relations.agmax."))
            factor = next((f for place, f in FACTORS.items() if parameter.startswith(place + ".")), 1.0)
            assert lr == (LR if held else plain[step]) * factor


def test_the_lr_is_logged_of_no_ruled_part(two_branches):
    everything = "scale={'backbone': 2, 'z': 2, 'p': 3, 'q': 3, 'logits': 4}, constant='agmax'"
    optimizer = make_optimizer(train_with(everything), two_branches)
    assert 1.0 not in {group["scale"] for group in optimizer.param_groups if not group["constant"]}
    assert make_schedule(train_with(everything), optimizer, CLOCK)(30) == pytest.approx(LR / 2)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_weight_decay_follows_half_a_cosine(two_branches, name):
    train = train_with("weight_decay=0.04, decay_to=0.4, decay_norms=False, scale={'q': 10}", name)
    optimizer = make_optimizer(train, two_branches)
    begun = marks(optimizer, two_branches, "weight_decay")
    assert set(begun.values()) == {0.0, 0.04}
    set_lr, plain = make_schedule(train, optimizer, CLOCK), rates("cosine()")
    optimizer.load_state_dict(optimizer.state_dict())  # as accelerate does: groups are then others
    for step in (0, 1, 30, 59, 7):  # a function of the step alone, so that a run can go on anywhere
        assert set_lr(step) == plain[step]
        wanted = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * step / 60)) / 2
        for parameter, decay in marks(optimizer, two_branches, "weight_decay").items():
            assert decay == (pytest.approx(wanted) if begun[parameter] else 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("decay_to=0.4", "decay_to is where weight decay ends; say where it begins, too, as in weight_decay=0.04"),
        ("weight_decay=0.04, decay_to=-1", "decay_to must"),
        ("weight_decay=0.04, decay_to='0.4'", "decay_to must"),
    ],
)
def test_where_weight_decay_goes_is_a_number_and_comes_from_somewhere(arguments, message):
    with pytest.raises(RecipeError) as caught:
        check_training(train_with(arguments))
    assert str(caught.value).startswith(f"train.optimizer: {message}")


def test_scale_holds_before_any_schedule(two_branches):
    optimizer = make_optimizer(train_with("scale={'q': 10}"), two_branches)
    rate = marks(optimizer, two_branches, "lr")
    assert rate["branches.second.heads.q.weight"] == LR * 10
    assert rate["branches.second.heads.z.0.weight"] == LR


# --------------------------------------------------------------------------------------- what a call leaves to others


def group_of(text, **options):
    return make_optimizer(Train(epochs=1, optimizer=text, **options), network()).param_groups[0]


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("sgd", torch.optim.SGD),
        ("rmsprop", torch.optim.RMSprop),
        ("adagrad", torch.optim.Adagrad),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("nadam", torch.optim.NAdam),
        ("radam", torch.optim.RAdam),
        ("adamax", torch.optim.Adamax),
        ("adadelta", torch.optim.Adadelta),
    ],
)
def test_what_is_not_said_is_torchs(text, theirs):
    """Weight decay alone is 0 for all, as the reference says."""
    ours = group_of(f"{text}(lr=0.1)")
    defaults = theirs([nn.Parameter(torch.zeros(1))], lr=0.1).param_groups[0]
    for key, value in {**defaults, "weight_decay": 0.0}.items():
        assert key == "params" or ours[key] == value, key


def test_defaults_of_timms_own_are_those_of_their_code():
    assert group_of("muon(lr=0.1)")["momentum"] == 0.95  # which the factory lowers
    assert group_of("lars(lr=0.1)")["momentum"] == group_of("sgdw(lr=0.1)")["momentum"] == 0
    assert group_of("nesterov(lr=0.1)")["momentum"] == group_of("momentum(lr=0.1)")["momentum"] == 0.9
    assert group_of("sgd(lr=0.1, momentum=0.8, nesterov=True)")["momentum"] == 0.8
    assert group_of("lambc(lr=0.1)")["trust_clip"] is True


# ---------------------------------------------------------------------------------------- an lr belongs to a batch size


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_lr_is_for_a_batch_size(name):
    for size, lr in ((128, 0.1), (32, 0.025), (512, 0.4)):
        assert group_of(f"{name}(lr=0.1, per=128)", batch_size=size)["lr"] == pytest.approx(lr)
    assert group_of(f"{name}(lr=0.1)", batch_size=32)["lr"] == 0.1


@pytest.mark.parametrize(
    "schedule", ["cosine(warmup='6 steps', floor=0.01)", "multistep((0.5,))", "cosine('6 steps', 0.01)"]
)
def test_the_whole_schedule_follows_the_batch_size(schedule):
    def lrs(batch_size):
        train = Train(steps=60, batch_size=batch_size, schedule=schedule, optimizer="sgd(lr=0.1, per=128)")
        optimizer = make_optimizer(train, network())
        set_lr = make_schedule(train, optimizer, CLOCK)
        return [(set_lr(step), optimizer.param_groups[0]["lr"]) for step in range(60)]

    own = lrs(128)
    assert max(own) == pytest.approx((0.1, 0.1))
    assert np.array(lrs(32)) == pytest.approx(np.array(own) / 4)


def descend(module, optimizer, set_lr, steps):
    """Steps on gradients that depend on the weights and on the step."""
    for step in steps:
        set_lr(step)
        for number, parameter in enumerate(p for p in module.parameters() if p.requires_grad):
            parameter.grad = torch.sin(parameter.detach() * (step + 1) + number)
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_a_resumed_optimizer_with_rules_continues_bit_for_bit(two_branches, name, tmp_path):
    train = train_with(f"weight_decay=0.01, decay_norms=False, {RULED}", name, "cosine(warmup='3 steps')")

    def begin():
        module = copy.deepcopy(two_branches)
        optimizer = make_optimizer(train, module)
        return module, optimizer, make_schedule(train, optimizer, CLOCK)

    whole, optimizer, set_lr = begin()
    descend(whole, optimizer, set_lr, range(6))

    first, optimizer, set_lr = begin()
    descend(first, optimizer, set_lr, range(3))
    torch.save({"module": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "saved.pt")
    saved = torch.load(tmp_path / "saved.pt", weights_only=False)
    second, optimizer, set_lr = begin()
    second.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    descend(second, optimizer, set_lr, range(3, 6))

    moved = 0
    for ours, theirs, start in zip(second.parameters(), whole.parameters(), two_branches.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        moved += not torch.equal(ours, start)
    assert moved == len(list(whole.parameters()))


# --------------------------------------------------------------------------------------------------------------- LARS


def lars_by_hand(weights, gradients, rate_of, adapted, decay, momentum=0.9, trust=0.001, eps=1e-8):
    """LARS in float64 (You et al., 2017, algorithm 1, lr outside of the momentum): name -> weights after the steps."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    velocity = {}
    for step, gradient in enumerate(gradients):
        for name, w in weights.items():
            g = gradient[name].astype(np.float64)
            if name in adapted:
                norms = math.sqrt((w * w).sum()), math.sqrt((g * g).sum())
                ratio = trust * norms[0] / (norms[1] + decay * norms[0] + eps) if min(norms) > 0 else 1.0
                g = ratio * (g + decay * w)
            velocity[name] = momentum * velocity[name] + g if name in velocity else g
            weights[name] = w - rate_of(name, step) * velocity[name]
    return weights


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("decay", [1e-6, 0.5])
@pytest.mark.parametrize("rules", ["", "constant='p', scale={'logits': 10}"])
def test_lars_spares_norms_and_biases_from_decay_and_adaptation(two_branches, rules, decay, steps):
    step = copy.deepcopy(two_branches)
    train = train_with(
        f"momentum=0.9, weight_decay={decay}, decay_norms=False, {rules}", "lars", "cosine(warmup='12 steps')"
    )
    optimizer = make_optimizer(train, step)
    set_lr = make_schedule(train, optimizer, CLOCK)
    before = {name: p.detach().numpy().copy() for name, p in step.named_parameters()}
    random = np.random.default_rng(0)
    gradients = [
        {name: random.normal(size=w.shape).astype(np.float32) for name, w in before.items()} for _ in range(steps)
    ]
    for number, gradient in enumerate(gradients):
        set_lr(number)
        for name, parameter in step.named_parameters():
            parameter.grad = torch.from_numpy(gradient[name].copy())
        optimizer.step()

    def rate_of(name, number):
        if rules and name.startswith("branches.online.heads.p."):
            return LR
        return warm(number, 12) * (10 if rules and ".heads.logits." in name else 1)

    matrices = {name for name, w in before.items() if w.ndim > 1}
    expected = lars_by_hand(before, gradients, rate_of, matrices, decay)
    assert 0 < len(matrices) < len(before)
    for name, parameter in step.named_parameters():
        moved = parameter.detach().numpy() - before[name]
        scale = np.abs(expected[name] - before[name]).max()
        tolerance = 1e-4 * scale + 1e-7 * np.abs(before[name]).max()
        np.testing.assert_allclose(moved, expected[name] - before[name], rtol=0, atol=tolerance, err_msg=name)


# ----------------------------------------------------------------------------------------------- synchronised BatchNorm


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("backbone", ["cresnet20", "efficientnet_b0"])  # the second has timm's BatchNormAct2d
def test_synchronised_batchnorm_is_the_same_network(backbone, device):
    recipe = parse_recipe(TWO_BRANCHES, f"branches.online.backbone={backbone}", "train.ema=0.9")
    step = Step(recipe, 3)
    before = copy.deepcopy(step)
    parameters = dict(step.named_parameters())
    sync_batchnorm(step, 2, torch.device(device))

    norms = [module for module in step.modules() if isinstance(module, _BatchNorm)]
    assert len(norms) == sum(isinstance(module, _BatchNorm) for module in before.modules()) > 10
    assert all(isinstance(module, nn.SyncBatchNorm) == (device == "cuda") for module in norms)
    assert all(parameter is parameters[name] for name, parameter in step.named_parameters())
    assert [(n, p.requires_grad) for n, p in step.named_parameters()] == [
        (n, p.requires_grad) for n, p in before.named_parameters()
    ]
    step.load_state_dict(before.state_dict())

    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0])
    for mode in (False, True):  # alone, without a group of processes, it computes what BatchNorm does
        outputs = []
        for module in (step.train(mode), before.train(mode)):
            torch.manual_seed(0)
            outputs.append(module(images, labels, index=range(4), epoch=0))
        assert torch.equal(outputs[0]["loss"], outputs[1]["loss"])
    for (name, ours), theirs in zip(step.named_buffers(), before.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_one_process_has_nothing_to_synchronise(two_branches):
    step = copy.deepcopy(two_branches)
    kinds = [type(module) for module in step.modules()]
    for device in ("cpu", "cuda"):
        sync_batchnorm(step, 1, torch.device(device))
    assert [type(module) for module in step.modules()] == kinds


# ------------------------------------------------------------------------------------------------------------- errors


def refused(**options):
    with pytest.raises(RecipeError) as caught:
        check_training(Train(**options))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("length", [{}, {"epochs": 1, "steps": 1}])
def test_the_length_is_given_once(length):
    assert refused(**length) == "train: give the length of the run once, as epochs or as steps"


def test_parts_divide_the_batch():
    assert refused(epochs=1, batch_size=10, accumulate=3) == "train.accumulate: 3 does not divide batch_size 10"


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("sgdd(lr=0.1)", "train.optimizer: unknown optimizer 'sgdd'; did you mean 'sgd'? optimizers: "),
        ("sgd(0.1)", "train.optimizer: write arguments by name, as in sgd(lr=0.1), got sgd(0.1)"),
        ("sgd(lr='fast')", "train.optimizer: lr must be a number of at least 0, got 'fast'"),
        ("sgd(lr=0.1, weight_decay='x')", "train.optimizer: weight_decay must be a number of at least 0, got 'x'"),
        ("sgd(lr=0.1, weight_decay=-1)", "train.optimizer: weight_decay must be a number of at least 0, got -1"),
        ("sgd(lr=-1)", "train.optimizer: lr must be a number of at least 0, got -1"),
        ("sgd(lr=True)", "train.optimizer: lr must be a number of at least 0, got True"),
        ("sgd(lr=0.1, momentums=0.9)", "train.optimizer: sgd: unknown argument 'momentums'; did you mean 'momentum'? "),
        ("adamw(lr=0.1, momentum=0.9)", "train.optimizer: adamw: unknown argument 'momentum'; "),
        ("sgd(lr=0.1, constat='p')", "train.optimizer: sgd: unknown argument 'constat'; did you mean 'constant'? "),
        ("sgd(lr=0.1, decay_norms='no')", "train.optimizer: decay_norms must be True or False, got 'no'"),
        ("sgd(lr=0.1, per=0)", "train.optimizer: per is the batch size that lr is for, a whole number, got 0"),
        ("sgd(lr=0.1, per='x')", "train.optimizer: per is the batch size that lr is for, a whole number, got 'x'"),
        ("sgd(lr=0.1, constant=p)", "train.optimizer: constant names one part in quotes, 'p', or several, ('p', 'z'), "
                                    "got p"),
        ("sgd(lr=0.1, constant=('p', 2))", "train.optimizer: constant names one part in quotes, 'p', or several, "
                                           "('p', 'z'), got ('p', 2)"),
        ("sgd(lr=0.1, scale=2)", "train.optimizer: scale gives a factor to each part, as in {'backbone': 0.1}, got 2"),
        ("sgd(lr=0.1, scale={1: 2})", "train.optimizer: scale gives a factor to each part, as in {'backbone': 0.1}, "
                                      "got {1: 2}"),
        ("sgd(lr=0.1, scale={'p': -1})", "train.optimizer: scale of 'p' must be a number of at least 0, got -1"),
        ("sgd(lr=0.1, scale={'p': 'x'})", "train.optimizer: scale of 'p' must be a number of at least 0, got 'x'"),
    ],
)  # fmt: skip
def test_wrong_optimizers(optimizer, message):
    assert refused(epochs=1, optimizer=optimizer).startswith(message)


@pytest.mark.parametrize("optimizer", ["sgd(lr=0.1, momentum=-1)", "sgd(lr=0.1, momentum='x')"])
def test_what_the_optimizer_refuses_is_a_recipe_error(optimizer):
    with pytest.raises(RecipeError) as caught:
        make_optimizer(Train(epochs=1, optimizer=optimizer), network())
    assert str(caught.value).startswith(f"train.optimizer: {optimizer}: ")
    assert "\n" not in str(caught.value)


def test_an_optimizer_that_finds_its_own_lr_is_told_one():
    with pytest.raises(RecipeError) as caught:
        make_optimizer(Train(epochs=1, optimizer="adafactor()"), network())
    expected = "train.optimizer: adafactor(): give the learning rate, as in adafactor(lr=0.01)"
    assert str(caught.value) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused where there is no GPU")
def test_an_optimizer_that_needs_a_gpu_is_refused_without():
    assert refused(epochs=1, optimizer="bnbadam(lr=0.1)").startswith("train.optimizer: bnbadam: ")


def test_overrides_reach_the_rules():
    recipe = load_recipe("quickstart", "train.optimizer.constant=logits", "train.optimizer.scale={backbone: 0.1}")
    groups = make_optimizer(recipe.train, Step(recipe, 10)).param_groups
    assert {(group["constant"], group["scale"]) for group in groups} == {(True, 1.0), (False, 0.1)}


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("cosin()", "train.schedule: unknown schedule 'cosin'; did you mean 'cosine'? schedules: "
                    "constant, cosine, multistep, step"),
        ("cosine(warm=1)", "train.schedule: cosine: unknown argument 'warm'; did you mean 'warmup'? "
                           "arguments: floor, per, start, warmup"),
        ("cosine(0, 0.0, 'epoch')", "train.schedule: cosine(0, 0.0, 'epoch'): too many positional arguments; "
                                    "arguments: warmup, floor, per, start"),
        ("cosine(floor=-1)", "train.schedule: cosine(floor=-1): floor must be a number of at least 0, got -1"),
        ("multistep(at=(0.5,), gamma=-1)", "train.schedule: multistep(at=(0.5,), gamma=-1): gamma must be a number of "
                                           "at least 0, got -1"),
        ("step('1 epochs', gamma='x')", "train.schedule: step('1 epochs', gamma='x'): gamma must be a number of "
                                        "at least 0, got 'x'"),
        ("cosine(per='day')", "train.schedule: cosine(per='day'): per must be 'step' or 'epoch', got 'day'"),
        ("cosine(start=2)", "train.schedule: cosine(start=2): start is a share of lr in [0, 1], got 2"),
        ("cosine(warmup=5)", "train.schedule: cosine(warmup=5): warmup is '10 epochs', '500 steps', or a fraction of "
                             "the run in (0, 1), got 5"),
        ("cosine(warmup='5')", "train.schedule: cosine(warmup='5'): warmup is written '10 epochs' or '500 steps', "
                               "got '5'"),
        ("multistep(at=(30, 60))", "train.schedule: multistep(at=(30, 60)): at is '10 epochs', '500 steps', or a "
                                   "fraction of the run in (0, 1), got 30"),
        ("multistep()", "train.schedule: multistep(): missing a required argument: 'at'; arguments: at, gamma, warmup"),
        ("step(every='x steps')", "train.schedule: step(every='x steps'): every is written '10 epochs' or "
                                  "'500 steps', got 'x steps'"),
        ("constant(warmup='inf epochs')", "train.schedule: constant(warmup='inf epochs'): warmup is written "
                                          "'10 epochs' or '500 steps', got 'inf epochs'"),
    ],
)  # fmt: skip
def test_wrong_schedules(schedule, message):
    assert refused(epochs=1, schedule=schedule) == message


@pytest.mark.parametrize("schedule", ["multistep(at=0.5)", "multistep(at='30 epochs')"])
def test_milestones_are_a_list(schedule):
    assert refused(epochs=1, schedule=schedule).startswith(f"train.schedule: {schedule}: ")


@pytest.mark.parametrize("text", ["often", "0 steps", "-1 epochs"])
def test_wrong_checkpoint_intervals(text):
    assert refused(epochs=1, checkpoint_every=text).startswith("train: checkpoint_every ")


def test_a_warm_up_as_long_as_the_run():
    with pytest.raises(RecipeError) as caught:
        rates("cosine(warmup='60 steps')")
    expected = (
        "train.schedule: cosine(warmup='60 steps'): a warm-up of 60 steps leaves nothing of a run of 60; "
        "shorten it, as in train.schedule.warmup=0.1"
    )
    assert str(caught.value) == expected


def test_what_a_backbone_keeps_out_of_weight_decay_stays_out():
    vit = "branches.net.backbone=vit_tiny_patch16_224(img_size=32, depth=1)"
    decay = "train.optimizer='sgd(lr=0.1, weight_decay=0.1, decay_norms=False)'"
    recipe = load_recipe("baseline_cifar10", vit, decay)
    step = Step(recipe, 10)
    kept = [
        p
        for group in make_optimizer(recipe.train, step).param_groups
        if not group["weight_decay"]
        for p in group["params"]
    ]
    backbone = step.main.backbone
    assert any(p is backbone.pos_embed for p in kept)
    assert not any(p is backbone.blocks[0].mlp.fc1.weight for p in kept)


LONG = ["step('1 steps')", "step('100 steps', gamma=0.5)", "step('1e-6 epochs')"]


@pytest.mark.parametrize("schedule", LONG)
def test_a_schedule_costs_the_same_whatever_its_numbers(schedule):
    """Counted in lines of Python, not in seconds: a period of 100 steps once listed 10**7 moments of the rehearsal."""

    def lines_run(text):
        seen = [0]

        def count(frame, event, argument):
            seen[0] += 1
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            check_training(Train(epochs=1, schedule=text))
        finally:
            sys.settrace(before)
        return seen[0]

    plain = lines_run("step('10 epochs')")
    assert lines_run(schedule) < 1.5 * plain


@pytest.mark.parametrize("amount", ["1e305 epochs", "1e308 epochs", "1e400 steps"])
def test_a_duration_beyond_all_numbers_is_refused_in_one_line(amount):
    message = refused(epochs=1, schedule=f"cosine(warmup='{amount}')")
    assert message.endswith(f"warmup is written '10 epochs' or '500 steps', got '{amount}'")


@pytest.mark.parametrize("every", ["'0 steps'", "'0.4 steps'", "1e-12"])
def test_a_step_of_no_steps_is_refused(every):
    with pytest.raises(RecipeError, match="every must be at least one step"):
        load_recipe("quickstart", f"train.schedule=step({every})")


def test_a_cosine_of_one_step_is_at_its_peak_without_a_word(caplog):
    train = Train(steps=1, optimizer="sgd(lr=0.2)", schedule="cosine()")
    optimizer = make_optimizer(train, torch.nn.Linear(2, 2))
    assert make_schedule(train, optimizer, Clock(1, 1))(0) == pytest.approx(0.2)
    assert not caplog.records
