"""Recipes: strict YAML, every key checked, overrides that reach into calls, and one line that names the place."""

import contextlib
import re
import sys
import warnings

import pytest
import torch
import yaml
from pydantic import ValidationError

import manyview
from manyview.errors import DataError, ManyviewError, RecipeError
from manyview.evaluate.protocols import PROTOCOLS
from manyview.foundation.grammar import parse_call
from manyview.load import load_recipe, packaged_recipes, parse_recipe
from manyview.recipe.recipe import Recipe, difference
from manyview.recipe.settings import Data, Train
from manyview.recipe.strict_yaml import read_yaml
from manyview.relations import RELATIONS
from manyview.step import Step

TEXT = """\
title: everything at once
data: {source: digits}
views:
  a: {from: image, make: "resize(16) | pad_crop(16, padding=2) | randaugment(2, 9)"}
  b: {like: a}
  r: {from: a, orbit: rotation}
  two: {from: image, make: resize(16), orbit: rotation2}
  many: {from: a, make: flip(0.5), count: 3}
  test: {from: image, make: resize(16)}
branches:
  net:
    backbone: cresnet20
    normalize: half
    joint: linear(h, orbit=r)
    z: projector(h, 8)
    q: mlp(z, 4, 8)
relations:
  - cross_entropy(logits(a), logits(b))
  - similarity(h(a), h(b), kind="mse", weight=1)
  - cross_entropy(logits(r))
  - joint_cross_entropy(joint(r))
  - similarity(z(a), q(b))
  - cross_entropy(logits(r.0), weight=0.5)
train:
  steps: 3
  batch_size: 16
  optimizer: "sgd(lr=0.1, momentum=0.9)"
  schedule: "cosine('1 steps')"
evaluate: [knn(20)]
"""
PACKAGED = sorted(packaged_recipes())
PUBLISHED = r"\b((ICML|WACV|ICLR|CVPR|ICCV|NeurIPS) 20\d\d|arXiv \d{4}\.\d{5})\b"


def line_of(error) -> str:
    """The message, after a check that it is one line without a Python type's name in it."""
    message = str(error.value)
    assert "\n" not in message
    assert not re.search(r"pydantic|Traceback|<class|Name\(|Call\(|object at 0x", message), message
    return message


def refused(old: str, new: str, kind: type[ManyviewError] = RecipeError, build: bool = False) -> str:
    """The message for TEXT with one piece replaced."""
    assert TEXT.count(old) == 1, old
    return refused_text(TEXT.replace(old, new), kind=kind, build=build)


def refused_text(text: str, *overrides: str, kind: type[ManyviewError] = RecipeError, build: bool = False) -> str:
    """The message for a recipe; build: it loads, and is refused when the step is built."""
    if build:
        recipe = parse_recipe(text, *overrides)
        with pytest.raises(kind) as error:
            Step(recipe, 10)
    else:
        with pytest.raises(kind) as error:
            parse_recipe(text, *overrides)
    return line_of(error)


def test_the_recipe_of_these_tests_is_good():
    recipe = parse_recipe(TEXT)
    assert list(recipe.view_plan) == ["a", "b", "r", "two", "many", "test"]
    assert [relation.name for relation in recipe.relation_plan] == [
        "cross_entropy",
        "similarity",
        "cross_entropy_2",
        "joint_cross_entropy",
        "similarity_2",
        "cross_entropy_3",
    ]
    Step(recipe, 10)


# ---------------------------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-2e+3", -2000.0),
        ("5.e-4", 5e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("0.1", 0.1),
        ("-.inf", float("-inf")),
        ("1_000.5", 1000.5),
    ],
)
def test_floats(text, value):
    read = read_yaml(f"x: {text}")["x"]
    assert type(read) is float
    assert read == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-3", -3),
        ("e5", "e5"),
        ("1e", "1e"),
        ("1e5x", "1e5x"),
        ("'1e-5'", "1e-5"),
        (".", "."),
        ("._", "._"),
        ("1.2.3", "1.2.3"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("crop(32, 1e-5)", "crop(32, 1e-5)"),
    ],
)
def test_what_is_no_float_stays_what_it_is(text, value):
    read = read_yaml(f"x: {text}")["x"]
    assert type(read) is type(value)
    assert read == value


def test_weight_decay_written_with_an_exponent_is_a_number():
    recipe = parse_recipe(TEXT, "train.clip=1e-3", "train.optimizer.weight_decay=5e-4")
    assert recipe.train.clip == 0.001
    assert parse_call(recipe.train.optimizer, "").kwargs["weight_decay"] == 0.0005


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: everything at once", "title: one\ntitle: two", "line 2: key 'title' stands twice; keep one"),
        ("  b: {like: a}", "  b: {like: a}\n  a: {like: b}", "line 6: key 'a' stands twice; keep one"),
        ("b: {like: a}", "b: {like: a, like: a}", "line 5: key 'like' stands twice; keep one"),
        (
            "    z: projector(h, 8)",
            "    z: projector(h, 8)\n    z: mlp(h, 8)",
            "line 16: key 'z' stands twice; keep one",
        ),
        ("  steps: 3", "  steps: 3\n  steps: 4", "line 26: key 'steps' stands twice; keep one"),
    ],
)
def test_a_duplicate_key_is_refused_with_its_line(old, new, message):
    assert refused(old, new) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: everything", "on: everything", "line 1: key True is not text; quote it if it was meant as a name"),
        ("title: everything", "1: everything", "line 1: key 1 is not text; quote it if it was meant as a name"),
        (
            "title: everything",
            "{ title }: everything",
            "line 1: key {'title': None} is not text; quote it if it was meant as a name",
        ),
        ("  b: {like: a}", "  [b]: {like: a}", "line 5: key ['b'] is not text; quote it if it was meant as a name"),
    ],
)
def test_keys_are_text(old, new, message):
    assert refused(old, new) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: everything", "title: [everything", "line 2: not YAML: expected ',' or ']', but got ':'"),
        (
            "title: everything",
            "\ttitle: everything",
            "line 1: not YAML: found character '\\t' that cannot start any token",
        ),
        (
            "title: everything",
            "title: !!python/name:os.system everything",
            "line 1: not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'",
        ),
        ("title: everything at once", "title: &x [*x]", "line 1: not YAML: found unconstructable recursive node"),
        ("title: everything", "title: x\n---\n", "line 2: not YAML: but found another document"),
        (
            "title: everything",
            "title: \x07",
            "not YAML: unacceptable character #x0007: special characters are not allowed",
        ),
        ("title: everything at once", "title: 2020-13-01", "not YAML: month must be in 1..12"),
    ],
)
def test_what_is_not_yaml(old, new, message):
    assert refused(old, new).startswith(message)


@pytest.mark.parametrize("text", ["", "null", "3", "a", "- a\n- b", "# nothing"])
def test_what_is_no_mapping(text):
    assert refused_text(text) == "expected a mapping with views, branches, relations and train"


@pytest.mark.parametrize("key", ["views", "branches", "relations"])
def test_a_missing_section_is_named(key):
    raw = yaml.safe_load(TEXT)
    del raw[key]
    assert refused_text(yaml.safe_dump(raw)) == f"{key}: missing; a recipe has views, branches and relations"


