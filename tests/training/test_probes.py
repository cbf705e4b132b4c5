"""Heads behind a stop: labels judge a run while it trains without them, and all else stays as it is, bit for bit."""

import json
import re

import pytest
import torch

import manyview
from manyview.branches.branch import Branch
from manyview.errors import RecipeError
from manyview.load import parse_recipe
from manyview.optimize.clip import clipped_together
from manyview.step import Step
from manyview.training.run import Run

RECIPE = """
seed: 3
data: {source: digits, limit: 60}
views:
  a: {from: image, make: "crop(16, scale=(0.3, 1)) | jitter(0.4, 0.4, 0.4, 0.1)"}
  b: {like: a}
  r: {from: a, orbit: rotation}
branches:
  online: {backbone: cresnet20, HEADS, init: INIT}
  teacher: ema(online, momentum=0.9)
relations: [LINES]
train:
  {epochs: 2, batch_size: 16, optimizer: "OPTIMIZER", clip: 0.2, ema: 0.9, log_every: 1}
evaluate: [knn(k=5)]
"""
HEADS = 'z: "projector(h, 7, hidden=12)", p: "predictor(z, 6)"'
LINES = [
    "cosine(p(a), toward=teacher.z(b), swapped=True)",
    "augself(h(a), h(b), crop=1.0, color=1.0)",
]
PROBE = 'probe: "linear(stop(h))"'
JUDGE = "cross_entropy(probe(a), weight=30)"


def text(lines=(*LINES,), heads=HEADS, init="torch", optimizer="adamw(lr=0.01, weight_decay=0.1)"):
    quoted = ", ".join(f'"{line}"' for line in lines)
    return RECIPE.replace("HEADS", heads).replace("LINES", quoted).replace("INIT", init).replace("OPTIMIZER", optimizer)


def trained(folder, **said):
    manyview.train(parse_recipe(text(**said)), folder, quiet=True)
    run = Run(folder)
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.load(run.last, weights_only=True), logged, run.finished()


