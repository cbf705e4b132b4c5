"""SAM by hand beside ours: losses, weights, gradients, statistics of BatchNorm, terms; and what follows an update."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manyview.errors import ManyviewError, RecipeError
from manyview.load import load_recipe, parse_recipe
from manyview.optimize.again import looking_again
from manyview.optimize.optimize import fixed_parts, lr_factor, make_optimizer
from manyview.optimize.passes import passes_of
from manyview.optimize.sam import Sam, ascent
from manyview.step import Step
from subjects import smooth

LR, MOMENTUM, DECAY = 0.02, 0.9, 0.01


class ByHand:
    """SAM as its papers have it, with SGD, on a network's own copy: no optimiser of torch's, BatchNorm told by hand."""

    def __init__(self, network, rho, adaptive=False):
        self.network, self.rho, self.adaptive = network, rho, adaptive
        self.speed = [torch.zeros_like(weight) for weight in network.parameters()]

    def update(self, first, second=None):
        """first, second: from the network to the loss of each look. Returns the first's loss, and both's gradients."""
        weights, norms = list(self.network.parameters()), [m for m in self.network.modules() if hasattr(m, "momentum")]
        torch.manual_seed(7)
        loss = first(self.network)
        slopes = torch.autograd.grad(loss, weights)
        scales = [weight.detach() ** 2 if self.adaptive else 1 for weight in weights]
        lengths = [w.detach() * g if self.adaptive else g for w, g in zip(weights, slopes, strict=True)]
        norm = torch.sqrt(sum((length**2).sum() for length in lengths))
        before = [weight.detach().clone() for weight in weights]
        kept = [module.momentum for module in norms]
        with torch.no_grad():
            for weight, slope, scale in zip(weights, slopes, scales, strict=True):
                weight += self.rho * scale * slope / norm
        for module in norms:
            module.momentum = 0.0
        torch.manual_seed(7)
        uphill = torch.autograd.grad((second or first)(self.network), weights)
        for module, momentum in zip(norms, kept, strict=True):
            module.momentum = momentum
        with torch.no_grad():
            for number, (weight, old, slope) in enumerate(zip(weights, before, uphill, strict=True)):
                self.speed[number] = MOMENTUM * self.speed[number] + slope + DECAY * old
                weight.copy_(old - LR * self.speed[number])
        return loss.detach(), slopes, uphill


def statistics(module):
    return {name: value for name, value in module.named_buffers() if name.endswith(("running_mean", "running_var"))}


def assert_close(one, two, **tolerance):
    for (name, left), (other, right) in zip(one.items(), two.items(), strict=True):
        torch.testing.assert_close(left, right, **tolerance, msg=lambda text, name=name, other=other: f"{name} {text}")


@pytest.mark.parametrize("adaptive", [False, True])
def test_three_updates_are_those_by_hand_in_float64(adaptive):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)]
    ours = nn.Sequential(*layers).double()
    hand = ByHand(copy.deepcopy(ours), 0.5, adaptive)
    inner = torch.optim.SGD(ours.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    optimizer = Sam(inner, ours, rho=0.5, adaptive=adaptive)
    for _ in range(3):
        x, y, seen = torch.randn(10, 6, dtype=torch.float64), torch.randint(3, (10,)), []

        def closure(x=x, y=y, seen=seen):
            optimizer.zero_grad()
            loss = F.cross_entropy(ours(x), y)
            loss.backward()
            seen.append([weight.grad.clone() for weight in ours.parameters()])
            return loss.detach()

        loss, first, second = hand.update(lambda network, x=x, y=y: F.cross_entropy(network(x), y))
        torch.manual_seed(7)
        torch.testing.assert_close(optimizer.step(closure), loss, rtol=0, atol=1e-12)
        for mine, its in zip(seen, (first, second), strict=True):
            torch.testing.assert_close(mine, list(its), rtol=0, atol=1e-12)
        assert_close(statistics(ours), statistics(hand.network), rtol=0, atol=1e-12)
        assert_close(dict(ours.named_parameters()), dict(hand.network.named_parameters()), rtol=0, atol=1e-12)
    assert int(ours[1].num_batches_tracked) == 3
    assert not torch.equal(first[0], second[0])


def test_the_way_up_by_numbers():
    weights = [torch.tensor([3.0, -2.0]), torch.tensor([[0.0]])]
    slopes = [torch.tensor([1.0, 2.0]), torch.tensor([[2.0]])]
    assert [way.tolist() for way in ascent(weights, slopes, 6)] == [[2, 4], [[4]]]  # the norm is 3
    way = ascent(weights, slopes, 5.0, adaptive=True)  # |w| g = (3, 4), 0
    assert [each.tolist() for each in way] == [[9, 8], [[0]]]
    assert [each.tolist() for each in ascent(weights, [0 * slope for slope in slopes], 5.0)] == [[0, 0], [[0]]]


TEXT = """
seed: 2
views: {a: {from: image, make: "pad_crop(16, padding=2) | flip(0.5)"}, b: {like: a}}
branches: {net: {backbone: cresnet20}}
relations: ["cross_entropy(logits(a), logits(b))", "similarity(h(a), h(b), weight=3)"]
train: {steps: 3, batch_size: 6, optimizer: "sam(sgd(lr=0.02, momentum=0.9, weight_decay=0.01), rho=0.2)"}
"""


def images(seed, count=6):
    draw = torch.Generator().manual_seed(seed)
    made = torch.randint(0, 256, (count, 3, 16, 16), generator=draw, dtype=torch.uint8)
    return made, torch.randint(5, (count,), generator=draw)


class Both(nn.Module):
    """Both terms of TEXT, by hand."""

    def __init__(self, step):
        super().__init__()
        main = copy.deepcopy(step.main)
        self.backbone, self.logits = main.backbone, main.heads["logits"]
        self.mean, self.std = main.mean, main.std

    def terms(self, views, labels):
        pixels = torch.cat([views["a"].pixels, views["b"].pixels])
        h = self.backbone((pixels - self.mean) / self.std)
        one, two = h.chunk(2)
        return F.cross_entropy(self.logits(h), labels.repeat(2)), 3 * F.mse_loss(one, two)


PASSES = {
    "all": ("", (1, 1), (1, 1)),
    "cross-entropy leads up": (", ascend='cross_entropy'", (1, 0), (1, 1)),
    "the tie leads up, cross-entropy down": (", ascend='similarity', descend=('cross_entropy',)", (0, 1), (1, 0)),
}


@pytest.mark.parametrize("terms", PASSES)
def test_a_whole_step_with_named_terms(terms):
    more, *shares = PASSES[terms]
    recipe = parse_recipe(TEXT.replace("rho=0.2", "rho=0.2" + more))
    step = Step(recipe, 5, backbone=smooth())
    hand, optimizer = ByHand(Both(step), 0.2), make_optimizer(recipe.train, step)
    step.attach(optimizer)
    for number in range(3):
        views = step.views(*images(number), index=range(6), epoch=number)
        labels = images(number)[1]

        def closure(views=views, labels=labels):
            optimizer.zero_grad()
            out = step(views, labels)
            optimizer.loss(out).backward()
            return out["loss"].detach()

        def looks(share, views=views, labels=labels):
            return lambda network: sum(w * t for w, t in zip(share, network.terms(views, labels), strict=True))

        with torch.no_grad():
            whole = sum(copy.deepcopy(hand.network).terms(views, labels))
        hand.update(*map(looks, shares))
        torch.testing.assert_close(optimizer.step(closure), whole, rtol=0, atol=1e-6)
    assert step.updates == 3
    assert_close(statistics(step.main.backbone), statistics(hand.network.backbone), rtol=0, atol=1e-6)
    for mine, its in ((step.main.backbone, hand.network.backbone), (step.main.heads["logits"], hand.network.logits)):
        assert_close(dict(mine.named_parameters()), dict(its.named_parameters()), rtol=0, atol=2e-6)


def test_what_a_batch_leaves_behind_it_leaves_once():
    """A queue's keys, a teacher's statistics, the count of updates: those of a step that looked at the batch once."""
    text = """