QUOTE = "its brackets do not match; inside [ ] or { } YAML cuts at commas, so quote it there"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "b: {like: a}",
            "b: {from: image, make: pad_crop(16, padding=2)}",
            "views.b: inside { } YAML cuts a call at its commas; quote the call",
        ),
        (
            "b: {like: a}",
            "b: {from: image, make: resize((16, 16))}",
            "views.b: inside { } YAML cuts a call at its commas; quote the call",
        ),
        ("evaluate: [knn(20)]", "evaluate: [knn(20, temperature=0.1)]", f"evaluate.0: cannot read 'knn(20': {QUOTE}"),
        (
            TEXT[TEXT.index("train:") : TEXT.index("\nevaluate:")],
            "train: {steps: 3, optimizer: sgd(lr=0.1)}",
            None,
        ),
        (
            TEXT[TEXT.index("train:") : TEXT.index("\nevaluate:")],
            "train: {steps: 3, optimizer: sgd(lr=0.1, momentum=0.9)}",
            f"train.optimizer: cannot read 'sgd(lr=0.1': {QUOTE}",
        ),
    ],
)
def test_the_comma_of_flow_style(old, new, message):
    if message is None:  # a call without a comma needs no quotes
        assert parse_recipe(TEXT.replace(old, new)).train.optimizer == "sgd(lr=0.1)"
    else:
        assert refused(old, new) == message


# ---------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "title: ",
            "titel: ",
            "titel: unknown key 'titel'; did you mean 'title'? keys: branches, data, evaluate, "
            "relations, seed, title, train, views",
        ),
        (
            "data: {source",
            "data: {sorce",
            "data.sorce: unknown key 'sorce'; did you mean 'source'? keys: source, workers, reduced, … "
            f"(docs/reference.md has all {len(Data.model_fields)})",
        ),
        (
            "  batch_size:",
            "  batchsize:",
            "train.batchsize: unknown key 'batchsize'; did you mean 'batch_size'? keys: "
            f"batch_size, micro_batch, optimizer, … (docs/reference.md has all {len(Train.model_fields)})",
        ),
        (
            "b: {like: a}",
            "b: {lik: a}",
            "views.b.lik: unknown key 'lik'; did you mean 'like'? "
            "keys: alternate, anti, count, from, like, make, orbit, same",
        ),
        (
            "b: {like: a}",
            "b: {form: image}",
            "views.b.form: unknown key 'form'; did you mean 'from'? "
            "keys: alternate, anti, count, from, like, make, orbit, same",
        ),
        (
            "backbone: cresnet20",
            "backbne: cresnet20",
            "branches.net: expected a mapping with a backbone, such as "
            "{backbone: resnet18}; did you mean backbone by 'backbne'?",
        ),
        (
            "normalize: half",
            "normalise: half",
            "branches.net.normalise: was branches.net.normalize meant? unknown head "
            "'half'; heads: dino_head, linear, maps, mlp, pool, predictor, projector",
        ),
        (
            "normalize: half",
            "forwrd: separate",
            "branches.net.forwrd: was branches.net.forward meant? unknown head "
            "'separate'; heads: dino_head, linear, maps, mlp, pool, predictor, projector",
        ),
    ],
)
def test_unknown_keys_at_every_level(old, new, message):
    assert refused(old, new) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("title=", "title: expected text, got None"),
        ("seed=-1", "seed: expected at least 0, got -1"),
        ("seed=true", "seed: expected a whole number, got True"),
        ("seed=1.5", "seed: expected a whole number, got 1.5"),
        ("data=digits", "data: expected a mapping, key: value, got 'digits'; write data.source=digits"),
        ("data.source=", "data.source: expected text, got None"),
        ("data.val_fraction=1", "data.val_fraction: expected a number below 1, got 1"),
        ("data.val_fraction=-0.1", "data.val_fraction: expected at least 0, got -0.1"),
        ("data.labels_per_class=0", "data.labels_per_class: expected at least 1, got 0"),
        ("data.imbalance=0.5", "data.imbalance: expected at least 1, got 0.5"),
        ("data.limit=0", "data.limit: expected at least 1, got 0"),
        ("data.download=3", "data.download: expected true or false, got 3"),
        ("data.workers=-1", "data.workers: expected at least 0, got -1"),
        ("data.on_bad_image=ignore", "data.on_bad_image: expected 'raise' or 'skip', got 'ignore'"),
        ("data.render=gpu", "data.render: expected 'auto', 'workers', 'memory' or 'device', got 'gpu'"),
        ("train=3", "train: expected a mapping, key: value, got 3"),
        ("train.batch_size=0", "train.batch_size: expected at least 1, got 0"),
        ("train.batch_size=true", "train.batch_size: expected a whole number, got True"),
        ("train.batch_size=16.5", "train.batch_size: expected a whole number, got 16.5"),
        ("train.batch_size=many", "train.batch_size: expected a whole number, got 'many'"),
        ("train.epochs=0", "train.epochs: expected at least 1, got 0"),
        ("train.steps=-5", "train.steps: expected at least 1, got -5"),
        ("train.precision=fp16", "train.precision: expected 'fp32' or 'bf16', got 'fp16'"),
        ("train.accumulate=0", "train.accumulate: expected at least 1, got 0"),
        ("train.accumulate=3", "train.accumulate: 3 does not divide batch_size 16"),
        ("train.clip=0", "train.clip: expected a number above 0, got 0"),
        ("train.clip=a", "train.clip: expected a number, got 'a'"),
        ("train.ema=1", "train.ema: expected a number below 1, got 1"),
        ("train.compile=1", "train.compile: expected true or false, got 1"),
        ("train.evaluate_every=0", "train.evaluate_every: expected at least 1, got 0"),
        ("train.log_every=0", "train.log_every: expected at least 1, got 0"),
        ("train.checkpoint_every=2", "train: checkpoint_every is written '10 epochs' or '500 steps', got '2'"),
        (
            "train.checkpoint_every=2 days",
            "train: checkpoint_every is written '10 epochs' or '500 steps', got '2 days'",
        ),
        ("train.checkpoint_every=0 steps", "train: checkpoint_every must be at least one step"),
        ("views=", "views: expected a mapping, key: value, got None"),
        ("views={}", "views: at least one view is needed, such as a: {from: image, make: flip(0.5)}"),
        ("views.b=flip(0.5)", "views.b: expected a mapping, key: value, got 'flip(0.5)'"),
        ("views.b={}", "views.b: give 'from' (image, unlabeled, or a view above) or 'like'"),
        ("views.many.count=0", "views.many.count: expected at least 1, got 0"),
        ("views.many.count=true", "views.many.count: expected a whole number, got True"),
        ("views.b.same=flip", "views.b.same: expected a list, [one, two], got 'flip'; write 'views.b.same=[flip]'"),
        ("branches=resnet18", "branches: expected a mapping, key: value, got 'resnet18'"),
        ("branches={}", "branches: at least one branch is needed, such as net: {backbone: resnet18}"),
        (
            "branches.net=cresnet20",
            "branches.net: expected a mapping with a backbone, such as {backbone: resnet18}, or ema(online) or "
            "frozen('runs/x'); got 'cresnet20'",
        ),
        ("branches.net.forward=split", "branches.net.forward: unknown way 'split'; ways: joint, separate"),
        (
            "branches.net.normalize=cifar",
            "branches.net.normalize: unknown normalisation 'cifar'; did you mean 'cifar10'? "
            "normalisations: cifar10, cifar100, half, imagenet, none",
        ),
        ("branches.net.normalize=3", "branches.net.normalize: expected a name or [[means], [stds]], got 3"),
        (
            "branches.net.normalize=[[0.5, 0.5], [1, 1]]",
            "branches.net.normalize: expected 3 means and 3 positive stds, one a channel, got [[0.5, 0.5], [1, 1]]",
        ),
        (
            "branches.net.normalize=[[0, 0, 0], [1, 1, 0]]",
            "branches.net.normalize: expected 3 means and 3 positive stds, one a channel, got [[0, 0, 0], [1, 1, 0]]",
        ),
        (
            "relations=cross_entropy(logits(a))",
            "relations: expected a list, [one, two], got 'cross_entropy(logits(a))'; "
            "write 'relations=[cross_entropy(logits(a))]'",
        ),
        ("relations=[]", "relations: at least one relation is needed, such as cross_entropy(logits(a))"),
        ("relations=[3]", "relations.0: expected text, got 3"),
        ("evaluate=knn", "evaluate: expected a list, [one, two], got 'knn'; write 'evaluate=[knn]'"),
    ],
)
def test_every_value_is_checked(override, message):
    assert refused_text(TEXT, override) == message


