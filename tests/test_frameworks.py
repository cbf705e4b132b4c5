"""Whole steps of SimSiam, BYOL, SimCLR, MoCo v2 and SwAV against a slow reference that has none of our modules.

The reference begins at the features of the backbone, as a hook sees them. Heads with BatchNorm in training mode, the
loss, the gradients by the heads' weights and by the features, SGD, the teacher, the queue and the prototypes are
written out in float64; the losses are those of `references.py` besides.
"""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

import references
from manyview.branches.heads import HEADS
from manyview.branches.spec import parse_branch
from manyview.foundation.grammar import Call, bind
from manyview.load import parse_recipe
from manyview.step import Step

B, C, UPDATES = 8, 5, 3
TINY = "vit_tiny_patch16_224(img_size=16, patch_size=8, depth=1, embed_dim=32, num_heads=2)"
LR, MOMENTUM, DECAY = 0.3, 0.9, 0.01
RECIPE = """
seed: 3
views:
  a: {from: image, make: "crop(16, scale=(0.3, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1)"}
  b: {like: a}
  small: {from: image, make: "crop(8, scale=(0.1, 0.3)) | flip(0.5)", count: 3}
branches:
  online: {backbone: "BACKBONE", z: "Z", p: "predictor(z, 6)", forward: FORWARD}
  teacher: EMA
relations: ["LINE"]
train: {steps: 5}
"""
PLAIN = "projector(h, 7, hidden=12, norm_last=False)"


def make(line, z=PLAIN, ema="ema(online, momentum=0.9)", backbone=TINY, forward="separate"):
    text = RECIPE.replace("LINE", line).replace("Z", z).replace("EMA", ema)
    return Step(parse_recipe(text.replace("BACKBONE", backbone).replace("FORWARD", forward)), C)


def photos(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (B, 3, 16, 16), generator=generator, dtype=torch.uint8)


# ------------------------------------------------------------------------------------------------- the reference


class Head:
    """A head in float64, from its state: linear, BatchNorm, ReLU, …; nothing after the last linear or BatchNorm."""

    def __init__(self, module):
        self.state = {name: value.detach().double().clone() for name, value in module.state_dict().items()}
        self.weights = [name for name, _ in module.named_parameters()]
        self.speed = {}
        for name in self.weights:
            self.state[name].requires_grad_()

    def __call__(self, x):
        numbers = sorted({int(name.split(".")[0]) for name in self.state})
        for number in numbers:
            part = {name.split(".")[1]: v for name, v in self.state.items() if name.startswith(f"{number}.")}
            if "running_mean" in part:
                x = self.normalised(x, number, part)
                x = x if number == numbers[-1] else x.clamp_min(0)
            else:
                x = x @ part["weight"].T + part.get("bias", 0)
        return x

    def normalised(self, x, number, part):
        """BatchNorm by the moments of these rows; its running moments move on."""
        mean, n = x.mean(dim=0), len(x)
        variance = ((x - mean) ** 2).mean(dim=0)
        with torch.no_grad():
            self.state[f"{number}.running_mean"] += 0.1 * (mean - part["running_mean"])
            self.state[f"{number}.running_var"] += 0.1 * (variance * n / (n - 1) - part["running_var"])
            self.state[f"{number}.num_batches_tracked"] += 1
        return (x - mean) / (variance + 1e-5).sqrt() * part.get("weight", 1) + part.get("bias", 0)

    def descend(self):
        """SGD with momentum and weight decay."""
        for name in self.weights:
            weight = self.state[name]
            self.speed[name] = MOMENTUM * self.speed.get(name, 0) + weight.grad + DECAY * weight.detach()
            self.state[name] = (weight.detach() - LR * self.speed[name]).requires_grad_()

    def follow(self, online, momentum):
        with torch.no_grad():
            for name in self.weights:
                self.state[name].copy_(momentum * self.state[name] + (1 - momentum) * online.state[name])


def unit(x):
    return x / (x * x).sum(dim=1, keepdim=True).sqrt()


def cosine(p, z):
    """Minus the mean cosine of p and a constant."""
    value = -(unit(p) * unit(z.detach())).sum(dim=1).mean()
    assert value.item() == pytest.approx(references.negative_cosine(array(p), array(z)))
    return value


def array(x):
    return x.detach().numpy()


def watch(step):
    """Features h that each branch computes in a step, in the order of its forward passes, with their gradients."""
    seen = defaultdict(list)

    def hook(name):
        def keep(module, args, output):
            if output.requires_grad:
                output.retain_grad()
            seen[name].append(output)

        return keep

    for name in step.branches:
        step.branch(name).backbone.register_forward_hook(hook(name))
    return seen