seed: 2
views: {a: {from: image, make: "pad_crop(16, padding=2) | flip(0.5)"}, b: {like: a}}
branches:
  online: {backbone: cresnet20, z: "projector(h, 12)", forward: separate}
  teacher: ema(online, momentum=0.8)
relations:
- info_nce(z(a), toward=teacher.z(b), queue=16)
- swav(z(a), z(b), prototypes=6)
- dino(z(a), z(b), toward=teacher)
- lejepa(z(a), z(b))
train: {steps: 4, optimizer: "OPTIMIZER"}
"""
    once, twice = (
        Step(parse_recipe(text.replace("OPTIMIZER", each)), 0) for each in ("sgd(lr=0.1)", "sam(sgd(lr=0.1))")
    )
    optimizer = make_optimizer(twice.recipe.train, twice)
    twice.attach(optimizer)
    plain = make_optimizer(once.recipe.train, once)
    once.attach(plain)
    photos = images(0)[0]
    once(photos, index=range(6), epoch=0)["loss"].backward()
    plain.step()

    def closure():
        optimizer.zero_grad()
        twice(photos, index=range(6), epoch=0)["loss"].backward()

    optimizer.step(closure)
    assert_close(dict(twice.named_buffers()), dict(once.named_buffers()), rtol=0, atol=0)
    assert int(twice.relations["info_nce"].oldest) == 6
    assert once.updates == twice.updates == 1
    assert (once.rows_per_image, twice.rows_per_image) == (4, 8)
    assert not torch.equal(*(each.main.backbone.conv1.weight for each in (once, twice)))


@pytest.mark.parametrize("terms", ["", ", descend='similarity'"])
def test_heads_that_look_on_change_nothing_and_learn_in_each_look(terms):
    text = TEXT.replace("rho=0.2", "rho=0.2" + terms)
    judge = 'cross_entropy(probe(a), weight=30)"]'
    judged = text.replace("cresnet20", "cresnet20, probe: 'linear(stop(h))'").replace(
        'weight=3)"]', f'weight=3)", "{judge}'
    )
    steps = [Step(parse_recipe(each), 5) for each in (text, judged)]
    begun = {name: weight.clone() for name, weight in steps[1].named_parameters()}
    for step in steps:
        optimizer = make_optimizer(step.recipe.train, step)

        def closure(step=step, optimizer=optimizer):
            optimizer.zero_grad()
            optimizer.loss(step(*images(0), index=range(6), epoch=0)).backward()

        optimizer.step(closure)
    without, probed = (dict(step.named_parameters()) for step in steps)
    assert_close(without, {name: probed[name] for name in without}, rtol=0, atol=0)
    lookers = probed.keys() - without.keys()
    assert lookers
    assert not any(torch.equal(probed[name], begun[name]) for name in lookers)
    with pytest.raises(RecipeError, match=r"unknown relation 'cross_entropy_2'; .*relations that teach: cross_ent"):
        parse_recipe(judged, "train.optimizer.ascend=cross_entropy_2")


class Notes(nn.Module):
    """What a relation of one's own may do in a forward pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.rows, self.by_class, self.last = [], {}, None

    def forward(self, x):
        self.seen += x
        self.rows.append(x)
        self.by_class[len(self.rows)] = x
        self.last = x
        self.late = x