def test_a_source_that_does_not_exist_is_refused_before_data_is_opened():
    message = refused("source: digits", "source: digit", DataError)
    assert message.startswith("data.source: unknown source 'digit'; did you mean 'digits'? sources: digits, ")
    message = refused("{source: digits}", "{source: digits(8)}", DataError)
    assert message.startswith("data.source: ")
    assert "write digits()" in message


# --------------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("{like: r}", "views.b.like: 'r' is declared below; a view derives from one above it"),
        ("{like: c}", "views.b.like: unknown view 'c'; views: a, image"),
        ("{from: r.0}", "views.b.from: 'r' is declared below; a view derives from one above it"),
        ("{from: c}", "views.b.from: unknown view 'c'; views: a, image"),
        ("{from: a.0}", "views.b.from: 'a' is a single view and has no member 'a.0'"),
        ("{like: a, make: flip}", "views.b: 'like' takes its ops from a; drop make, orbit and count"),
        ("{from: image, orbit: rotation, count: 2}", "views.b: an orbit fixes the number of its members; drop count"),
        (
            "{from: image, orbit: turn}",
            "views.b.orbit: unknown orbit 'turn'; orbits: color_perm, color_perm3, "
            "rot_color_perm12, rot_color_perm24, rot_color_perm6, rotation, rotation2",
        ),
        ('{from: image, make: "crp(16)"}', "views.b.make: unknown op 'crp'; did you mean 'crop'? ops: "),
        ('{from: image, make: "flip(1.5)"}', "views.b.make: flip(1.5): p must be a probability in [0, 1], got 1.5"),
        (
            '{from: image, make: "flip(p=-0.1)"}',
            "views.b.make: flip(p=-0.1): p must be a probability in [0, 1], got -0.1",
        ),
        ('{from: image, make: "jitter(p=2)"}', "views.b.make: jitter(p=2): p must be a probability in [0, 1], got 2"),
        ('{from: image, make: "flip(prob=1)"}', "views.b.make: flip: unknown argument 'prob'; "),
        ('{from: image, make: "crop()"}', "views.b.make: crop(): missing a required argument: 'size'; arguments: "),
        (
            '{from: image, make: "flip(0.5, 1)"}',
            "views.b.make: flip(0.5, 1): too many positional arguments; arguments: p",
        ),
        ('{from: image, make: "flip(0.5) |"}', "views.b.make: cannot read 'flip(0.5) |': "),
        ('{from: image, make: "flip(0.5) + flip(0.5)"}', "views.b.make: "),
        ("{like: a, same: [flip]}", "views.b.same: view 'b' has no op 'flip'; ops: resize, pad_crop, randaugment"),
        ("{like: a, same: [c.flip]}", "views.b.same: unknown view 'c'; views: a"),
    ],
)
def test_views_are_checked(new, message):
    assert refused("b: {like: a}", f"b: {new}").startswith(message)


@pytest.mark.parametrize("name", ["b-2", "image", "2b", "b.c"])
def test_names_of_views(name):
    message = refused("  b: {like: a}", f'  "{name}": {{like: a}}')
    assert message == f"views.{name}: a view's name is a word other than 'image', got '{name}'"


def test_a_family_is_no_source_but_its_members_are():
    old = "many: {from: a, make: flip(0.5), count: 3}"
    assert refused(old, "many: {from: r}") == "views.many.from: 'r' is a family of 4; name a member, as in r.0"
    assert refused(old, "many: {from: r.4}") == "views.many.from: 'r' has members r.0 to r.3, not 'r.4'"
    assert parse_recipe(TEXT.replace(old, "many: {from: r.3}")).view_plan["many"].source == "r.3"


@pytest.mark.parametrize("spec", ["{from: a}", "{from: image, make: flip(0.5)}", "{from: image, orbit: rotation}"])
def test_the_test_view_draws_nothing(spec):
    message = refused("test: {from: image, make: resize(16)}", f"test: {spec}")
    assert message == "views.test: the test view draws nothing; make it from image with resize and center_crop"


# ------------------------------------------------------------------------------------------------------------ branches


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (
            "projectr(h, 8)",
            "branches.net.z: unknown head 'projectr'; did you mean 'projector'? heads: dino_head, linear, maps, mlp, "
            "pool, predictor, projector",
        ),
        ("projector(8)", "branches.net.z: a head first names what it reads, as in projector(h), got projector(8)"),
        ("projector", "branches.net.z: a head first names what it reads, as in projector(h), got projector()"),
        ("projector(q, 8)", "branches.net.z: unknown readout 'q'; readouts: h, joint"),
        ("projector(z, 8)", "branches.net.z: unknown readout 'z'; readouts: h, joint"),
        ("3", "branches.net.z: expected a call such as name(…), got 3"),
        ("pool(layer2)", "branches.net.z: write the layer's name in quotes, as in pool('layer2'), got pool(layer2)"),
    ],
)
def test_heads_are_checked(new, message):
    assert refused("z: projector(h, 8)", f"z: {new}") == message


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("projector(h, 0)", "branches.net.z: projector(0): width must be a whole number of at least 1, got 0"),
        ("projector(h, 8, layers=0)", "branches.net.z: projector(8, layers=0): layers must be a whole number of at "),
        (
            "projector(h, 8, depth=2)",
            "branches.net.z: projector: unknown argument 'depth'; arguments: affine, hidden, ",
        ),
        ("projector(h)", "branches.net.z: projector(): missing a required argument: 'out'; arguments: out, hidden, "),
        ("projector(h, 8, affine=1)", "branches.net.z: projector(8, affine=1): affine must be True or False, got 1"),
        (
            "projector(h, 8, layers=10000)",
            "branches.net.z: projector(8, layers=10000): layers must be at most 256, got ",
        ),
        ("projector(h, 10**12)", "branches.net.z: '10 ** 12' in 'projector(h, 10**12)' is neither a literal, a name "),
        ("projector(h, 1000000000000)", "branches.net.z: projector(1000000000000): width must be at most 262,144, "),
        ("linear(h, orbit=a)", "branches.net.z: orbit= names a family of views, got a; families: ['r', 'two', 'many']"),
        ("linear(h, 8, orbit=r)", "branches.net.z: linear(8): orbit= fixes the number of columns; drop the other one"),
    ],
)
def test_arguments_of_heads_are_checked_whether_they_are_read_or_not(new, message):
    assert refused("z: projector(h, 8)", f"z: {new}").startswith(message)
    assert refused("    q: mlp(z, 4, 8)\n", f"    q: mlp(z, 4, 8)\n    more: {new}\n").startswith(
        message.replace("net.z", "net.more")
    )


def test_layers_of_the_backbone_are_known_when_it_is_built():
    message = refused("z: projector(h, 8)", "z: pool('layer9')", build=True)
    assert message.startswith("branches.net.z: unknown layer 'layer9'; did you mean ")