def check(step, loss_of, heads, momenta=(), after=lambda: None, names=(), extra=()):
    """Trains the step and the reference side by side for some updates.

    loss_of: features of each forward pass, by branch, float64 -> the loss. heads: (branch, name) -> Head. momenta: of
    the teacher at each update. after: what the reference does after an update. names: of the loss's terms. extra:
    parameters of the relation with what they are in the reference.
    """
    seen = watch(step)
    trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    for number in range(UPDATES):
        seen.clear()
        optimizer.zero_grad()
        out = step(photos(number), index=range(B), epoch=0)
        out["loss"].backward()
        features = {name: [h.detach().double() for h in passes] for name, passes in seen.items()}
        for h in features["online"]:
            h.requires_grad_()
        loss = loss_of(features)
        loss.backward()
        assert list(out["terms"]) == list(names)
        assert out["loss"].item() == pytest.approx(loss.item(), rel=2e-5, abs=1e-6)
        for ours, theirs in zip(seen["online"], features["online"], strict=True):
            close(ours.grad, theirs.grad, "gradient of h")
        for (branch, name), head in heads.items():
            for key, weight in step.branch(branch).heads[name].named_parameters():
                if branch == "online":
                    close(weight.grad, head.state[key].grad, f"gradient of {name}.{key}")
                else:
                    assert weight.grad is None
        for parameter, reference in extra:
            close(parameter.grad, reference().grad, "gradient of the relation")
        before = {name: value.clone() for name, value in step.state_dict().items() if name != "_extra_state"}
        optimizer.step()
        step.after_step()
        for (branch, _), head in heads.items():
            if branch == "online":
                head.descend()
        for (branch, name), head in heads.items():
            if branch == "teacher":
                head.follow(heads["online", name], momenta[number])
        after()
        for (branch, name), head in heads.items():
            for key, value in step.branch(branch).heads[name].state_dict().items():
                close(value, head.state[key], f"{branch}.{name}.{key} after update {number}")
        if momenta:
            check_teacher(step, before, momenta[number])
        for parameter, reference in extra:
            close(parameter, reference(), "the relation's parameters")


def check_teacher(step, before, momentum):
    """All its parameters have moved by 1 - momentum of the way to where the online ones are now; nothing else has."""
    parameters = dict(step.branch("online").named_parameters())
    now = step.branch("teacher").state_dict()
    assert any(name.startswith("backbone") for name in parameters)
    for name, value in now.items():
        old = before[f"branches.teacher.{name}"]
        if name in parameters:
            old = momentum * old.double() + (1 - momentum) * parameters[name].detach().double()
        torch.testing.assert_close(value.double(), old.double(), rtol=1e-6, atol=1e-7, msg=name)


def close(found, wanted, what):
    wanted = wanted.detach().double()
    scale = float(wanted.abs().max())
    torch.testing.assert_close(
        found.detach().double(), wanted, rtol=1e-4, atol=3e-5 * scale + 1e-7, msg=lambda m: f"{what}: {m}"
    )


# ------------------------------------------------------------------------------------------------- the frameworks


def test_simsiam():
    step = make("cosine(p(a), toward=stop(z(b)), weight=0.5, swapped=True)", "projector(h, 12, layers=2)")
    assert list(step.branches) == ["online"]
    z, p = (Head(step.main.heads[name]) for name in "zp")

    def loss(features):
        h_a, h_b = features["online"]
        z_a = z(h_a)  # one view after the other, so do BatchNorm's running moments move
        p_a = p(z_a)
        z_b = z(h_b)
        p_b = p(z_b)
        return cosine(p_a, z_b) / 2 + cosine(p_b, z_a) / 2

    check(step, loss, {("online", "z"): z, ("online", "p"): p}, names=["cosine"])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_byol(schedule):
    line = "cosine(p(a), toward=teacher.z(b), weight=2, swapped=True)"
    step = make(line, ema=f"ema(online, momentum=0.8, schedule='{schedule}')")
    z, p, target = Head(step.main.heads["z"]), Head(step.main.heads["p"]), Head(step.branch("teacher").heads["z"])

    def loss(features):
        p_a, p_b = (p(z(h)) for h in features["online"])
        z_a, z_b = (target(h) for h in features["teacher"])
        # |p - z|^2 of unit vectors, both directions: 2 + 2 D each, and here without the constants
        squares = ((unit(p_a) - unit(z_b).detach()) ** 2).sum(dim=1) + ((unit(p_b) - unit(z_a).detach()) ** 2).sum(
            dim=1
        )
        return squares.mean() - 4

    # BYOL, section 3.1, with K = 5 updates in all
    rising = [1 - (1 - 0.8) * (math.cos(math.pi * k / 5) + 1) / 2 for k in range(UPDATES)]
    momenta = [0.8] * UPDATES if schedule == "constant" else rising
    heads = {("online", "z"): z, ("online", "p"): p, ("teacher", "z"): target}
    check(step, loss, heads, momenta, names=["cosine"])