def test_a_second_look_leaves_nothing_in_buffers_and_notes():
    whole = nn.Sequential(Notes(), nn.BatchNorm1d(3))
    notes, norm = whole
    notes(torch.ones(3))
    rows = notes.rows
    with looking_again(whole):
        notes(torch.full((3,), 2.0))
        norm(torch.randn(4, 3))
        notes.seen = notes.seen * 5  # put in the place of the other
    assert notes.seen.tolist() == [1, 1, 1]
    assert (len(notes.rows), list(notes.by_class), notes.last.tolist()) == (1, [1], [1, 1, 1])
    assert notes.rows[0] is rows[0]
    assert norm.running_mean.tolist() == [0, 0, 0]
    assert int(norm.num_batches_tracked) == 0


def test_fixed_parts_stay_in_both_looks():
    recipe = parse_recipe(TEXT, "train.optimizer.scale={'backbone': 0}", "train.optimizer.per=3")
    assert (fixed_parts(recipe.train), lr_factor(recipe.train)) == (["backbone"], 2.0)
    step = Step(recipe, 5)
    optimizer = make_optimizer(recipe.train, step)
    step.hold(fixed_parts(recipe.train))
    before, seen = copy.deepcopy(step.main.backbone.state_dict()), []
    photos, labels = images(0)

    def closure():
        optimizer.zero_grad()
        step(photos, labels, index=range(6), epoch=0)["loss"].backward()
        seen.append([copy.deepcopy(part.state_dict()) for part in (step.main.backbone, step.main.heads["logits"])])

    optimizer.step(closure)
    (first, head), (second, moved) = seen
    assert_close(first, second, rtol=0, atol=0)
    assert_close(step.main.backbone.state_dict(), before, rtol=0, atol=0)
    assert (moved["weight"] - head["weight"]).square().sum() + (moved["bias"] - head["bias"]).square().sum() == (
        pytest.approx(0.2**2, rel=1e-3)
    )