def test_h_cannot_name_a_head():
    message = refused("z: projector(h, 8)", "h: projector(h, 8)")
    assert message == "branches.net.h: 'h' cannot name a head; h is the backbone's feature"


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("cresnet21", "branches.net.backbone: unknown backbone 'cresnet21'; did you mean cresnet"),
        ("restnet18", "branches.net.backbone: unknown backbone 'restnet18'; did you mean resnet18"),
        ("zzzzzzz", "branches.net.backbone: unknown backbone 'zzzzzzz'; timm.list_models() has them all"),
        ("cresnet20(num_classes=5)", "branches.net.backbone: the classifier is the head `logits: linear(h)`; drop "),
        ("cresnet20(10)", "branches.net.backbone: write arguments of a backbone by name, as in cresnet20(small=True)"),
        ("cresnet20(wide=3)", "branches.net.backbone: cresnet20(wide=3): cresnet20 takes no argument 'wide'"),
        (
            "resnet18(drop_pth_rate=0.1)",
            "branches.net.backbone: resnet18(drop_pth_rate=0.1): resnet18 takes no argument 'drop_pth_rate'; "
            "did you mean drop_path_rate",
        ),
        ("resnet18(small=1)", "branches.net.backbone: small must be True or False, got 1"),
    ],
)
def test_backbones_are_checked(new, message):
    assert refused("backbone: cresnet20", f"backbone: {new}").startswith(message)


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18(drop_path_rate=0.1, output_stride=16)",
        "vit_tiny_patch16_224(img_size=32, depth=1)",
        "convnext_atto(use_grn=True)",
        "wrn28_2(block_drop_rate=0.3)",
        "efficientnet_b0(drop_rate=0.2)",
        "regnetx_002(zero_init_last=False)",
    ],
)
def test_what_timm_takes_is_not_refused(backbone):
    parse_recipe(TEXT.replace("backbone: cresnet20", f"backbone: {backbone}"))


def test_a_stem_that_the_backbone_lacks_is_known_when_it_is_built():
    message = refused("backbone: cresnet20", "backbone: cresnet20(small=True)", build=True)
    assert message.startswith("branches.net.backbone: cresnet20(small=True): small_stem: 'cresnet20' has no 7x7 ")


# ----------------------------------------------------------------------------------------------------------- relations

ALL_RELATIONS = f"… (docs/reference.md has all {len(RELATIONS)})"
SCHEDULES = "weight schedules: alternating, constant, linear, random, random_sign, warmup"


def with_relation(line: str) -> str:
    return TEXT.replace("  - cross_entropy(logits(r))\n", f"  - {line}\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "crossentropy(logits(a))",
            "unknown relation 'crossentropy'; did you mean 'cross_entropy'? relations: cross_entropy, "
            f"orbit_cross_entropy, joint_cross_entropy, {ALL_RELATIONS}",
        ),
        (
            "fixmatch(logits(a), toward=stop(logits(b)))",
            f"unknown relation 'fixmatch'; relations: similarity, agmax, vicreg, {ALL_RELATIONS}"
            "; words of your own come with --use FILE.py",
        ),
        (
            "cross_entropy(logit(a))",
            "unknown readout 'logit'; did you mean 'logits'? readouts: aggregate, h, joint, logits, mix, q, stop, z",
        ),
        ("similarity(p(a), p(b))", "unknown readout 'p'; readouts: aggregate, h, joint, logits, mix, q, stop, z"),
        ("cross_entropy(logits(c))", "unknown view 'c'; views: a, b, many, r, two"),
        ("cross_entropy(logits(test))", "unknown view 'test'; views: a, b, many, r, two"),
        ("cross_entropy(logits(a.0))", "'a' is a single view and has no member 'a.0'"),
        ("cross_entropy(logits(r.4))", "'r' has members r.0 to r.3, not 'r.4'"),
        ("cross_entropy(logits(many.3))", "'many' has members many.0 to many.2, not 'many.3'"),
        ("cross_entropy(nt.logits(a))", "unknown branch 'nt'; did you mean 'net'? branches: net"),
        ("cross_entropy(net.p(a))", "unknown readout 'net.p'; readouts: aggregate, h, joint, logits, mix, q, stop, z"),
        ("cross_entropy(logits)", "expected a readout such as h(a), got logits"),
        ("cross_entropy(0.5)", "expected a readout such as h(a), got 0.5"),
        ("cross_entropy(logits(a, b))", "a readout takes one view, as in logits(a), got logits(a, b)"),
        ("cross_entropy(logits('a'))", "a readout takes one view, as in logits(a), got logits('a')"),
        ("cross_entropy(stop(logits(a), logits(b)))", "stop takes one readout, got stop(logits(a), logits(b))"),
        ("similarity(h(a), h(b), kind=mse)", "similarity: put quotes round kind='mse'"),
        (
            "similarity(h(a))",
            "similarity(h(a)): missing a required argument: 'b'; arguments: a, b, kind, where, threshold",
        ),
        (
            "similarity(h(a), h(b), h(r.0))",
            "similarity(h(a), h(b), h(r.0)): too many positional arguments; arguments: a, b, kind, where, threshold",
        ),
        (
            "similarity(h(a), h(b), knd='mse')",
            "similarity: unknown argument 'knd'; did you mean 'kind'? arguments: a, b, kind, threshold, where",
        ),
        ("similarity(h(a), h(b), kind=h(a))", "similarity: kind is a plain value, got h(a)"),
        ("distill(logits(a), toward=3)", "distill: toward is a readout such as h(a), got 3"),
        (
            "distill(logits(a))",
            "distill(logits(a)): missing a required argument: 'toward'; arguments: student, toward, temperature",
        ),
        (
            "cross_entropy(logits(a), weight=1e999)",
            "'1e309' in 'cross_entropy(logits(a), weight=1e999)' is neither a literal, a name nor a call; "
            "recipes have no expressions",
        ),
        ("cross_entropy(logits(a), weight='2')", "weight is a number or a schedule such as warmup(20), got '2'"),
        ("cross_entropy(logits(a), weight=True)", "weight is a number or a schedule such as warmup(20), got True"),
        ("cross_entropy(logits(a), weight=warmup)", "weight is a number or a schedule such as warmup(20), got warmup"),
        (
            "cross_entropy(logits(a), weight=warm(2))",
            f"unknown weight schedule 'warm'; did you mean 'warmup'? {SCHEDULES}",
        ),
        ("cross_entropy(logits(a)", f"cannot read 'cross_entropy(logits(a)': {QUOTE}"),
        (
            "cross_entropy(logits(a) + logits(b))",
            "'logits(a) + logits(b)' in 'cross_entropy(logits(a) + logits(b))' is "
            "neither a literal, a name nor a call; recipes have no expressions",
        ),
    ],
)
def test_relations_are_checked(line, message):
    assert refused_text(with_relation(line)) == f"relations.2: {message}"


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            "warmup(2, fraction=0)",
            "relations.2.weight: warmup(2, fraction=0): warmup's fraction must be in (0, 1], got 0",
        ),
        ("warmup(2, frac=0.1)", "relations.2.weight: warmup: unknown argument 'frac'; did you mean 'fraction'? "),
        ("linear('x')", "relations.2.weight: linear('x'): "),
    ],
)
def test_schedules_of_weights_are_checked(weight, message):
    assert refused_text(with_relation(f"cross_entropy(logits(a), weight={weight})")).startswith(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cross_entropy()", "cross_entropy needs at least one readout, as in cross_entropy(logits(a))"),
        ("cross_entropy(logits(a), smoothing=1)", "smoothing must be in [0, 1), got 1"),
        (
            "similarity(h(a), h(b), kind='cos')",
            "unknown kind of similarity 'cos'; did you mean 'cosine'? kinds: cka, "
            "cosine, cosine_l2_norm, l2_norm, mae, mse, vicreg",
        ),
        (
            "jensen_shannon(logits(a))",
            "jensen_shannon compares two or more readouts, as in jensen_shannon(logits(a), logits(b))",
        ),
        ("joint_cross_entropy(joint(r), reduction='max')", "reduction must be 'mean' or 'sum', got 'max'"),
        ("distill(logits(a), toward=logits(b), temperature=0)", "temperature must be positive, got 0"),
        ("agmax(logits(a), logits(b), hidden=0)", "hidden must be at least 1, got 0"),
        (
            "agreement(logits(a), logits(b), kind='js')",
            "unknown kind of agreement 'js'; kinds: ce, kl, mse, probabilities",
        ),
        (
            "info_nce(z(a), toward=stop(z(b)), queue=1000000000000)",
            "queue must be at most 1,048,576, got 1000000000000",
        ),
        ("info_nce(z(a), toward=stop(q(r)), queue=0)", "queue must be a whole number of at least 1, got 0"),
        ("swav(z(a), z(b), iterations=100000)", "iterations must be at most 1,000, got 100000"),
        ("swav(z(a), h(b), prototypes=0)", "prototypes must be a whole number of at least 1, got 0"),
        ("nt_xent(z(r), z(r), chunk=0)", "chunk must be a whole number of at least 1, got 0"),
        ("vicreg(z(a), h(b), variance=-1)", "variance must be a number of at least 0, got -1"),
        ("agmax(logits(a), logits(b), hidden=1000000000000)", "hidden must be at most 262,144, got 1000000000000"),
        ("augself(h(a), h(b), crop=0)", "crop: a weight is a positive number, got 0; leave a kind out to drop it"),
        (
            "augself(h(a), h(b), crop=1, color=1)",
            "color: the view of h(a) needs one jitter among its own ops, has none; ops: resize, pad_crop, randaugment",
        ),
    ],
)
def test_arguments_of_relations_are_checked(line, message):
    """Whatever their readouts are, whose columns a step alone knows."""
    assert refused_text(with_relation(line)) == f"relations.2: {line}: {message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cross_entropy(z(a))", "z(a) has 8 columns where 10 are needed; change its head"),
        ("similarity(h(a), logits(b))", "h(a) has 64 columns and logits(b) has 10; relate readouts of the same width"),
        (
            "similarity(h(a), h(r))",
            "h(a) has 1 row an image and h(r) has 4; relate views with the same number of members",
        ),
        (
            "similarity(h(many), h(r))",
            "h(many) has 3 rows an image and h(r) has 4; relate views with the same number of members",
        ),
        ("joint_cross_entropy(joint(two))", "head 'joint' tells 4 members of 'r' apart, but 'two' has 2"),
        ("joint_cross_entropy(joint(many))", "head 'joint' tells 4 members of 'r' apart, but 'many' has 3"),
        ("joint_cross_entropy(joint(a))", "head 'joint' tells 4 members of 'r' apart, but 'a' has 1"),
        ("joint_cross_entropy(joint(r.0))", "joint(r.0) has 40 columns where 10 are needed; change its head"),
        ("joint_cross_entropy(logits(r))", "logits(r) has 10 columns where 40 are needed; change its head"),
        ("orbit_cross_entropy(z(r))", "z(r) has 8 columns where 4 are needed; change its head"),
        (
            "distill(logits(a), toward=stop(logits(r)))",
            "logits(a) has 1 row an image and stop(logits(r)) has 4; relate views with the same number of members",
        ),
        (
            "distill(logits(a), toward=stop(aggregate(logits(r))))",
            "aggregate needs joint logits of a family, a column a "
            "class and member; logits(r) has 10 columns for 4 members",
        ),
    ],
)
def test_readouts_must_fit_their_relation(line, message):
    assert refused_text(with_relation(line), build=True) == f"relations.2: {line}: {message}"


