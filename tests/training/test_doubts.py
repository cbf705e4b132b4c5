"""What a user is told of settings made for another run, and of a classifier that another term of the loss silences."""

import math
import re
import warnings
from types import SimpleNamespace

import pytest
import torch

from manyview import load_recipe, parse_recipe
from manyview.errors import ManyviewWarning, RunError
from manyview.load import packaged_recipes
from manyview.optimize.optimize import Clock, clock_of
from manyview.step import Step
from manyview.training.doubts import doubts
from manyview.training.health import PATIENCE, grown, steps_low, told_apart
from manyview.training.train import train

TEXT = """
data: {source: digits, limit: 800, val_fraction: 0}
views:
  a: {from: image, make: "pad_crop(8, padding=1)"}
  b: {like: a}
branches:
  net: {backbone: cresnet20, normalize: half, z: "projector(h, 8)"}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {epochs: 4, batch_size: 32, optimizer: "sgd(lr=0.1, momentum=0.9)"}
"""
CLOCK = Clock(steps=100, steps_per_epoch=25)
TEACHER = "branches.teacher=ema(net, momentum={})"


def told(*overrides, images=800, clock=CLOCK):
    recipe = parse_recipe(TEXT, *overrides)
    return doubts(recipe, Step(recipe, 10, clock.steps), clock, images)


def test_a_time_out_that_nothing_can_keep():
    line = "data.timeout=5: with data.workers=0 images are read in the main process, where nothing can end a decoder"
    assert [each.partition(";")[0] for each in told("data.timeout=5")] == [line, *told()]
    assert told("data.timeout=5", "data.workers=1") == told()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["train.schedule=multistep(at=('2 epochs', '30 epochs', '60 epochs'))"],
            "train.schedule: lr is lowered at 30 epochs, 60 epochs, and the run's 100 steps (4 epochs) end before; "
            "name parts of the run, as in train.schedule.at=(0.3, 0.6)",
        ),
        (
            ["train.schedule=step('100 steps')"],
            "train.schedule: lr is lowered at 100 steps, and the run's 100 steps (4 epochs) end before; name parts of "
            "the run, as in train.schedule.every=0.3",
        ),
        (
            ["train.schedule=constant(warmup='10 epochs')"],
            "train.schedule: a warm-up of 250 steps fills the run's 100 steps (4 epochs); shorten it, "
            "train.schedule.warmup=0.1",
        ),
        (
            ["train.schedule=cosine(floor=0.2)"],
            "train.schedule: floor=0.2 is not under lr=0.1, which will rise to it",
        ),
        (
            ["train.ema=0.999"],
            "train.ema of 0.999: after the run's 100 steps the averaged weights, which are evaluated, are 90 % what "
            "they were before training; train.ema=0.95 leaves 1 %",
        ),
        (
            [TEACHER.format(0.996), "relations=['similarity(z(a), teacher.z(b))']"],
            "branches.teacher.momentum of 0.996: after the run's 100 steps the weights of teacher are 67 % what they "
            "were before training; branches.teacher.momentum=0.95 leaves 1 %",
        ),
        (
            ["relations=['info_nce(z(a), toward=z(b), queue=1000)']"],
            "relations.info_nce.queue=1000: it holds more keys than there are training images (800), so an image meets "
            "its own older keys as negatives; relations.info_nce.queue=200",
        ),
        (
            ["relations=['swav(z(a), z(b), freeze=409)']"],
            "relations.swav.freeze=409: the prototypes stay as they were drawn through all of the run's 100 steps; "
            "relations.swav.freeze=1",
        ),
        (
            ["train.checkpoint_every=30 epochs"],
            "train.checkpoint_every='30 epochs' is 750 steps, and the run has 100: nothing is saved before its end",
        ),
    ],
)  # fmt: skip
def test_what_was_meant_for_another_run_is_told(overrides, line):
    assert told(*overrides) == [line]
    assert told(*overrides, clock=Clock(19, 25)) == []  # which only tries whether all works