def test_groups_state_and_hooks_are_shared_with_the_optimiser_inside():
    layer = nn.Linear(2, 2)
    optimizer = Sam(torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9), layer)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))

    def closure():
        optimizer.zero_grad()
        layer(torch.ones(1, 2)).square().sum().backward()

    optimizer.step(closure)
    assert len(calls) == 1
    plain = torch.optim.SGD(layer.parameters(), lr=0.3, momentum=0.9)
    plain.load_state_dict(optimizer.state_dict())  # what is saved is the inner one's
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups is optimizer.inner.param_groups
    torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.param_groups[0]["lr"] = 0.0
    before = layer.weight.clone()
    optimizer.step(closure)
    assert torch.equal(layer.weight, before)  # to the bit, though it was elsewhere


def test_a_loop_that_looks_once_is_told():
    layer = nn.Linear(2, 2)
    optimizer = Sam(torch.optim.SGD(layer.parameters(), lr=0.1), layer)
    with pytest.raises(ManyviewError, match=r"^sam looks at each batch twice: give optimizer\.step\(closure\)"):
        optimizer.step()
    with pytest.raises(ManyviewError, match="no gradients to ascend by"):
        optimizer.ascend()
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.ascend()
    with pytest.raises(ManyviewError, match="once an update"):
        optimizer.ascend()
    with pytest.raises(ManyviewError, match="not around itself"):
        Sam(optimizer, layer)
    with pytest.raises(ManyviewError, match="rho is a distance above 0"):
        Sam(torch.optim.SGD(layer.parameters(), lr=0.1), layer, rho=0)
    output = {"loss": torch.zeros(()), "terms": {"cross_entropy": torch.zeros(())}}
    with pytest.raises(RecipeError, match="did you mean 'cross_entropy'"):
        Sam(torch.optim.SGD(layer.parameters(), lr=0.1), layer, ascend="cross_entrpy").loss(output)


def test_weights_come_back_from_a_second_look_that_fails():
    layer = nn.Linear(2, 2)
    optimizer, before, looks = Sam(torch.optim.SGD(layer.parameters(), lr=0.1), layer), layer.weight.clone(), []

    def closure():
        looks.append(layer.weight.clone())
        if len(looks) == 2:
            raise KeyboardInterrupt
        layer(torch.ones(1, 2)).sum().backward()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert not torch.equal(looks[1], before)
    assert torch.equal(layer.weight, before)
    with pytest.raises(ManyviewError, match="twice"):
        optimizer.step()


def test_weights_come_back_from_a_second_look_that_a_loop_makes_itself():
    """As training does, by the passes: a failure there must not leave a caller's network where the loss is largest."""
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    first, second = passes_of(Sam(torch.optim.SGD(layer.parameters(), lr=0.1), layer))
    layer(torch.ones(1, 2)).sum().backward()
    first.then()
    assert not torch.equal(layer.weight, before)
    with pytest.raises(MemoryError), second.looking():
        raise MemoryError
    assert torch.equal(layer.weight, before)