def test_a_readout_of_two_branches_must_say_whose():
    text = TEXT.replace("relations:\n", "  other: {backbone: cresnet20}\nrelations:\n")
    assert refused_text(text) == "relations.0: say whose logits, as in net.logits(a); 2 branches have it"


# ---------------------------------------------------------------------------------------------------- train, evaluate


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.optimizer=sgdd(lr=0.1)", "train.optimizer: unknown optimizer 'sgdd'; did you mean 'sgd'? optimizers: "),
        ("train.optimizer=sgd(0.1)", "train.optimizer: write arguments by name, as in sgd(lr=0.1), got sgd(0.1)"),
        (
            "train.optimizer=sgd(lrr=0.1)",
            "train.optimizer: sgd: unknown argument 'lrr'; did you mean 'lr'? arguments: ",
        ),
        ("train.optimizer=sgd(lr=-0.1)", "train.optimizer: lr must be a number of at least 0, got -0.1"),
        ("train.optimizer=sgd(lr=1.0, momentum='x')", "train.optimizer: sgd: momentum must be a number, got 'x'"),
        ("train.optimizer=sgd(lr=1.0, momentum=-1)", "train.optimizer: sgd(lr=1.0, momentum=-1): "),
        ("train.optimizer=sgd(lr=1.0, nesterov='x')", "train.optimizer: sgd: nesterov must be True or False, got 'x'"),
        ("train.optimizer=sgd(lr=1.0, dampening='x')", "train.optimizer: sgd: dampening must be a number, got 'x'"),
        ("train.optimizer=adamw(lr=1.0, betas=0.9)", "train.optimizer: adamw: betas must be 2 numbers, got 0.9"),
        ("train.optimizer=lars(lr=1.0, trust_coeff='x')", "train.optimizer: lars: trust_coeff must be a number, got "),
        ("train.optimizer=adamw(lr=1.0, betas=(2, 3))", "train.optimizer: adamw(lr=1.0, betas=(2, 3)): "),
        ("train.optimizer=adafactor()", "train.optimizer: adafactor(): give the learning rate, as in adafactor(lr="),
        (
            "train.optimizer=sgd(lr=1.0, constant='p')",
            "train.optimizer: unknown part 'p'; parts: ",
        ),
        (
            "train.optimizer=\"sgd(lr=1.0, scale={'net.backbon': 2})\"",
            "train.optimizer: unknown part 'net.backbon'; did you ",
        ),
        ("train.optimizer=sgd(lr=0.1", f"train.optimizer: cannot read 'sgd(lr=0.1': {QUOTE}"),
        ("train.optimizer.lr=fast", "train.optimizer: lr must be a number of at least 0, got 'fast'"),
        (
            "train.schedule=cosin()",
            "train.schedule: unknown schedule 'cosin'; did you mean 'cosine'? schedules: constant, ",
        ),
        ("train.schedule=cosine(wup=1)", "train.schedule: cosine: unknown argument 'wup'; did you mean 'warmup'? "),
        (
            "train.schedule=cosine(5)",
            "train.schedule: cosine(5): warmup is '10 epochs', '500 steps', or a fraction of ",
        ),
        (
            "train.schedule=cosine(warmup='5 days')",
            "train.schedule: cosine(warmup='5 days'): warmup is written '10 epochs' ",
        ),
        (
            "train.schedule=multistep()",
            "train.schedule: multistep(): missing a required argument: 'at'; arguments: at, ",
        ),
        (
            "train.schedule=multistep(at=[30])",
            "train.schedule: multistep(at=[30]): at is '10 epochs', '500 steps', or a ",
        ),
        ("train.schedule=cosine(clock=1)", "train.schedule: cosine: unknown argument 'clock'; arguments: "),
    ],
)
def test_optimizers_and_schedules_are_checked(override, message):
    assert refused_text(TEXT, override).startswith(message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "knnn(k=3)",
            f"unknown protocol 'knnn'; did you mean 'knn'? protocols: knn, finetune, invariance, … "
            f"(docs/reference.md has all {len(PROTOCOLS)})",
        ),
        (
            "linear(metric='top2')",
            "linear(metric='top2'): unknown metric 'top2'; did you mean 'top1'? metrics: class_mean, top1",
        ),
        ("knn(k=0)", "knn(k=0): k must be a whole number of at least 1, got 0"),
        ("knn(k=2.5)", "knn(k=2.5): k must be a whole number of at least 1, got 2.5"),
        ("knn(temperature=0)", "knn(temperature=0): temperature must be positive, got 0"),
        ("knn(n=3)", "knn: unknown argument 'n'; did you mean 'k'? arguments: k, temperature"),
        ("classify(3)", "classify(3): too many positional arguments; arguments: none"),
    ],
)
def test_protocols_are_checked(call, message):
    got = refused("evaluate: [knn(20)]", f"evaluate: [classify, {call}]")
    assert got.replace("; did you mean 'k'?", ";") == f"evaluate.1: {message}".replace("; did you mean 'k'?", ";")