@pytest.mark.parametrize("chunk", ["", ", chunk=3"])
def test_simclr(chunk):
    step = make(f"nt_xent(z(a), z(b), temperature=0.2{chunk})")
    z = Head(step.main.heads["z"])

    def loss(features):
        z_a, z_b = (z(h) for h in features["online"])
        rows = unit(torch.cat([z_a, z_b]))
        value = 0
        for i in range(2 * B):
            others = torch.stack([rows[i] @ rows[j] / 0.2 for j in range(2 * B) if j != i])
            value = value - (rows[i] @ rows[(i + B) % (2 * B)] / 0.2 - others.exp().sum().log()) / (2 * B)
        assert value.item() == pytest.approx(references.nt_xent(array(z_a), array(z_b), 0.2))
        return value

    check(step, loss, {("online", "z"): z}, names=["nt_xent"])


def in_order(relation):
    """The queue, oldest key first."""
    return relation.queue.roll(-int(relation.oldest), 0)


# 8 keys an update: a queue that they fill in a part, in whole updates, with a rest, at once, and more than fill
@pytest.mark.parametrize("size", [40, 16, 12, 8, 5, 1])
def test_moco(size):
    step = make(f"info_nce(z(a), toward=teacher.z(b), queue={size}, temperature=0.2)", ema="ema(online, momentum=0.7)")
    z, target = Head(step.main.heads["z"]), Head(step.branch("teacher").heads["z"])
    relation = step.relations["info_nce"]
    torch.testing.assert_close(relation.queue.norm(dim=1), torch.ones(size))
    queue, keys = [row.double() for row in relation.queue.clone()], []

    def loss(features):
        (q,), (k,) = (z(h) for h in features["online"]), (target(h) for h in features["teacher"])
        q, k = unit(q), unit(k).detach()
        value = 0
        for query, key in zip(q, k, strict=True):
            logits = torch.stack([query @ other / 0.2 for other in (key, *queue)])
            value = value - (logits[0] - logits.exp().sum().log()) / B
        assert value.item() == pytest.approx(references.info_nce(array(q), array(k), np.array(torch.stack(queue)), 0.2))
        keys.append(k)
        return value

    def after():
        for key in keys.pop():
            queue.append(key)
            queue.pop(0)
        close(in_order(relation), torch.stack(queue), "queue, oldest first")
        if size >= B:  # then the place of the oldest is that of a ring that is written on and on
            assert int(relation.oldest) == step.updates * B % size
        assert 0 <= int(relation.oldest) < size

    check(step, loss, {("online", "z"): z, ("teacher", "z"): target}, [0.7] * UPDATES, after, ["info_nce"])


def test_the_queue_takes_in_all_parts_of_an_update_and_nothing_in_evaluation():
    step = make("info_nce(z(a), toward=teacher.z(b), queue=20, temperature=0.2)")
    relation = step.relations["info_nce"]
    begun = relation.queue.clone()
    keys = []
    step.branch("teacher").heads["z"].register_forward_hook(lambda m, args, out: keys.append(unit(out.detach())))
    for seed in (0, 1):
        step(photos(seed), index=range(B), epoch=0)
    assert torch.equal(relation.queue, begun)  # the negatives of all parts of an update are the same
    step.after_step()
    torch.testing.assert_close(in_order(relation), torch.cat([begun[16:], *keys]))
    begun = relation.queue.clone()
    with torch.no_grad():
        step(photos(2), index=range(B), epoch=0)
    step.eval()
    step(photos(2), index=range(B), epoch=0)
    step.after_step()
    assert torch.equal(relation.queue, begun)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("freeze", [0, 2])