def test_a_branch_that_no_relation_reads_is_told_whatever_the_length():
    """As where an override names a branch that the recipe has not."""
    line = "branches.online: no relation reads it, so it is not built; what they read is net"
    for clock in (CLOCK, Clock(19, 25)):
        assert told("branches.online.backbone=resnet18", "relations=['cross_entropy(net.logits(a))']", clock=clock) == [
            line
        ]


def test_a_queue_that_the_run_cannot_fill_is_told():
    (line,) = told("relations=['info_nce(z(a), toward=z(b), queue=5000)']", images=10_000)
    assert line.startswith("relations.info_nce.queue=5000: the run has 3,200 keys to fill it with, and the other")


def test_a_dino_that_does_not_fit_its_data_is_told():
    lines = told(
        TEACHER.format(0.9),
        "branches.net.z=dino_head(h, 900, hidden=8, bottleneck=4, freeze=100)",
        "relations=['dino(z(a), z(b), toward=teacher, teacher_temperature=(0.04, 0.07), warmup=100)']",
    )
    assert lines == [
        "relations.dino: 900 columns for 800 training images; on data this small the teacher soon answers all alike: "
        "give the head fewer, some 80",
        "relations.dino.warmup=100: the teacher's temperature still rises when the run's 100 steps end; "
        "relations.dino.warmup=33",
        "branches.net.z.freeze=100: its last layer stays as it was drawn through all of the run's 100 steps; "
        "branches.net.z.freeze=1",
    ]


TIE = "relations=['similarity(h(a), h(b), {})']"


@pytest.mark.parametrize(
    ("options", "weight", "less"),
    [("weight=20", "20", "1"), ('kind="mse", weight=warmup(32)', "warmup(32)", "warmup(1)")],
)
def test_a_strong_tie_in_a_short_run_is_told(options, weight, less):
    (line,) = told(TIE.format(options), clock=Clock(390, 78))
    assert line == (
        f"relations.similarity.weight={weight}: so strong a tie has hurt in 390 steps, and this run has 390 (with "
        f"heavy views, 30 % where cross-entropy alone has 60 %); relations.similarity.weight={less}, or more epochs"
    )
    assert told(TIE.format(options), clock=Clock(391, 78)) == []
    assert told(TIE.format(options), f"relations.similarity.weight={less}", clock=Clock(390, 78)) == []


@pytest.mark.parametrize("options", ["weight=19", "weight=-20", 'kind="cosine", weight=20', "weight=linear(20)"])
def test_of_ties_that_were_not_measured_nothing_is_told(options):
    assert told(TIE.format(options), clock=Clock(390, 78)) == []


def test_an_optimiser_that_clips_a_probe_with_all_else_is_told():
    probe = ["branches.net.probe=linear(stop(h))", "relations=['similarity(h(a), h(b))', 'cross_entropy(probe(a))']"]
    (line,) = told(*probe, "train.optimizer=lamb(lr=0.1, per=32)")
    assert line.startswith("train.optimizer: it clips by one norm of all gradients (1), those of heads that look on")
    assert told(*probe, "train.optimizer=lamb(lr=0.1, per=32, max_grad_norm=1e9)") == []
    assert told(*probe) == []


def test_an_epoch_that_has_one_rate_is_told():
    (line,) = told("train.schedule=cosine(per='epoch')", clock=Clock(25, 25))
    assert line.startswith("train.schedule: per='epoch' keeps one lr through the run's 25 steps (1 epoch); ")


def test_a_warm_up_of_one_epoch_by_the_epoch_is_told():
    (line,) = told("train.schedule=cosine(warmup='1 epochs', per='epoch')")
    assert line == (
        "train.schedule: by the epoch, a warm-up of one epoch is none; train.schedule.per=step warms up by step"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.ema=0.9", "train.schedule=multistep(at=(0.5, '3 epochs'))"],
        ["train.schedule=cosine(warmup='2 epochs', per='epoch', floor=0.001)", "train.checkpoint_every=4 epochs"],
        [TEACHER.format(0.9), "relations=['info_nce(z(a), toward=teacher.z(b), queue=400)']"],
        ["relations=['swav(z(a), z(b), freeze=9)']"],
    ],
)  # fmt: skip
def test_what_fits_is_not_told(overrides):
    assert told(*overrides) == []