ONCE = "train: give the length of the run once, as epochs or as steps"


def test_the_length_is_given_once():
    assert refused("  steps: 3", "  steps: 3\n  epochs: 2") == ONCE
    assert refused("  steps: 3\n", "") == ONCE
    assert refused_text(TEXT, "train.steps=3", "train.epochs=2") == ONCE
    assert refused_text(TEXT, "train.epochs=2", "train.steps=3") == ONCE
    assert refused_text(TEXT, "train.steps=") == ONCE


def test_an_override_of_the_length_takes_the_place_of_the_other_unit():
    train = parse_recipe(TEXT, "train.epochs=2").train
    assert (train.epochs, train.steps) == (2, None)
    train = parse_recipe(TEXT.replace("steps: 3", "epochs: 2"), "train.steps=7").train
    assert (train.epochs, train.steps) == (None, 7)
    train = parse_recipe(TEXT, "train.steps=9").train
    assert (train.epochs, train.steps) == (None, 9)


# ----------------------------------------------------------------------------------------------------------- overrides


def at(recipe: Recipe, path: str):
    """The value at a dotted path of the recipe as plain data."""
    value = recipe.model_dump(by_alias=True)
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else value[part]
    return value


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("title=a = b", "title", "a = b"),
        (" seed = 7 ", "seed", 7),
        ("train.clip=1e-1", "train.clip", 0.1),
        ("data.val_fraction=0.2", "data.val_fraction", 0.2),
        ("data.root=some/where", "data.root", "some/where"),
        ("train.compile=true", "train.compile", True),
        ("evaluate=[]", "evaluate", ()),
        ("evaluate=[classify, knn(k=3)]", "evaluate", ("classify", "knn(k=3)")),
        ("relations.0=cross_entropy(logits(a))", "relations.0", "cross_entropy(logits(a))"),
        ("views.a.make=resize(8)", "views.a.make", "resize(8)"),
        ("branches.net.normalize=[[0.1, 0.2, 0.3], [1, 1, 1]]", "branches.net.normalize", [[0.1, 0.2, 0.3], [1, 1, 1]]),
        ("branches.net.forward=separate", "branches.net.forward", "separate"),
        # into calls, by keyword
        ("train.optimizer.lr=0.05", "train.optimizer", "sgd(lr=0.05, momentum=0.9)"),
        ("train.optimizer.weight_decay=1e-4", "train.optimizer", "sgd(lr=0.1, momentum=0.9, weight_decay=0.0001)"),
        ("train.optimizer.nesterov=true", "train.optimizer", "sgd(lr=0.1, momentum=0.9, nesterov=True)"),
        ("relations.similarity.weight=2", "relations.1", "similarity(h(a), h(b), kind='mse', weight=2)"),
        ("relations.1.weight=3", "relations.1", "similarity(h(a), h(b), kind='mse', weight=3)"),
        ("relations.similarity.kind=cka", "relations.1", "similarity(h(a), h(b), kind='cka', weight=1)"),
        ("relations.cross_entropy.smoothing=0.1", "relations.0", "cross_entropy(logits(a), logits(b), smoothing=0.1)"),
        ("relations.cross_entropy_2.weight=2", "relations.2", "cross_entropy(logits(r), weight=2)"),
        ("relations.cross_entropy_3.weight=2", "relations.5", "cross_entropy(logits(r.0), weight=2)"),
        ("relations.similarity_2.kind=mae", "relations.4", "similarity(z(a), q(b), kind='mae')"),
        (
            "relations.similarity.weight=warmup(5)",
            "relations.1",
            "similarity(h(a), h(b), kind='mse', weight=warmup(5))",
        ),
        (
            "relations.similarity.weight=warmup(5, fraction=0.5)",
            "relations.1",
            "similarity(h(a), h(b), kind='mse', weight=warmup(5, fraction=0.5))",
        ),
        ("branches.net.joint.orbit=two", "branches.net.joint", "linear(h, orbit=two)"),
        ("branches.net.q.layers=3", "branches.net.q", "mlp(z, 4, 8, layers=3)"),
        # into calls, by position
        ("views.a.make.randaugment.m=3", "views.a.make", "resize(16) | pad_crop(16, padding=2) | randaugment(2, 3)"),
        ("views.a.make.randaugment.n=1", "views.a.make", "resize(16) | pad_crop(16, padding=2) | randaugment(1, 9)"),
        ("views.a.make.pad_crop.padding=4", "views.a.make", "resize(16) | pad_crop(16, padding=4) | randaugment(2, 9)"),
        (
            "views.a.make.resize.size=[16, 16]",
            "views.a.make",
            "resize((16, 16)) | pad_crop(16, padding=2) | randaugment(2, 9)",
        ),
        (
            "views.a.make.resize.size=(16, 16)",
            "views.a.make",
            "resize((16, 16)) | pad_crop(16, padding=2) | randaugment(2, 9)",
        ),
        ("views.many.make.p=0.25", "views.many.make", "flip(0.25)"),
        ("views.many.make.flip.p=0.25", "views.many.make", "flip(0.25)"),
        ("branches.net.z.out=4", "branches.net.z", "projector(h, 4)"),
        ("branches.net.z.hidden=4", "branches.net.z", "projector(h, 8, hidden=4)"),
        ("branches.net.q.out=9", "branches.net.q", "mlp(z, 4, 9)"),
        ("train.schedule.warmup=2 steps", "train.schedule", "cosine('2 steps')"),
        ("train.schedule.floor=0.01", "train.schedule", "cosine('1 steps', floor=0.01)"),
        ("evaluate.knn.k=5", "evaluate.0", "knn(5)"),
        ("evaluate.0.temperature=0.5", "evaluate.0", "knn(20, temperature=0.5)"),
    ],
)
def test_an_override_changes_its_value_and_nothing_else(override, path, value):
    before, after = parse_recipe(TEXT), parse_recipe(TEXT, override)
    assert at(after, path) == value
    changed = [line.partition(":")[0] for line in difference(before, after)]
    assert changed, "the override changed nothing"
    assert all(key.startswith(path) for key in changed)


