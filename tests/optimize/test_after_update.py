"""What follows an update: an attached optimiser does it, once an update, as calls by hand would."""

import copy
import pickle

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from timm.optim import Lookahead

from manyview.errors import ManyviewError
from manyview.load import parse_recipe
from manyview.optimize.after_update import AfterUpdate
from manyview.step import Step

B = 6
TEXT = """
seed: 2
views: {a: {from: image, make: "pad_crop(16, padding=2) | flip(0.5)"}, b: {like: a}}
branches:
  online: {backbone: cresnet20, z: "projector(h, 12)", forward: separate}
  teacher: ema(online, momentum=0.8, schedule="cosine")
relations:
- info_nce(z(a), toward=teacher.z(b), queue=16)
- swav(z(a), z(b), prototypes=6, weight=warmup(0.5))
train: {steps: 10, ema: 0.5}
"""


def part(step, seed):
    generator = torch.Generator().manual_seed(seed)
    photos = torch.randint(0, 256, (B, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return step(photos, index=range(B), epoch=0)["loss"]


def sgd(step):
    return torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=0.1, momentum=0.9)


def made(attached=True):
    step = Step(parse_recipe(TEXT), 5)
    optimizer = sgd(step)
    if attached:
        step.attach(optimizer)
    return step, optimizer


def test_an_attached_optimiser_does_what_calls_by_hand_do_once_an_update():
    (one, first), (two, second) = made(), made(attached=False)
    assert (one.attached, two.attached) == (True, False)
    for number in range(3):
        for each in range(2):  # parts of a batch
            for step in (one, two):
                (part(step, 2 * number + each) / 2).backward()
        first.step()
        second.step()
        two.after_step()
        first.zero_grad()
        second.zero_grad()
    assert one.updates == two.updates == 3
    theirs = two.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert int(one.relations["info_nce"].oldest) == 3 * 2 * B % 16  # each key once


@pytest.mark.parametrize("fused", [False, True])
def test_nothing_follows_an_update_that_a_scaler_skips(fused):
    step = Step(parse_recipe(TEXT), 5)
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=0.1, fused=fused)
    step.attach(optimizer)
    before = {name: value.clone() for name, value in step.named_parameters()}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-127)
    for updates in (0, 1):  # the first scale is too large, the one after fits
        scaler.scale(part(step, 0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        moved = [name for name, value in step.named_parameters() if not torch.equal(value, before[name])]
        assert step.updates == updates
        assert any(name.startswith("branches.teacher.") for name in moved) == bool(updates)
        assert any(name.startswith("branches.online.") for name in moved) == bool(updates)


def test_nothing_follows_twice():
    step, optimizer = made()
    with pytest.raises(ManyviewError, match=r"^after_step: the attached optimiser does this .* drop the call$"):
        step.after_step()
    with pytest.raises(ManyviewError, match=r"^attach: an optimiser is attached already; attach once"):
        step.attach(optimizer)
    assert step.updates == 0


def test_what_was_attached_can_be_removed():
    step, optimizer = made(attached=False)
    step.attach(optimizer).remove()
    assert not step.attached
    optimizer.step()
    assert step.updates == 0
    step.after_step()
    step.attach(optimizer)
    optimizer.step()
    assert step.updates == 2


def test_an_optimiser_that_is_gone_calls_no_more():
    step, optimizer = made()
    del optimizer
    assert not step.attached
    step.attach(sgd(step))


def test_copies_are_attached_nowhere():
    step, optimizer = made()
    for other in (copy.deepcopy(step), pickle.loads(pickle.dumps(AfterUpdate()))):
        assert not other.attached
    twin = copy.deepcopy(step)
    optimizer.step()
    assert (step.updates, twin.updates) == (1, 0)
    twin.after_step()


@pytest.fixture
def accelerator():
    yield Accelerator(gradient_accumulation_steps=2, cpu=True)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def test_accelerates_wrapper_steps_once_for_all_parts(accelerator):
    step, optimizer = made(attached=False)
    wrapped, wrapper = accelerator.prepare(step, optimizer)
    step.attach(wrapper)
    for number in range(4):
        with accelerator.accumulate(wrapped):
            accelerator.backward(part(wrapped, number))
            wrapper.step()
            wrapper.zero_grad()
    assert step.updates == 2


def test_a_wrapper_that_calls_no_hooks_is_refused():
    step, optimizer = made(attached=False)
    told = r"^attach: Lookahead calls no hooks .* attach nothing, and call step\.after_step\(\) after each of them$"
    with pytest.raises(ManyviewError, match=told):
        step.attach(Lookahead(optimizer))
    assert not step.attached


def test_what_raises_in_an_update_is_no_update():
    step, optimizer = made()

    def closure():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert step.updates == 0


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_an_update_that_a_scaler_skips_moves_nothing(fused):
    """A fused optimiser is called all the same, and skips by itself."""
    step, _ = made(attached=False)
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=0.1, fused=fused)
    step.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = {name: value.clone() for name, value in step.branch("teacher").named_parameters()}
    for number, grows in enumerate((float("inf"), 1.0)):
        optimizer.zero_grad()
        (scaler.scale(part(step, number)) * grows).backward()
        scaler.step(optimizer)
        scaler.update()
        assert step.updates == number
        same = all(torch.equal(before[name], value) for name, value in step.branch("teacher").named_parameters())
        assert same == (number == 0)