IMAGES = {"cifar10": 45_000, "cifar100": 45_000, "digits": 1000, "stl10": 90_000, "folder": 120_000}


@pytest.mark.parametrize("name", sorted(packaged_recipes()))
def test_packaged_recipes_fit_their_own_runs(name):
    recipe = load_recipe(name)
    images = IMAGES.get(recipe.data.call.name, 120_000)
    clock = clock_of(recipe.train, images)

    # networks of these sizes take a minute to build
    step = SimpleNamespace(recipe=recipe, branches=(), relations={plan.name: None for plan in recipe.relation_plan})
    assert doubts(recipe, step, clock, images) == []


# ------------------------------------------------------------------------------------- an lr belongs to a batch size


def test_smaller_batches_under_a_plain_lr_are_told():
    line = (
        "train.batch_size=8 is under the recipe's 32, and the lr of sgd stays 0.1: train.optimizer.per=32 makes it "
        "0.025, and train.optimizer.lr=0.1 says that it is meant"
    )
    assert line in told("train.batch_size=8")
    for others in (
        ["train.batch_size=64"],
        ["train.batch_size=8", "train.optimizer.lr=0.1"],
        ["train.batch_size=8", "train.optimizer.per=32"],
        ["train.batch_size=8", "train.optimizer=adamw(lr=0.1)"],
    ):
        assert not any("train.batch_size" in each for each in told(*others))
    recipe = parse_recipe(TEXT, "train.batch_size=8")
    assert recipe == parse_recipe(recipe.to_yaml()), "it is no part of what the recipe says"


def test_an_lr_of_ones_own_is_for_the_batches_of_the_run():
    text = TEXT.replace("lr=0.1,", "lr=0.1, per=32,")
    assert parse_recipe(text, "train.batch_size=8").train.optimizer == "sgd(lr=0.1, per=32, momentum=0.9)"
    assert parse_recipe(text, "train.optimizer.lr=0.2").train.optimizer == "sgd(lr=0.2, momentum=0.9)"
    both = parse_recipe(text, "train.optimizer.lr=0.2", "train.optimizer.per=64").train.optimizer
    assert both == "sgd(lr=0.2, per=64, momentum=0.9)"


def test_a_smaller_batch_does_not_explode(tmp_path):
    """Measured: at batch 2 the plain lr ends at chance or worse, the scaled one learns."""
    text = TEXT.replace("lr=0.1,", "lr=0.4, per=64,").replace("limit: 800", "limit: 300")
    short = ("train.steps=60", "train.batch_size=4", "train.log_every=60", "train.on_collapse=ignore")
    losses = {}
    for name, more in (("scaled", []), ("plain", ["train.optimizer.lr=0.4"])):
        result = train(parse_recipe(text, *short, *more), tmp_path / name, quiet=True)
        losses[name] = result["eval"]["loss"]
    assert losses["scaled"] < math.log(10) < losses["plain"]


# ------------------------------------------------------------------------------------ what silences a classifier


def test_what_answers_tell():
    alike = torch.randn(1, 10).expand(64, 10)
    sure = 50 * torch.eye(10)
    assert told_apart(alike) == pytest.approx(0, abs=1e-12)
    assert told_apart(sure) == pytest.approx(1)
    assert told_apart(sure[:2].repeat(8, 1)) == pytest.approx(math.log(2) / math.log(10))
    halves = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log()
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert told_apart(halves) == pytest.approx(1 - entropy / math.log(2))


HEAVY = ("views.a.make=pad_crop(8, padding=1) | randaugment(2, 14) | cutout(4)", "train.epochs=2", "train.log_every=4")
TIED = '- cross_entropy(logits(a), logits(b))\n- similarity(h(a), h(b), kind="mse", weight=warmup({}))'


def of_two_epochs(lines, *overrides):
    return parse_recipe(TEXT.replace('["cross_entropy(logits(a), logits(b))"]', f"\n{lines}"), *HEAVY, *overrides)