def test_an_override_may_be_a_mapping():
    recipe = parse_recipe(TEXT, "views.b={from: image, make: flip}", "views.c={like: b}")
    assert recipe.views["b"].model_dump(by_alias=True, exclude_defaults=True) == {"from": "image", "make": "flip"}
    assert recipe.view_plan["c"].ops[0].op == recipe.view_plan["b"].ops[0].op
    two = parse_recipe(TEXT, "branches.one={backbone: resnet18}", "relations=['similarity(net.h(a), one.h(b))']")
    assert list(two.branch_plan) == ["net", "one"]
    assert [read.branch for read in two.relation_plan[0].all_reads] == ["net", "one"]


@pytest.mark.parametrize(
    "written",
    [
        "2024",
        "true",
        "1e5",
        "007",
        "off",
        "2024-01-01",
        "1:30",
        "0x1F",
        "1_000",
        "a: b",
        "[x]",
        "x #y",
        "@x",
        "it's",
        "a=b",
    ],
)
def test_text_stays_text(written):
    """What YAML would read as a number, a date, a truth or a list is the folder or title that was written."""
    recipe = parse_recipe(TEXT, f"data.root={written}", f"title= {written} ")
    assert (recipe.data.root, recipe.title) == (written, written)
    assert parse_recipe(recipe.to_yaml()) == recipe
    if written not in ("a: b", "[x]", "x #y", "@x"):  # which a file must quote
        inside = parse_recipe(TEXT.replace("{source: digits}", f"{{source: digits, root: {written}}}"))
        assert inside.data.root == written
    for quoted in (f'"{written}"', "'" + written.replace("'", "''") + "'"):
        assert parse_recipe(TEXT, f"data.root={quoted}").data.root == written


def test_text_stays_text_inside_calls():
    recipe = parse_recipe(TEXT, "data.source=hf", "data.source.image=2024", "data.source.val=true", "data.source.test=")
    assert recipe.data.call.kwargs == {"image": "2024", "val": "true", "test": None}
    by_position = parse_recipe(TEXT, "data.source=hf('img')", "data.source.image=1e5")
    assert by_position.data.call.args == ("1e5",)
    transfer = parse_recipe(TEXT, "evaluate=[\"transfer(root='x')\"]", "evaluate.transfer.root=2024")
    assert transfer.evaluate == ("transfer(root='2024')",)
    several = parse_recipe(TEXT, "data.source=folder", "data.source.ignore=[2024, masks]")
    assert several.data.call.kwargs == {"ignore": ("2024", "masks")}
    assert parse_recipe(TEXT, "data.source=folder", "data.source.ignore=2024").data.call.kwargs == {"ignore": "2024"}
    assert parse_recipe(TEXT, "data={root: 2024, limit: 5}").data.root == "2024"
    assert parse_recipe(TEXT, "views.a.make.randaugment.m=3").views["a"].make.endswith("randaugment(2, 3)")


def test_a_folder_whose_name_is_no_text_stays_itself():
    recipe = parse_recipe(TEXT, "data.root=caf\udce9")
    assert recipe.data.root == "caf\udce9"
    assert parse_recipe(recipe.to_yaml().encode().decode()) == recipe


@pytest.mark.parametrize("nothing", ["null", "", "~", " "])
def test_an_override_may_be_nothing(nothing):
    text = TEXT.replace("train:\n", "train:\n  clip: 2.5\n")
    assert parse_recipe(text).train.clip == 2.5
    assert parse_recipe(text, f"train.clip={nothing}").train.clip is None
    assert parse_recipe(TEXT, f"views.many.make={nothing}").view_plan["many"].ops == ()


def test_small_stem_by_override():
    recipe = parse_recipe(TEXT, "branches.net.backbone=resnet18", "branches.net.backbone.small=true")
    assert recipe.branches["net"]["backbone"] == "resnet18(small=True)"
    assert Step(recipe, 10).main.backbone.conv1.kernel_size == (3, 3)


def test_overrides_apply_in_order():
    recipe = parse_recipe(TEXT, "train.optimizer=adamw(lr=1)", "train.optimizer.lr=2", "train.optimizer.lr=3")
    assert recipe.train.optimizer == "adamw(lr=3)"


@pytest.mark.parametrize("data", ["", "data: {root: x}\n"])
def test_an_override_reaches_into_a_default(data):
    text = data + TEXT.replace("data: {source: digits}\n", "")
    text = text.replace('  optimizer: "sgd(lr=0.1, momentum=0.9)"\n  schedule: "cosine(\'1 steps\')"\n', "")
    recipe = parse_recipe(text, "train.optimizer.lr=0.05", "train.schedule.floor=0.01")
    assert recipe.train.optimizer == "sgd(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.0005)"
    assert recipe.train.schedule == "cosine(floor=0.01)"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train", "write key=value, as in train.epochs=10"),
        ("=3", "write key=value, as in train.epochs=10"),
        ("train.=3", "write key=value, as in train.epochs=10"),
        (".seed=3", "write key=value, as in train.epochs=10"),
        ("train..lr=3", "write key=value, as in train.epochs=10"),
        ("evaluate=[1", "line 1: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("views.c.make.flip.p=1", "unknown key 'c'; keys: a, b, many, r, test, two"),
        (
            "view.a.make=flip",
            "unknown key 'view'; did you mean 'views'? keys: branches, data, evaluate, relations, title, train, views",
        ),
        (
            "views.a.make.randaug.m=9",
            "unknown call 'randaug'; did you mean 'randaugment'? calls: pad_crop, randaugment, resize",
        ),
        (
            "views.a.make.m=9",
            "'resize(16) | pad_crop(16, padding=2) | randaugment(2, 9)' holds calls; write "
            "make.<call>.<argument>=value",
        ),
        ("relations.9.weight=1", "there is no line 9; lines: 0 to 5"),
        ("relations.9=cross_entropy(logits(a))", "there is no line 9; lines: 0 to 5"),
        ("relations.distill.weight=1", "unknown line 'distill'; did you mean 'similarity'? lines: "),
        (
            "relations.cross_entropy_4.weight=1",
            "unknown line 'cross_entropy_4'; did you mean 'cross_entropy_3'? lines: "
            "cross_entropy, cross_entropy_2, cross_entropy_3, joint_cross_entropy, similarity, similarity_2",
        ),
        ("evaluate.classify.k=1", "unknown line 'classify'; lines: knn"),
        ("train.steps.most=1", "there is no 'most' in 3"),
        ("relations.similarity.weight=warmup(5", f"cannot read 'warmup(5': {QUOTE}"),
    ],
)
def test_overrides_that_hit_nothing_name_themselves(override, message):
    got = refused_text(TEXT, override)
    assert got.startswith(f"override {override!r}: ")
    rest = got.removeprefix(f"override {override!r}: ").replace("; did you mean 'similarity'?", ";")
    assert message.replace("; did you mean 'similarity'?", ";") in rest


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=0.1", "train.lr: unknown key 'lr'; write train.optimizer.lr=0.1"),
        ("trian.epochs=1", "trian: unknown key 'trian'; did you mean 'train'? keys: "),
        ("views.a.mak=flip", "views.a.mak: unknown key 'mak'; did you mean 'make'? keys: "),
        ("views.a.make.randaugment.mm=9", "views.a.make: randaugment: unknown argument 'mm'; did you mean 'm'? "),
        ("train.optimizer.lrr=0.1", "train.optimizer: sgd: unknown argument 'lrr'; did you mean 'lr'? "),
        ("relations.similarity.wieght=1", "relations.1: similarity: unknown argument 'wieght'; arguments: "),
        ("relations.similarity.weight=", "relations.1: weight is a number or a schedule such as warmup(20), got None"),
        ("relations.similarity.weight=x", "relations.1: weight is a number or a schedule such as warmup(20), got 'x'"),
        ("evaluate.knn.n=3", "evaluate.0: knn: unknown argument 'n'; "),
    ],
)
def test_an_override_is_checked_like_the_recipe(override, message):
    assert refused_text(TEXT, override).startswith(message)