def test_swav(small, freeze):
    others = "others=z(small), " if small else ""
    line = f"swav(z(a), z(b), {others}prototypes=4, temperature=0.1, epsilon=0.05, freeze={freeze})"
    # the ViT reads one size only; all views pass the projector at once, and so in one BatchNorm
    step = make(line, backbone="cresnet20" if small else TINY, forward="joint")
    z, relation = Head(step.main.heads["z"]), step.relations["swav"]
    start = relation.prototypes.detach().double().clone()
    state = {"c": start.clone().requires_grad_(), "speed": 0, "updates": 0}

    def loss(features):
        c = 0 * state["c"] + start if state["updates"] < freeze else state["c"]  # frozen: its gradient is zero
        every = unit(z(torch.cat(features["online"]))) @ c.T
        scores, crops = list(every[: 2 * B].split(B)), every[2 * B :]
        codes = [torch.from_numpy(references.sinkhorn(array(rows), 0.05, 3)) for rows in scores]
        if small:
            scores += [crops[t::3] for t in range(3)]  # row 3 i + t: crop t of image i
        assert len(scores) == (5 if small else 2)
        value = 0
        for code, other in ((0, 1), (1, 0)):
            predict = [scores[other], *scores[2:]]
            each = [-(codes[code] * (s / 0.1).log_softmax(dim=1)).sum(dim=1).mean() for s in predict]
            value = value + sum(each) / len(each)
        if not small:
            assert value.item() == pytest.approx(references.swav(*map(array, scores), 0.1, 0.05, 3))
        return value

    def after():
        c = state["c"]
        state["speed"] = MOMENTUM * state["speed"] + c.grad + DECAY * c.detach()
        state["updates"] += 1
        moved = unit(c.detach() - LR * state["speed"])
        state["c"] = (start.clone() if state["updates"] <= freeze else moved).requires_grad_()
        torch.testing.assert_close(relation.prototypes.norm(dim=1), torch.ones(4))
        if state["updates"] <= freeze:
            assert torch.equal(relation.prototypes.double(), start)
        else:
            assert (relation.prototypes.double() - start).abs().max() > 1e-3

    check(
        step, loss, {("online", "z"): z}, after=after, names=["swav"], extra=[(relation.prototypes, lambda: state["c"])]
    )


# ----------------------------------------------------------------------------------------------------- heads' sizes


def linear(inputs, out, bias):
    return inputs * out + bias * out


HEADS_OF = {  # framework: its heads as in docs/systems.md, h being the width of the backbone, and their weights
    "simsiam": (
        {"z": "projector(h, 2048, layers=2)", "p": "predictor(z, 512)"},
        lambda h: {
            "z": linear(h, 2048, False) + 2 * 2048 + linear(2048, 2048, False),  # the last BatchNorm has no affine
            "p": linear(2048, 512, False) + 2 * 512 + linear(512, 2048, True),
        },
    ),
    "simsiam, 3 layers": (
        {"z": "projector(h, 2048, layers=3)"},
        lambda h: {"z": linear(h, 2048, False) + 2 * linear(2048, 2048, False) + 2 * 2 * 2048},
    ),
    "byol": (
        {"z": "projector(h, 256, hidden=4096, norm_last=False)", "p": "predictor(z, 4096)"},
        lambda h: {
            "z": linear(h, 4096, False) + 2 * 4096 + linear(4096, 256, True),
            "p": linear(256, 4096, False) + 2 * 4096 + linear(4096, 256, True),
        },
    ),
    "moco and simclr": (
        {"z": "projector(h, 128, hidden=HIDDEN, norm_last=False)"},
        lambda h: {"z": linear(h, h, False) + 2 * h + linear(h, 128, True)},
    ),
    "swav": (
        {"z": "projector(h, 128, hidden=2048, norm_last=False)"},
        lambda h: {"z": linear(h, 2048, False) + 2 * 2048 + linear(2048, 128, True)},
    ),
}


@pytest.mark.parametrize("width", [512, 2048], ids=["resnet18", "resnet50"])
@pytest.mark.parametrize("framework", HEADS_OF)
def test_sizes_of_heads(framework, width):
    texts, count = HEADS_OF[framework]
    texts = {name: text.replace("HIDDEN", str(width)) for name, text in texts.items()}
    spec = parse_branch("online", {"backbone": "resnet18", **texts})
    dims, found = {"h": width}, {}
    with torch.device("meta"):
        for name, call in spec.heads.items():
            sizes = {"inputs": dims[call.args[0].text], "classes": C}
            module, dims[name] = bind(HEADS[call.name], Call(call.name, call.args[1:], call.kwargs), name, **sizes)
            found[name] = sum(parameter.numel() for parameter in module.parameters())
            norms = [layer for layer in module if isinstance(layer, nn.BatchNorm1d)]
            linears = [layer for layer in module if isinstance(layer, nn.Linear)]
            ends_in_norm = framework.startswith("simsiam") and name == "z"
            assert len(norms) == len(linears) - (not ends_in_norm)
            assert (not norms[-1].affine) == ends_in_norm
    assert found == count(width)


def test_prototypes_of_swav():
    step = make("swav(z(a), z(b))", "projector(h, 128, hidden=64, norm_last=False)")
    parameters = dict(step.relations.named_parameters())
    assert {name: tuple(value.shape) for name, value in parameters.items()} == {"swav.prototypes": (100, 128)}
    relation = step.relations["swav"]
    assert (relation.temperature, relation.epsilon, relation.iterations, relation.freeze) == (0.1, 0.05, 3, 0)
