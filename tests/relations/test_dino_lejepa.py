"""DINO and LeJEPA beside steps written by hand in a few lines of torch; their state, on one process and on two."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import references as ref
from manyview import functional as F
from manyview.branches.heads import dino_head
from manyview.errors import RecipeError
from manyview.load import parse_recipe
from manyview.optimize.optimize import make_optimizer
from manyview.relations.lejepa import directions_at
from manyview.step import Step
from processes import on_two

B, UPDATES = 8, 3
VIT = "vit_tiny_patch16_224(dynamic_img_size=True, patch_size=8, depth=1, embed_dim=32, num_heads=2)"
RECIPE = """
seed: 3
views:
  a: {from: image, make: "crop(16, scale=(0.4, 1)) | flip(0.5)"}
  b: {like: a}
  local: {from: image, make: "crop(8, scale=(0.1, 0.4)) | flip(0.5)", count: 3}
branches:
  online: {backbone: "BACKBONE", z: "HEAD"}
  teacher: ema(online, momentum=0.9)
relations: ["LINE"]
train: {steps: 9, optimizer: "adamw(lr=0.01, weight_decay=0.04)"}
"""
DINO = (
    "dino(z(a), z(b), toward=teacher, others=z(local), teacher_temperature=(0.04, 0.07), warmup=2, weight=2)",
    "dino_head(h, 12, hidden=16, bottleneck=8, freeze=1)",
)
LEJEPA = ("lejepa(z(a), z(b), others=z(local), sketch=0.1, directions=32)", "mlp(h, 16, 6)")


def make(line, head, backbone=VIT):
    text = RECIPE.replace("BACKBONE", backbone).replace("HEAD", head).replace("LINE", line)
    return Step(parse_recipe(text), 0)


def photos(seed, rows=slice(None)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (B, 3, 16, 16), generator=generator, dtype=torch.uint8)[rows]


def updated(step, wrapped=None, updates=range(UPDATES), rows=slice(None)):
    """Trains a step; losses and gradients of each update."""
    optimizer = make_optimizer(step.recipe.train, step)
    handle = step.attach(optimizer)
    found = []
    for number in updates:
        out = (wrapped or step)(photos(number, rows), index=range(B)[rows], epoch=number)
        out["loss"].backward()
        gradients = {n: p.grad.clone() for n, p in step.main.named_parameters() if p.grad is not None}
        found.append((out["loss"].detach(), gradients))
        optimizer.step()
        optimizer.zero_grad()
    handle.remove()
    return found


def by_hand(step, loss_of, after):
    """The same by hand: copies of the networks, the views' pixels, torch's AdamW."""
    online = copy.deepcopy(torch.nn.ModuleDict({"backbone": step.main.backbone, "z": step.main.heads["z"]}))
    if hasattr(online["z"], "freeze"):
        online["z"].freeze = 0
    teacher = copy.deepcopy(online)
    spared = {name.removeprefix("branches.online.").replace("heads.", "") for name in step.no_weight_decay()}
    decayed = [p for n, p in online.named_parameters() if n not in spared]
    rest = [p for n, p in online.named_parameters() if n in spared]
    groups = [{"params": decayed, "weight_decay": 0.04}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    mean, std = step.main.mean, step.main.std
    found = []
    for number in range(UPDATES):
        views = step.views(photos(number), index=range(B), epoch=number)
        pixels = [views["a"].pixels, views["b"].pixels, *(views["local"].pixels[t::3] for t in range(3))]
        z, t = ([net["z"](net["backbone"]((x - mean) / std)) for x in pixels] for net in (online, teacher))
        loss = loss_of(z, [each.detach() for each in t[:2]], number)
        optimizer.zero_grad()
        loss.backward()
        found.append((loss.detach(), {n: p.grad.clone() for n, p in online.named_parameters() if p.grad is not None}))
        if number == 0 and "z.last" in dict(online.named_parameters()):
            online["z"].last.grad.zero_()  # frozen
        optimizer.step()
        with torch.no_grad():
            for one, two in zip(teacher.parameters(), online.parameters(), strict=True):
                one.mul_(0.9).add_(0.1 * two)
        after(t[:2])
    return found


def same(ours, theirs):
    """Losses and gradients of all updates, those of the later ones after Adam's steps."""
    for (loss, gradients), (wanted, others) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
        for name, gradient in gradients.items():
            other = others[name.replace("heads.z", "z")]
            if name == "heads.z.last" and not gradient.any():
                continue  # frozen
            torch.testing.assert_close(gradient, other, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_dino_is_the_step_by_hand():
    step = make(*DINO)
    state = {"c": torch.zeros(12)}

    def loss(z, t, number):
        temperature = 0.04 + 0.03 * min(1, number / 2)
        q = [((rows - state["c"]) / temperature).softmax(dim=1) for rows in t]
        pairs = [
            -(q[g] * (z[v] / 0.1).log_softmax(dim=1)).sum(dim=1).mean() for g in (0, 1) for v in range(5) if v != g
        ]
        assert len(pairs) == 8
        return 2 * sum(pairs) / 8

    def after(t):
        state["c"] = 0.9 * state["c"] + 0.1 * torch.cat(t).mean(dim=0).detach()

    theirs = by_hand(step, loss, after)
    same(updated(step), theirs)
    torch.testing.assert_close(step.relations["dino"].centre, state["c"], rtol=1e-4, atol=1e-6)


def test_lejepa_is_the_step_by_hand():
    step = make(*LEJEPA)
    relation = step.relations["lejepa"]

    def loss(z, t, number):
        middle = (z[0] + z[1]) / 2
        apart = sum((rows - middle).square().mean() for rows in z) / 5
        directions = directions_at(relation.seed, torch.tensor(number), 6, 32)
        return 0.9 * apart + 0.1 * sum(F.sigreg(rows, directions) for rows in z) / 5

    theirs = by_hand(step, loss, lambda t: None)
    same(updated(step), theirs)


# ------------------------------------------------------------------------------------------------------- their parts


def test_dino_is_the_mean_over_pairs():
    step = make(*DINO)
    seen = {}
    relation = step.relations["dino"]
    relation.register_forward_pre_hook(lambda m, args, kwargs: seen.update(args=args, **kwargs), with_kwargs=True)
    relation.centre.copy_(torch.linspace(-0.1, 0.1, 12))
    loss = step(photos(0), index=range(B), epoch=0)["terms"]["dino"].item()
    views = [*(each.value for each in seen["args"]), *(seen["others"].value[t::3] for t in range(3))]
    students = [each.detach().double().numpy() for each in views]
    teachers = [each.value.double().numpy() for each in seen["toward"]]
    centre = relation.centre.double().numpy()
    pairs = [ref.dino(s, t, centre) for i, t in enumerate(teachers) for j, s in enumerate(students) if i != j]
    assert loss == pytest.approx(2 * sum(pairs) / len(pairs), rel=1e-5)
    measures = {name: float(value) for name, value in relation.measures.items()}
    q = [np.exp((t - centre) / 0.04) for t in teachers]
    q = np.concatenate([each / each.sum(axis=1, keepdims=True) for each in q])
    entropy = -(q * np.log(q)).sum(axis=1).mean()
    mean = -(q.mean(axis=0) * np.log(q.mean(axis=0))).sum()
    expected = {"entropy": entropy / math.log(12), "told": (mean - entropy) / math.log(12), "kl": loss / 2 - entropy}
    assert measures == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_spread_of_others_is_from_the_mean_over_the_global_views():
    rng = np.random.default_rng(0)
    z, small = rng.normal(size=(2, 5, 3)), rng.normal(size=(4, 5, 3))
    middle = z.mean(axis=0)
    expected = sum(((each - middle) ** 2).sum() for each in (*z, *small)) / (6 * 5 * 3)
    assert F.spread(torch.tensor(z), torch.tensor(small)).item() == pytest.approx(expected, rel=1e-12)
    assert F.spread(torch.tensor(z)).item() == pytest.approx(ref.spread(z), rel=1e-12)


def test_directions_are_a_function_of_seed_and_update():
    seed = torch.tensor(7)
    one = directions_at(seed, torch.tensor(5), 16, 4096)
    assert torch.equal(one, directions_at(seed, torch.tensor(5), 16, 4096))
    torch.testing.assert_close(one.norm(dim=0), torch.ones(4096))
    for other in (directions_at(seed, torch.tensor(6), 16, 4096), directions_at(seed + 1, torch.tensor(5), 16, 4096)):
        assert (one * other).sum(dim=0).mean().abs() < 0.02
    # evenly on the sphere: mean 0, second moments 1/16, fourth moments of a coordinate 3/(16 * 18)
    assert one.mean(dim=1).abs().max() < 0.02
    torch.testing.assert_close(one @ one.T / 4096, torch.eye(16) / 16, rtol=0, atol=0.006)
    assert one.pow(4).mean().item() == pytest.approx(3 / (16 * 18), rel=0.05)


@pytest.mark.filterwarnings("ignore:.*without an update", "ignore:an update was made by a loss in evaluation mode")
def test_a_draw_elsewhere_changes_no_direction_and_is_changed_by_none():
    step = make(*LEJEPA)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = step(photos(0), index=range(B), epoch=0)["loss"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(step(photos(0), index=range(B), epoch=0)["loss"], first)  # parts of an update share them
    step.after_step()
    assert not torch.equal(step(photos(0), index=range(B), epoch=0)["loss"], first)


def test_the_last_layer_stays_while_it_is_frozen():
    step = make(DINO[0], DINO[1].replace("freeze=1", "freeze=2"))
    head = step.main.heads["z"]
    begun, seen = head.last.detach().clone(), []
    for number in range(3):
        ((_, gradients),) = updated(step, updates=[number])
        seen.append((bool(gradients["heads.z.last"].any()), torch.equal(head.last, begun)))
    assert seen == [(False, True), (False, True), (True, False)]


def test_the_head_gives_cosines():
    module, width = dino_head(9, 16, 8, freeze=0, inputs=5, classes=3)
    out = module(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    assert (width, out.shape) == (9, (4, 9))
    with torch.no_grad():
        module.last.mul_(7)  # its length says nothing
    torch.testing.assert_close(module(torch.randn(4, 5, generator=torch.Generator().manual_seed(0))), out)
    assert out.abs().max() <= 1
    assert [type(each).__name__ for each in module.layers] == ["Linear", "GELU", "Linear", "GELU", "Linear"]


@pytest.mark.filterwarnings("ignore:.*without an update", "ignore:an update was made by a loss in evaluation mode")
@pytest.mark.parametrize("case", [DINO, LEJEPA], ids=["dino", "lejepa"])
def test_state_goes_on_where_it_was(case):
    whole, first, second = make(*case), make(*case), make(*case)
    straight = updated(whole)
    updated(first, updates=[0])
    second.load_state_dict(first.state_dict())
    # without the optimiser's state the weights part; the relation's state does not depend on them but for the centre
    name = next(iter(second.relations))
    for key, value in first.relations[name].state_dict().items():
        assert torch.equal(second.relations[name].state_dict()[key], value)
    images, batch = photos(1), {"index": range(B), "epoch": 1}
    assert torch.equal(second(images, **batch)["loss"], first(images, **batch)["loss"])
    torch.testing.assert_close(second(images, **batch)["loss"].detach(), straight[1][0], rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:.*without an update", "ignore:an update was made by a loss in evaluation mode")
def test_the_centre_moves_by_all_parts_of_an_update_and_by_nothing_in_evaluation():
    step = make(*DINO)
    relation, teachers = step.relations["dino"], []
    relation.register_forward_pre_hook(
        lambda m, args, kwargs: teachers.extend(each.value for each in kwargs["toward"]), with_kwargs=True
    )
    for seed in (0, 1):
        step(photos(seed), index=range(B), epoch=seed)
    assert not relation.centre.any()
    step.after_step()
    torch.testing.assert_close(relation.centre, 0.1 * torch.cat(teachers).mean(dim=0))
    before = relation.centre.clone()
    with torch.no_grad():
        step(photos(2), index=range(B), epoch=2)
    step.eval()(photos(2), index=range(B), epoch=2)
    step.after_step()
    assert torch.equal(relation.centre, before)


# -------------------------------------------------------------------------------------------------------- two processes


def worker(rank, folder):
    dist.init_process_group("gloo")
    rows = slice(rank * B // 2, (rank + 1) * B // 2)
    for name, case in (("dino", DINO), ("lejepa", LEJEPA)):
        step = make(*case)
        found = updated(step, DistributedDataParallel(step), rows=rows)
        torch.save((found, step.relations[name].state_dict()), f"{folder}/{name}{rank}.pt")
    dist.barrier()


@pytest.mark.slow(reason="two processes")
def test_two_processes_are_one(tmp_path):
    on_two(worker, str(tmp_path))
    for name, case in (("dino", DINO), ("lejepa", LEJEPA)):
        step = make(*case)
        whole = updated(step)
        both = [torch.load(tmp_path / f"{name}{rank}.pt") for rank in (0, 1)]
        for update, (loss, gradients) in enumerate(whole):
            mean = sum(found[update][0] for found, _ in both) / 2
            torch.testing.assert_close(mean, loss, rtol=1e-4, atol=1e-6)
            for found, _ in both:
                for key, gradient in gradients.items():
                    torch.testing.assert_close(found[update][1][key], gradient, rtol=1e-2, atol=1e-4)
        for _, state in both:
            for key, value in step.relations[name].state_dict().items():
                torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ bad input

BAD = {
    "no teacher": ("dino(z(a), z(b))", "relations.0: dino(z(a), z(b)): missing a required argument: 'toward'; "),
    "a readout": (
        "dino(z(a), z(b), toward=teacher.z(a))",
        "relations.0: dino: toward names a branch, as in toward=teacher, got teacher.z(a)",
    ),
    "no such branch": (
        "dino(z(a), z(b), toward=techer)",
        "relations.0: dino: toward: unknown branch 'techer'; did you",
    ),
    "a teacher that learns": (
        "dino(z(a), z(b), toward=online)",
        "relations.0: dino(z(a), z(b), toward=online): online.z(a) would learn, too; a teacher is an EMA, as in",
    ),
    "temperature": (
        "dino(z(a), z(b), toward=teacher, temperature=0)",
        "relations.0: dino(z(a), z(b), toward=teacher, ",
    ),
    "two temperatures": (
        "dino(z(a), z(b), toward=teacher, teacher_temperature=(0.04, 0.07))",
        "relations.0: dino(z(a), z(b), toward=teacher, teacher_temperature=(0.04, 0.07)): teacher_temperature begins "
        "and ends apart; say over how many updates, as in warmup=1000",
    ),
    "momentum": (
        "dino(z(a), z(b), toward=teacher, momentum=1)",
        "relations.0: dino(z(a), z(b), toward=teacher, momentum=1): momentum must be a number in [0, 1), got 1",
    ),
    "one view": (
        "dino(z(a), toward=teacher)",
        "relations.0: dino(z(a), toward=teacher): dino reads at least two views, as in dino(z(a), z(b), ",
    ),
    "one view alone": (
        "lejepa(z(a))",
        "relations.0: lejepa(z(a)): lejepa reads at least two views, as in lejepa(z(a), z(b))",
    ),
    "sketch": (
        "lejepa(z(a), z(b), sketch=2)",
        "relations.0: lejepa(z(a), z(b), sketch=2): sketch is the share of the sketch in the loss, in [0, 1], got 2",
    ),
    "knots": ("lejepa(z(a), z(b), knots=1)", "relations.0: lejepa(z(a), z(b), knots=1): knots must be"),
    "reach": (
        "lejepa(z(a), z(b), reach=0)",
        "relations.0: lejepa(z(a), z(b), reach=0): reach must be a positive number, got 0",
    ),
    "unlike widths": ("lejepa(z(a), h(b))", "relations.0: lejepa(z(a), h(b)): z(a) has 12 columns and h(b) has 32; "),
    "swapped": ("dino(z(a), z(b), toward=teacher, swapped=True)", "relations.0: dino: "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case):
    line, message = BAD[case]
    with pytest.raises(RecipeError) as caught:
        make(line, "dino_head(h, 12, hidden=16, bottleneck=8)")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