# ------------------------------------------------------------------------------------------- recipes as a whole, files


def test_recipes_are_frozen():
    recipe = parse_recipe(TEXT)
    for owner, key, value in (
        (recipe, "seed", 1),
        (recipe.data, "root", "x"),
        (recipe.train, "steps", 5),
        (recipe.views["a"], "make", "flip"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(owner, key, value)
    assert recipe == parse_recipe(TEXT)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_survive_being_written_out(name):
    recipe = load_recipe(name)
    text = recipe.to_yaml()
    again = parse_recipe(text)
    assert again == recipe
    assert difference(recipe, again) == []
    assert again.to_yaml() == text
    assert again.view_plan == recipe.view_plan
    assert again.branch_plan == recipe.branch_plan
    assert again.relation_plan == recipe.relation_plan
    raw = yaml.safe_load(text)
    assert set(raw["train"]) == set(type(recipe.train).model_fields), "defaults are written out"
    assert set(raw["data"]) == set(type(recipe.data).model_fields)


def test_a_recipe_with_overrides_survives_being_written_out():
    overrides = (
        "relations.similarity.weight=warmup(5, fraction=0.5)",
        "train.clip=1e-5",
        "views.many.same=[]",
        "seed=3",
    )
    recipe = parse_recipe(TEXT, *overrides)
    assert parse_recipe(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_make_a_claim_in_their_header(name):
    text = packaged_recipes()[name]
    header = re.match(r"(#.*\n)+", text)
    assert header, "a recipe begins with comments"
    comment = header[0]
    assert text[header.end() :].startswith("title: ")
    assert re.search(rf"^# Run: .*manyview train {name} .*--out runs/\w+", comment, re.M) or (
        f"manyview train {name} --out runs/{name}" in comment
    )
    if name == "quickstart":
        assert "Not a row of a paper" in comment
        return
    assert re.search(r"^# Expected: \S", comment, re.M)
    baseline = name == "baseline_cifar10"
    assert baseline or re.search(PUBLISHED, comment.splitlines()[0])
    assert baseline or re.search(PUBLISHED, load_recipe(name).title)


def test_differences_are_lines_from_ours_to_theirs():
    ours = parse_recipe(TEXT)
    theirs = parse_recipe(TEXT, "seed=3", "train.optimizer.lr=0.2", "relations.1.weight=2")
    assert difference(ours, theirs) == [
        "seed: 0 -> 3",
        """relations.1: 'similarity(h(a), h(b), kind="mse", weight=1)' """
        """-> "similarity(h(a), h(b), kind='mse', weight=2)\"""",
        "train.optimizer: 'sgd(lr=0.1, momentum=0.9)' -> 'sgd(lr=0.2, momentum=0.9)'",
    ]
    assert difference(ours, theirs, {"seed": None, "relations.1": None, "train.optimizer": None}) == []


def test_recipes_by_name_and_by_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(packaged_recipes()["quickstart"], encoding="utf-8")
    assert (
        load_recipe(path) == load_recipe(str(path)) == load_recipe("quickstart") == manyview.load_recipe("quickstart")
    )
    assert load_recipe("quickstart", "seed=5").seed == load_recipe(path, "seed=5").seed == 5


def test_recipes_that_are_not_there(tmp_path):
    with pytest.raises(RecipeError) as error:
        load_recipe("tied_cifar")
    near = "tied_cifar10, tied_cifar10_reduced, tied_cifar10_wrn28_10"
    many = f"manyview recipes has all {len(PACKAGED)}"
    assert line_of(error) == f"unknown recipe 'tied_cifar'; did you mean 'tied_cifar10'? recipes: {near}, … ({many})"
    with pytest.raises(RecipeError) as error:
        load_recipe("zzz")
    assert re.fullmatch(rf"unknown recipe 'zzz'; recipes: \w+, \w+, \w+, … \({many}\)", line_of(error))
    for path in (tmp_path / "no.yaml", tmp_path / "no.yml", tmp_path / "folder" / "no"):
        with pytest.raises(RecipeError) as error:
            load_recipe(path)
        assert line_of(error) == f"no recipe file {path}"


def test_messages_name_the_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace("title:", "titel:"), encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert line_of(error).startswith(f"recipe {path}: titel: unknown key 'titel'; did you mean 'title'?")
    with pytest.raises(RecipeError) as error:
        load_recipe("quickstart", "train.epochs=0")
    assert line_of(error).startswith("recipe quickstart: train.epochs: ")
    path.write_bytes(b"title: \xff\xfe")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert line_of(error).startswith(f"recipe file {path} cannot be read: ")


def test_loading_draws_nothing_and_warns_of_nothing():
    """Heads and relations are rehearsed where nothing is drawn; the step, not loading, says what hardly is meant."""
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse_recipe(TEXT.replace("  - cross_entropy(logits(r))\n", "  - cosine(z(a), toward=q(b))\n"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes_load_with_little_work(name):
    """Calls of Python functions, which a slow machine does not change; at some 5 million a second, under 0.05 s."""
    load_recipe(name)  # what is done once is done
    calls = [0]

    def count(frame, event, argument):
        calls[0] += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        load_recipe(name)
    finally:
        sys.setprofile(before)
    assert calls[0] < 60_000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("many: {from: a, make: flip(0.5), count: 3}", "many: {from: a, make: flip(0.5), count: 1000000000}"),
        ("randaugment(2, 9)", "randaugment(1000000000, 9)"),
        ("pad_crop(16, padding=2)", "pad_crop(16, padding=1000000000)"),
        ("resize(16) | pad_crop", "resize(1000000000) | pad_crop"),
        ("randaugment(2, 9)", "augmix(3, width=1000000000)"),
        ("randaugment(2, 9)", "uniformaugment(1000000000)"),
        ("randaugment(2, 9)", "grid_shuffle(1000000000)"),
        ("randaugment(2, 9)", "blur(kernel=1000000001)"),
        ("randaugment(2, 9)", "cutout(1000000000000000000000)"),
        ("z: projector(h, 8)", "z: projector(h, 8, layers=1000000)"),
        ("z: projector(h, 8)", "z: projector(h, 8, hidden=1000000000000)"),
        ("seed: 0", "seed: 1000000000000000000000000"),
    ],
)
def test_numbers_beyond_all_use_are_refused_in_one_line(old, new):
    text = "seed: 0\n" + TEXT
    parse_recipe(text)
    with pytest.raises(RecipeError) as error:
        parse_recipe(text.replace(old, new))
    assert re.search("at most|less than or equal to", line_of(error))


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=1000000000000",
        "train.batch_size=1000000000000",
        "train.log_every=1000000000000",
        "train.checkpoint_every=1000000000000 epochs",
        "train.schedule=step('1 steps')",
        "train.schedule=cosine('1000000000 steps')",
        "data.limit=1000000000000",
        "data.labels_per_class=1000000000000",
        "evaluate=[knn(k=1000000000000)]",
        "evaluate=[linear_sgd(epochs=1000000000000)]",
        "relations.0=cross_entropy(logits(a), weight=1e300)",
    ],
)
def test_no_number_makes_loading_longer(override):
    """Either it is refused, or loading it is as much work as without it."""

    def lines(*overrides):
        seen = [0]

        def count(frame, event, argument):
            seen[0] += 1
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            with contextlib.suppress(RecipeError):
                parse_recipe(TEXT, *overrides)
        finally:
            sys.settrace(before)
        return seen[0]

    assert lines(override) < 1.5 * lines()