def test_a_term_that_silences_the_classifier_is_told(tmp_path):
    """Tied-Augment's weight of 20 in two epochs, as in docs/log.md: cross-entropy stays at chance, ln 10."""
    with pytest.warns(ManyviewWarning, match="answers all images nearly alike") as seen:
        result = train(of_two_epochs(TIED.format(20)), tmp_path / "run", quiet=True)
    (line,) = [str(each.message) for each in seen if "alike" in str(each.message)]
    told = (
        r"the loss from labels is cross_entropy 2\.\d+, which similarity 0\.\d+ may outweigh\. What helps: a smaller "
    )
    assert re.search(told + r"weight, as in relations\.similarity\.weight=0\.1; a warm-up of lr", line)
    assert "\n" not in line
    assert result["eval"]["loss"] == pytest.approx(math.log(10), abs=0.1)


# told_apart at every tenth step of docs/log.md's AgMax (CIFAR-10, 10,000 images, cresnet20, batch 128, lr 0.1): from
# the first step, and after a warm-up of 39 steps; and of cross-entropy alone
ATTRACTED = (0.062, 0.019, 0.0092, 0.0055, 0.0037, 0.0060, 0.0036, 0.0050)
WARMED = (0.020, 0.086, 0.094)
ALONE = (0.117, 0.131)


@pytest.mark.parametrize(("seen", "at"), [(ATTRACTED, [70]), (WARMED, []), (ALONE, [])])
def test_agmaxs_attractor_is_told_and_its_cures_are_not(seen, at):
    low, warned = 0, []
    for number, share in enumerate(seen, 1):
        low = steps_low(low, {"told_apart": share, "z_std_sqrt_d": 0.01}, grown(10 * number, 15_600, 78))
        warned += [10 * number] if low == PATIENCE else []
    assert warned == []  # in a run of 200 epochs the first may pass
    low = 0
    for number, share in enumerate(seen, 1):
        low = steps_low(low, {"told_apart": share, "z_std_sqrt_d": 0.01}, grown(10 * number, 156, 78))
        warned += [10 * number] if low == PATIENCE else []
    assert warned == at


def test_a_run_may_end_there(tmp_path):
    with pytest.raises(RunError, match=r"nearly alike: .*; stopped, as train.on_collapse says$"):
        train(of_two_epochs(TIED.format(20), "train.on_collapse=stop"), tmp_path / "run", quiet=True)


@pytest.mark.parametrize("lines", [TIED.format(1), "- cross_entropy(logits(a), logits(b))"])
def test_where_the_classifier_learns_nothing_is_told(tmp_path, lines):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ManyviewWarning)
        train(of_two_epochs(lines), tmp_path / "run", quiet=True)


def test_two_labelled_views_of_many_images_in_few_epochs_are_told():
    """By what docs/evidence.md measured: 5,000 images, 15 epochs."""
    few, more = Clock(15 * 78, 78), Clock(15 * 78 + 1, 78)
    (line,) = told(images=5000, clock=few)
    assert line == (
        "relations: 2 labelled views of each of 5,000 images in 15 epochs: of two, in so few epochs, one view of twice "
        "as many images a step was 3 points ahead at equal cost (cresnet8 at 16 px, docs/evidence.md); one view and "
        "train.batch_size=64, or more epochs"
    )
    apart = "relations=['cross_entropy(logits(a))', 'cross_entropy(logits(b))']"
    assert told(apart, images=5000, clock=few) == [line]
    assert told(images=4999, clock=few) == told(images=5000, clock=more) == []
    for one_view in ("cross_entropy(logits(a))", "similarity(h(a), h(b))"):
        assert told(f"relations=['{one_view}']", images=5000, clock=few) == []
    four = ["views.c={like: a}", "views.d={like: a}"]
    (line,) = told(
        *four, "relations=['cross_entropy(logits(a), logits(b), logits(c), logits(d))']", images=5000, clock=few
    )
    assert line.startswith("relations: 4 labelled views")
    assert "train.batch_size=128" in line
    (line,) = told("views.a.count=3", "relations=['cross_entropy(logits(a))']", images=5000, clock=few)
    assert line.startswith("relations: 3 labelled views")
    watching = "relations=['similarity(z(a), z(b))', 'cross_entropy(probe(a), probe(b))']"
    assert told("branches.net.probe=linear(stop(h))", watching, images=5000, clock=few) == []
