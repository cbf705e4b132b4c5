"""What an update costs by its shapes, against the same operations computed, and against what each part must add."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from commands import done
from manyview.data.batch import Batch
from manyview.errors import RecipeError
from manyview.load import parse_recipe
from manyview.optimize.optimize import make_optimizer
from manyview.recipe.streams import streams_seen
from manyview.show.step_flops import flops_of_update
from manyview.step import Step

BASE = """
views:
  a: {from: image, make: "crop(16) | flip(0.5)"}
  b: {from: image, make: "crop(8) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8)"}
branches:
  net: {backbone: cresnet20, z: "projector(h, 16)", p: "predictor(z, 8)"}
  teacher: ema(net, momentum=0.9)
relations: ["cosine(p(a), toward=teacher.z(b))"]
train: {steps: 10, batch_size: 6, optimizer: "sgd(lr=0.1)"}
"""
RELATIONS = {
    "teacher": '["cosine(p(a), toward=teacher.z(b))"]',
    "agmax": '["cross_entropy(logits(a), logits(b))", "agmax(logits(a), logits(b), hidden=16)"]',
    "queue": '["info_nce(z(a), toward=teacher.z(b), queue=24, temperature=0.2)"]',
    "augself": '["augself(h(a), h(b), crop=1.0)"]',
    "cka": """["cross_entropy(logits(a))", 'similarity(h(a), h(b), kind="cka")']""",
}


def recipe(relations="teacher", **changes):
    text = BASE.replace(RELATIONS["teacher"], RELATIONS[relations])
    return parse_recipe(text, *(f"{key.replace('__', '.')}={value}" for key, value in changes.items()))


def counted(made, images=6):
    return flops_of_update(made, Step(made, 10), dict.fromkeys(streams_seen(made), images))


def computed(made, images=6):
    """The same update, computed on random images, by a loop of its own."""
    step = Step(made, 10).train()
    optimizer = make_optimizer(made.train, step)
    step.attach(optimizer)
    pixels = torch.randint(0, 256, (images, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    batch = Batch(pixels, torch.arange(images) % 10, torch.arange(images), 0)
    with FlopCounterMode(display=False) as counter:
        step(batch)["loss"].backward()
        optimizer.step()
    return counter.get_total_flops()


@pytest.mark.parametrize("relations", RELATIONS)
def test_shapes_tell_what_computing_takes(relations):
    made = recipe(relations)
    assert counted(made) == computed(made)


def test_a_teacher_looks_without_going_back_and_a_small_crop_costs_less():
    """Of each layer's operations the teacher makes a third; of 8 pixels instead of 16 a quarter."""
    large = {"views__b__make": "crop(16)"}
    both = counted(recipe(**large))
    without = counted(parse_recipe(BASE.replace("teacher.z(b)", "stop(z(a))"), "views.b.make=crop(16)"))
    assert (both - without) / without == pytest.approx(1 / 3, rel=0.03)
    assert (counted(recipe()) - without) / (both - without) == pytest.approx(1 / 4, rel=0.03)


def test_looks_are_counted_and_parts_and_precision_change_nothing():
    once = counted(recipe())
    assert (
        counted(recipe(train__optimizer="sam(sgd(lr=0.1))", train__accumulate=2, train__precision="bf16")) == 2 * once
    )


def test_the_step_stays_and_the_number_is_the_same_again():
    made = recipe("queue")
    step = Step(made, 10)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    first = flops_of_update(made, step, {"image": 6})
    assert flops_of_update(made, step, {"image": 6}) == first
    assert all((before[name] == value).all() for name, value in step.state_dict().items())
    assert step.training
    assert not step.attached


class Asking(torch.nn.Module):
    """A network that looks at what it computes."""

    num_features = 8

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 8, 3)

    def forward(self, images):
        found = self.layer(images)
        return (found if float(found.detach().sum()) > 0 else -found).mean(dim=(2, 3))


def test_what_asks_for_values_is_told():
    made = recipe("agmax", branches__net__normalize="half")
    with pytest.raises(RecipeError, match=r"cannot be counted, since it asks for values"):
        flops_of_update(made, Step(made, 10, backbone=Asking()), {"image": 6})


def test_plan_tells_it():
    text = " ".join(done("plan", "quickstart").split())
    assert "work: 7.758 GFLOPs a step, forward and backward, counted on the shapes alone" in text
