"""Optimisers and schedules: the lr of every step against formulas by hand; durations; parameter groups; errors."""

import math

import pytest
import torch
from torch import nn

from manyview.errors import RecipeError
from manyview.optimize import Clock, check_training, clock_of, make_optimizer, make_schedule, steps_of
from manyview.recipe import Train, load_recipe
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


def test_cosine_by_epoch_after_a_warm_up():
    expected = [warm(n // 6 * 6, 12) if n < 12 else half_cosine(n // 6 * 6, 12) for n in range(60)]
    assert rates("cosine(warmup='2 epochs', per='epoch')") == pytest.approx(expected)


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
    ],
)
def test_wrong_optimizers(optimizer, message):
    assert refused(epochs=1, optimizer=optimizer).startswith(message)


@pytest.mark.parametrize("optimizer", ["sgd(lr=0.1, momentum=-1)", "sgd(lr=0.1, momentum='x')"])
def test_what_the_optimizer_refuses_is_a_recipe_error(optimizer):
    with pytest.raises(RecipeError) as caught:
        make_optimizer(Train(epochs=1, optimizer=optimizer), network())
    assert str(caught.value).startswith(f"train.optimizer: {optimizer}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("cosin()", "train.schedule: unknown schedule 'cosin'; did you mean 'cosine'? schedules: "
                    "constant, cosine, multistep, step"),
        ("cosine(warm=1)", "train.schedule: cosine: unknown argument 'warm'; did you mean 'warmup'? "
                           "arguments: floor, per, warmup"),
        ("cosine(0, 0.0, 'epoch')", "train.schedule: cosine(0, 0.0, 'epoch'): too many positional arguments; "
                                    "arguments: warmup, floor, per"),
        ("cosine(floor=-1)", "train.schedule: cosine(floor=-1): floor must be a number of at least 0, got -1"),
        ("multistep(at=(0.5,), gamma=-1)", "train.schedule: multistep(at=(0.5,), gamma=-1): gamma must be a number of "
                                           "at least 0, got -1"),
        ("step('1 epochs', gamma='x')", "train.schedule: step('1 epochs', gamma='x'): gamma must be a number of "
                                        "at least 0, got 'x'"),
        ("cosine(per='day')", "train.schedule: cosine(per='day'): per must be 'step' or 'epoch', got 'day'"),
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
    expected = "train.schedule: cosine(warmup='60 steps'): a warm-up of 60 steps leaves nothing of a run of 60"
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