def tensors(state):
    return {name: value for name, value in state["step"].items() if isinstance(value, torch.Tensor)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    without = trained(folder / "without")
    lines = [JUDGE, *LINES, "agmax(probe(a), deep(b), hidden=16)"]
    return without, trained(folder / "with", lines=lines, heads=f'{PROBE}, deep: "projector(stop(h), 10)", {HEADS}')


@pytest.mark.slow(reason="trains two small nets")
def test_all_else_is_as_without_them(runs):
    without, judged = (tensors(state) for state, _, _ in runs)
    more = [name for name in judged if name not in without]
    assert all(re.search(r"heads\.(probe|deep)\.|\.agmax\.", name) for name in more)
    assert any("probe" in name for name in more)
    assert [name for name in without if not torch.equal(without[name], judged[name])] == []


@pytest.mark.slow(reason="trains two small nets")
def test_what_is_measured_of_all_else_is_the_same(runs):
    (_, plain, result), (_, judged, other) = runs
    for one, two in zip(plain, judged, strict=True):
        for name in one.get("terms", {}):
            assert one["terms"][name] == two["terms"][name]
        assert {name: two["val"][name] for name in one.get("val", {})} == one.get("val", {})
    assert {name: other["eval"][name] for name in result["eval"]} == result["eval"]
    last = [[line["val"] for line in lines if "val" in line][-1] for lines in (plain, judged)]
    assert {*last[1]} - {*last[0]} == {"probe_top1", "deep_top1"}
    assert {*other["eval"]} - {*result["eval"]} == {*other["val"]} - {*result["val"]} == {"probe_top1", "deep_top1"}


def recipe_of(*lines, heads=f"{HEADS}, {PROBE}"):
    return parse_recipe(text(lines, heads))


def test_a_recipe_that_is_only_judged_learns_nothing_from_labels():
    recipe = recipe_of(*LINES, JUDGE)
    assert recipe.learns_from_labels == []
    assert recipe.needs_labels == [JUDGE]
    assert not recipe.keeps_best
    assert recipe_of(*LINES, JUDGE, "cross_entropy(logits(a))").keeps_best


@pytest.mark.parametrize("init", ["torch", "normal(0.2)"])
def test_where_it_stands_shifts_no_draw(init):
    states = []
    for lines, heads in (
        (LINES, HEADS),
        ([JUDGE, *LINES], f"{PROBE}, {HEADS}"),
        ([LINES[0], JUDGE, LINES[1]], f"{HEADS}, {PROBE}"),
    ):
        states.append(Step(parse_recipe(text(lines, heads, init)), 10).state_dict())
    for state in states[1:]:
        assert all(torch.equal(value, state[name]) for name, value in states[0].items())
    probe = "branches.online.heads.probe.weight"
    assert torch.equal(states[1][probe], states[2][probe])


def test_it_learns_and_nothing_learns_through_it():
    step = Step(recipe_of(*LINES, JUDGE), 10, total_steps=10)
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = step(images, torch.arange(8), index=range(8), epoch=0)
    out["terms"]["cross_entropy"].backward()
    moved = {name for name, parameter in step.named_parameters() if parameter.grad is not None}
    assert moved == {"branches.online.heads.probe.weight", "branches.online.heads.probe.bias"}


def test_its_gradient_is_clipped_by_its_own_norm():
    step = Step(recipe_of(*LINES, JUDGE), 10, total_steps=10)
    names = {id(parameter): name for name, parameter in step.named_parameters()}
    others, own = clipped_together(step)
    assert {names[id(each)] for each in own} == {f"branches.online.heads.probe.{n}" for n in ("weight", "bias")}
    assert len(own) + len(others) == len(names)
    assert len(clipped_together(Step(recipe_of(*LINES, heads=HEADS), 10, total_steps=10))) == 1


def test_evaluation_looks_through_the_stop():
    """So that an attack on it finds a gradient."""
    branch = Step(recipe_of(*LINES, JUDGE), 10, total_steps=10).main.eval()
    assert isinstance(branch, Branch)
    pixels = torch.rand(2, 3, 16, 16, requires_grad=True)
    branch.read(pixels, ["probe"])["probe"].sum().backward()
    assert pixels.grad.abs().sum() > 0


BAD = {
    "its backbone learns nothing": (
        [JUDGE],
        f"{HEADS}, {PROBE}",
        "relations.0: probe(a) looks on behind a stop, and no other line reads h of 'a', which would be computed for "
        "it alone; read a view that is read anyway",
    ),
    "a view of its own": (
        [*LINES, "cross_entropy(probe(r))"],
        f"{HEADS}, {PROBE}",
        "relations.2: probe(r) looks on behind a stop, and no other line reads h of 'r', which would be computed for "
        "it alone; read a view that is read anyway",
    ),
    "a head of its own": (
        [*LINES, "cross_entropy(probe(a))"],
        f'{HEADS}, q: "mlp(h, 8)", probe: "linear(stop(q))"',
        "relations.2: probe(a) looks on behind a stop, and no other line reads q of 'a', which would be computed for "
        "it alone; read a view that is read anyway",
    ),
    "it teaches": (
        [*LINES, "distill(logits(a), toward=stop(probe(a)))"],
        f"{HEADS}, {PROBE}",
        "relations.2: logits(a) would learn from stop(probe(a)), which looks on behind a stop and teaches nothing; "
        "relate it to other heads of its kind",
    ),
    "what is stopped": (
        LINES,
        f'{HEADS}, probe: "linear(stop(h, 2))"',
        "branches.online.probe: a head first names what it reads, as in linear(h), got linear(stop(h, 2))",
    ),
    "another function": (
        LINES,
        f'{HEADS}, probe: "linear(aggregate(h))"',
        "branches.online.probe: a head first names what it reads, as in linear(h), got linear(aggregate(h))",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case):
    lines, heads, message = BAD[case]
    with pytest.raises(RecipeError) as caught:
        Step(recipe_of(*lines, heads=heads), 10)
    assert str(caught.value) == message
