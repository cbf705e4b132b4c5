"""Fine-tuning: rates of layers, which images have labels, what is learnt and what is left alone."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from manyview import parse_recipe
from manyview.data import ArrayImages, Splits
from manyview.data.digits import digits
from manyview.errors import DataError
from manyview.evaluate.features import Features
from manyview.evaluate.finetune import Finetune, labelled_part, layer_groups
from manyview.evaluate.model import StepModel, Trunk
from manyview.step import Step

RECIPE = """
views: {a: {from: image, make: "pad_crop(8, padding=1)"}, b: {like: a}}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["similarity(h(a), h(b))"]
train: {epochs: 1}
"""


def frozen(train=300, val=100, test=200, seed=0, relabel=None):
    """A random network on digits; relabel: split -> function of its labels."""
    whole, places = digits(None, download=False).train, np.arange(train + val + test)

    def part(name, positions):
        if not len(positions):
            return None
        pixels = torch.stack([whole.read(int(place)) for place in positions])
        labels = (relabel or {}).get(name, lambda each: each)(whole.labels[positions])
        return ArrayImages(pixels, labels, whole.index[positions], split=name)

    parts = [part(*each) for each in zip(("train", "val", "test"), np.split(places, [train, train + val]), strict=True)]
    splits = Splits(*parts, tuple("0123456789"), f"{train} train")
    return Features(StepModel(Step(parse_recipe(RECIPE), 10), splits.classes), splits, seed=seed)


# ------------------------------------------------------------------------------------------------- rates of layers


class Small(nn.Module):
    """A stem, three blocks and a norm, as timm tells layers apart."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.norm = nn.LayerNorm(4)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))

    def group_matcher(self, coarse=False):
        return {"stem": r"^stem|^token", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    def no_weight_decay(self):
        return {"token"}

    def forward(self, x):
        x = self.stem(x.mean(dim=(2, 3)))
        for block in self.blocks:
            x = block(x).relu()
        return self.norm(x)


def test_rates_fall_from_layer_to_layer():
    trunk, head = Trunk(Small(), torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)), nn.Linear(4, 2)
    groups = layer_groups(trunk, head, weight_decay=0.1, layer_decay=0.5)
    names = {id(p): name for name, p in [*trunk.backbone.named_parameters(), *head.named_parameters("head")]}
    found = {names[id(p)]: (g["scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(found) == len(names)
    # timm's 99999 joins what is above: the norm goes with the last block
    scales = {"head": 1, "norm": 1, "blocks.2": 1, "blocks.1": 1 / 2, "blocks.0": 1 / 4, "stem": 1 / 8}
    for name, (scale, decay) in found.items():
        layer = name.rpartition(".")[0] or "stem"
        assert scale == scales[layer], name
        assert decay == (0.1 if name.endswith("weight") and layer != "norm" else 0), name


def test_layers_of_a_backbone_of_ours():
    """cresnet20: a stem, and three stages of three blocks."""
    trunk, head = frozen().model.trainable(), nn.Linear(64, 10)
    scale = {id(p): group["scale"] for group in layer_groups(trunk, head, 0.0, 0.7) for p in group["params"]}
    for name, parameter in trunk.backbone.named_parameters():
        place = re.match(r"layer(\d)\.(\d)\.", name)
        layer = 3 * (int(place[1]) - 1) + int(place[2]) + 1 if place else 0
        assert scale[id(parameter)] == pytest.approx(0.7 ** (9 - layer)), name
    assert all(group["scale"] == 1 for group in layer_groups(trunk, head, 0.0, 1.0))


def moved(features, **settings):
    """Parameter -> largest change of the backbone."""
    before = features.model.trainable().backbone.state_dict()
    protocol = Finetune(**settings)
    after = protocol._train(features, features.splits.train, protocol.lr)[0].backbone.state_dict()
    return {name: float((after[name].float() - before[name].float()).abs().max()) for name in before}


def test_low_layers_move_as_little_as_asked():
    changes = moved(frozen(train=64), epochs=3, lr=0.05, layer_decay=0.3)
    assert 0 < changes["layer1.0.conv1.weight"] < 1e-5
    assert changes["layer3.2.conv2.weight"] > 1e-3
    assert moved(frozen(train=64), epochs=3, lr=0.05)["layer1.0.conv1.weight"] > 1e-3


# ------------------------------------------------------------------------------------------------- which have labels


def pictures(labels):
    labels = np.asarray(labels, dtype=np.int64)
    pixels = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
    return ArrayImages(pixels, labels, np.arange(1000, 1000 + len(labels)), split="train")


def test_a_fraction_has_its_share_of_each_class_and_nests():
    drawn = np.random.default_rng(0)
    images = pictures(drawn.permutation(np.repeat([0, 1, 2, -1], [600, 300, 100, 50])))
    chosen = {fraction: labelled_part(images, fraction, seed=3) for fraction in (0.01, 0.1, 0.5, 1.0)}
    sets = {fraction: set(part.index.tolist()) for fraction, part in chosen.items()}
    for fraction, part in chosen.items():
        counts = np.bincount(part.labels, minlength=3)
        assert counts.sum() == round(1000 * fraction)
        assert counts == pytest.approx(fraction * np.array([600, 300, 100]), abs=1)
        assert np.array_equal(part.labels, images.labels[part.index - 1000])
    assert sets[0.01] < sets[0.1] < sets[0.5] < sets[1.0]
    assert np.array_equal(labelled_part(images, 0.1, seed=3).index, chosen[0.1].index)
    assert set(labelled_part(images, 0.1, seed=4).index.tolist()) != sets[0.1]


def test_those_and_no_others_are_trained_on():
    features, protocol = frozen(), Finetune(fraction=0.2, epochs=1, lr=0.05)
    kept, test = labelled_part(features.splits.train, 0.2, 0), features.splits.test
    network = protocol._train(features, kept, 0.05)
    with torch.no_grad():
        right = network(features.model.prepare(test.pixels)).argmax(dim=1).numpy() == test.labels
    report = protocol.measure(features, "test")
    assert report.measures["labels"] == len(kept) == 60
    assert report.measures[""] == pytest.approx(100 * right.mean())


# ------------------------------------------------------------------------------------------------- training


def test_it_learns_and_leaves_the_model_alone():
    features = frozen(train=400)
    step, protocol = features.model.step, Finetune(epochs=5, lr=0.05, batch_size=32)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    flags = [parameter.requires_grad for parameter in step.parameters()]
    step.train()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    report = protocol.measure(features, "test")
    assert torch.equal(torch.get_rng_state(), state)
    assert report.measures[""] > 60  # of ten classes
    assert (report.measures["lr"], report.measures["labels"], dict(report.tables)) == (0.05, 400, {})
    assert step.training
    assert [parameter.requires_grad for parameter in step.parameters()] == flags
    assert all(torch.equal(value, before[name]) for name, value in step.state_dict().items())


def test_the_same_seed_gives_the_same_bits():
    def weights(seed):
        torch.manual_seed(np.random.default_rng().integers(1000))
        features = frozen(train=100, seed=seed)
        return Finetune(epochs=2, lr=0.05)._train(features, features.splits.train, 0.05).state_dict()

    one, same, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["1.weight"], other["1.weight"])
    assert not torch.equal(one["0.backbone.conv1.weight"], other["0.backbone.conv1.weight"])


@pytest.mark.parametrize("val", [0, 100])
def test_a_rate_is_chosen_on_what_is_held_out(val):
    protocol = Finetune(epochs=3, lr=(0.05, 1e-9), batch_size=16)
    features = frozen(train=160, val=val, test=100)
    report = protocol.measure(features, "test")
    (low, at_low), (high, at_high) = report.tables["rates"].rows
    assert (low, high, report.measures["lr"]) == (1e-9, 0.05, 0.05)
    assert at_high > at_low
    # without a val, a tenth of what was to be trained on
    assert report.measures["labels"] == (160 if val else 144)
    # the split that is judged has no say
    wrong = frozen(train=160, val=val, test=100, relabel={"test": lambda labels: (labels + 1) % 10})
    again = protocol.measure(wrong, "test")
    assert again.tables["rates"].rows == report.tables["rates"].rows
    assert again.measures["lr"] == 0.05
    assert again.measures[""] < report.measures[""]


class Asked:
    """Images that note which were read."""

    def __init__(self, images):
        self.whole, self.read_at = images, set()
        self.labels, self.index, self.size, self.channels = images.labels, images.index, images.size, images.channels

    def __len__(self):
        return len(self.whole)

    def read(self, position, scale=1):
        self.read_at.add(position)
        return self.whole.read(position)

    def size_of(self, position):
        return None

    def name(self, position):
        return self.whole.name(position)


def test_no_more_labels_are_looked_at_than_the_fraction_of_all():
    features = frozen(train=300, val=100, test=40)
    watched = {name: Asked(getattr(features.splits, name)) for name in ("train", "val")}
    features = Features(features.model, replace(features.splits, **watched))
    seen = {}
    for fraction in (0.1, 0.2):
        for images in watched.values():
            images.read_at.clear()
        report = Finetune(fraction=fraction, epochs=1, lr=(0.01, 0.05)).measure(features, "test")
        assert (report.measures["labels"], report.measures["val_labels"]) == (300 * fraction, 100 * fraction)
        assert len(watched["val"].read_at) == 100 * fraction
        assert len(watched["train"].read_at) <= 300 * fraction
        counts = np.bincount(features.splits.val.labels[sorted(watched["val"].read_at)], minlength=10)
        assert counts == pytest.approx(fraction * np.bincount(features.splits.val.labels), abs=1)
        seen[fraction] = set(watched["val"].read_at)
    assert seen[0.1] < seen[0.2]
    one = Finetune(fraction=0.1, epochs=1, lr=0.05).measure(features, "test")
    assert "val_labels" not in one.measures, "nothing is chosen"
    assert Finetune(epochs=1, lr=(0.01, 0.05)).measure(features, "test").measures["val_labels"] == 100


def test_rates_that_overflow_are_not_chosen():
    features = frozen(train=64)
    report = Finetune(epochs=2, lr=(0.01, 1e30)).measure(features, "test")
    assert report.measures["lr"] == 0.01
    assert report.tables["rates"].rows[1] == (1e30, None)
    with pytest.raises(DataError, match=r"^finetune: the weights do not stay finite at lr=1e\+30; lower it$"):
        Finetune(epochs=2, lr=1e30).measure(features, "test")


@pytest.mark.parametrize(
    "settings", [{"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05}, {"augment": "crop(16, scale=(0.5, 1))"}]
)
def test_other_ways_to_train(settings):
    features = frozen(train=64, test=50)
    report = Finetune(epochs=1, **settings).measure(features, "test")
    assert 0 <= report.measures[""] <= 100
    assert report != Finetune(epochs=1).measure(features, "test")


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0}, r"^fraction must be more than 0 and at most 1, got 0$"),
        ({"fraction": 1.5}, r"^fraction must be more than 0 and at most 1, got 1.5$"),
        ({"fraction": True}, r"^fraction must be"),
        ({"layer_decay": 0.0}, r"^layer_decay must be more than 0 and at most 1, got 0.0$"),
        ({"lr": ()}, r"^no lr is given$"),
        ({"lr": (0.1, -1)}, r"^lr must be positive, .* got -1$"),
        ({"epochs": 0}, r"^epochs must be a whole number of at least 1, got 0$"),
        ({"batch_size": 0.5}, r"^batch_size must be a whole number"),
        ({"weight_decay": -1}, r"^weight_decay must be a number of at least 0"),
        ({"optimizer": "adam"}, r"^unknown optimizer 'adam'; did you mean 'adamw'\? optimizers: adamw, sgd$"),
        ({"metric": "top3"}, r"^unknown metric 'top3'"),
        ({"augment": "crp(32)"}, r"^augment: unknown op 'crp'; did you mean 'crop'\?"),
        ({"augment": "mixup(0.2)"}, r"^augment: ops that mix images and labels are not for fine-tuning$"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        Finetune(**settings)
    assert "\n" not in str(caught.value)


def splits_of(labels, val=None, test=True):
    images = pictures(labels)
    return Splits(images, val, images if test else None, tuple("abc"), "a few")


def test_data_that_cannot_be_fine_tuned_on():
    labels = [0, 1, 2] * 100
    Finetune(fraction=0.01).check(splits_of(labels))
    with pytest.raises(DataError) as caught:
        Finetune(fraction=0.005).check(splits_of(labels))
    assert str(caught.value) == (
        "finetune(fraction=0.005): that is 2 of 300 labelled training images, for 3 classes; the least is fraction=0.01"
    )
    with pytest.raises(DataError, match=r"3 labels of 3 classes leave none to choose a rate by; give one$"):
        Finetune(fraction=0.01, lr=(0.1, 1)).check(splits_of(labels))
    Finetune(fraction=0.01, lr=(0.1, 1)).check(splits_of(labels, val=pictures(labels)))
    with pytest.raises(DataError, match=r"^finetune: training images with labels are of 0 classes; at least two"):
        Finetune().check(splits_of([-1, -1]))


def test_settings_are_hashable():
    assert hash(Finetune(lr=[0.1, 0.2])) == hash(Finetune(lr=(0.1, 0.2)))