REFUSED = {
    "sam(sgd(lr=0.1), rho=0)": r"rho is a distance above 0, such as 0\.05, got 0$",
    "sam(sgd(lr=0.1), rho=-1)": r"rho is a distance above 0, such as 0\.05, got -1$",
    "sam(sgd(lr=0.1), rho=True)": r"got True$",
    "sam(sgd(lr=0.1), adam(lr=0.1))": r"got adam\(lr=0\.1\)$",
    "sam(sgd(lr=0.1), adaptive=1)": r"adaptive must be True or False, got 1$",
    "sam(sgd(lr=0.1), roh=0.1)": r"sam: unknown argument 'roh'; did you mean 'rho'\?",
    "sam(sgd(lr=0.1), ascend='cross_entrop')": r"ascend: unknown relation 'cross_entrop'; did you mean 'cross_en",
    "sam(sgd(lr=0.1), descend=('similarity', 'tie'))": r"descend: unknown relation 'tie'; relations that teach: cr",
    "sam(sgd(lr=0.1), ascend=cross_entropy)": r"put quotes round ascend='cross_entropy'$",
    "sam(sam(sgd(lr=0.1)))": r"sam stands around another optimiser, as in sam\(sgd\(lr=0\.1\)\), not around itself$",
    "sam(of=sam(sgd(lr=0.1)))": r"not around itself$",
    "sam()": r"sam stands around an optimiser, as in sam\(sgd\(lr=0\.1\), rho=0\.05\)$",
    "sam(0.1)": r"sam stands around an optimiser, as in sam\(sgd\(lr=0\.1\), rho=0\.05\), got 0\.1$",
    "sam(sgdd(lr=0.1))": r"unknown optimizer 'sgdd'; did you mean 'sgd'\?",
    "sam(sgd(lrr=0.1))": r"sgd: unknown argument 'lrr'; did you mean 'lr'\?",
    "samm(sgd(lr=0.1))": r"unknown optimizer 'samm'; did you mean 'sam'\?",
    "sgd(sam(lr=0.1))": r"write arguments by name",
}


@pytest.mark.parametrize("written", REFUSED)
def test_what_is_refused(written):
    with pytest.raises(RecipeError, match=rf"^train\.optimizer: .*{REFUSED[written]}") as told:
        parse_recipe(TEXT, f"train.optimizer={written}")
    assert "\n" not in str(told.value)


def test_overrides_reach_in():
    """What sam has of its own is sam's, all else the optimiser's inside; either may be said by name."""

    def changed(*overrides):
        return parse_recipe(TEXT, *(f"train.optimizer{each}" for each in overrides)).train.optimizer

    assert changed(".rho=0.1") == "sam(sgd(lr=0.02, momentum=0.9, weight_decay=0.01), rho=0.1)"
    assert changed(".lr=0.3") == "sam(sgd(lr=0.3, momentum=0.9, weight_decay=0.01), rho=0.2)"
    assert changed(".sgd.lr=0.3", ".sam.rho=1") == "sam(sgd(lr=0.3, momentum=0.9, weight_decay=0.01), rho=1)"
    assert changed("=sam(of=sgd(lr=1, per=6))", ".lr=0.3") == "sam(of=sgd(lr=0.3, per=6))"
    assert changed("=sam(sgd)", ".lr=0.3", ".ascend=similarity") == "sam(sgd(lr=0.3), ascend='similarity')"
    with pytest.raises(RecipeError, match="unknown call 'adam'; calls: sam, sgd"):
        changed(".adam.lr=0.3")
    per = parse_recipe(TEXT.replace("lr=0.02,", "lr=0.02, per=6,"), "train.optimizer.lr=0.2")
    assert "per" not in per.train.optimizer  # an lr that is given is for the run's own batches


@pytest.mark.parametrize("name", ["sam_cifar10", "tied_sam_cifar10"])
def test_packaged(name):
    recipe = load_recipe(name)
    assert Step(recipe, 10).rows_per_image == 2 * len(recipe.train_views)
