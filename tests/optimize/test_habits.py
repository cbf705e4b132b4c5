"""What a loop forgets is told once, by a line of the caller's: what would train something else without a word."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from manyview.errors import ManyviewError, ManyviewWarning, RecipeError
from manyview.load import parse_recipe
from manyview.optimize.habits import Habits
from manyview.step import Step

B, C = 4, 5
TEXT = """
views: {a: {from: image, make: "crop(16) | flip(0.5)"}, b: {like: a}}
branches: {net: {backbone: cresnet20, normalize: half, z: "projector(h, 8)"}}
relations: ["cross_entropy(logits(a))", LINES]
train: {steps: 10, accumulate: PARTS, batch_size: 12}
"""
WAITS = '"similarity(h(a), h(b), weight=warmup(2))"'
PLAIN = '"similarity(h(a), h(b), weight=2)"'
AUGSELF = '"augself(z(a), z(b), crop=1.0)"'
PHOTOS = torch.randint(0, 256, (B, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def made(lines=WAITS, parts=1, total_steps=None):
    return Step(parse_recipe(TEXT.replace("LINES", lines).replace("PARTS", str(parts))), C, total_steps)


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.01)


def forward(step, number=0):
    return step(PHOTOS, torch.arange(B), index=range(B * number, B * number + B), epoch=0)["loss"]


def told(run):
    """What running it tells, and whether each was told by a line of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    ours = [each for each in caught if issubclass(each.category, ManyviewWarning)]
    assert all(each.filename == __file__ for each in ours)
    assert all("\n" not in str(each.message) for each in ours)
    return [str(each.message) for each in ours]


def trained(step, updates=3, follow=False):
    optimizer = sgd(step)
    for number in range(updates):
        forward(step, number).backward()
        optimizer.step()
        optimizer.zero_grad()
        if follow:
            step.after_step()


def test_what_waits_for_an_update_is_told_if_none_comes():
    (line,) = told(lambda: trained(made()))
    assert line.startswith(
        "2 training forwards without an update, for which the weight of similarity waits: call step.att"
    )
    assert told(lambda: trained(made(), follow=True)) == []
    assert told(lambda: trained(made(PLAIN))) == []  # nothing waits
    assert told(lambda: [forward(made(parts=3), number) for number in range(3)]) == []


def test_as_many_forwards_as_parts_of_a_batch_are_no_slip():
    step = made(parts=3)
    assert told(lambda: [forward(step, number) for number in range(3)]) == []
    (line,) = told(lambda: forward(step, 3))
    assert line.startswith("4 training forwards")
    with torch.no_grad():
        assert told(lambda: [forward(made(), number) for number in range(3)]) == []
    assert told(lambda: [forward(made().eval(), number) for number in range(3)]) == []


def test_an_attached_optimiser_is_no_slip():
    step = made()
    optimizer = sgd(step)
    step.attach(optimizer)

    def run():
        for number in range(3):
            forward(step, number).backward()
            optimizer.step()

    assert told(run) == []
    assert step.updates == 3


def test_an_attached_optimiser_that_makes_no_update_is_told():
    step = made()
    step.attach(kept := sgd(step))
    forward(step)
    step._habits.forwards = 256
    (line,) = told(lambda: forward(step, 1))
    assert line.startswith(
        "257 training forwards without an update, for which the weight of similarity waits: the attached"
    )
    del kept


def test_predictions_in_training_mode_are_told():
    step = made()
    (line,) = told(lambda: [step.predict(PHOTOS) for _ in range(2)])
    assert line.startswith("predict in training mode: BatchNorm normalises by these images and learns from them")
    assert told(lambda: made().eval().predict(PHOTOS)) == []


def test_parameters_that_the_optimiser_lacks_are_told():
    step = made(AUGSELF)
    (line,) = told(lambda: step.attach(sgd(step.main.backbone)).remove())
    assert line.startswith("attach: the optimiser lacks 14 parameters of net.z, net.logits, augself, which never learn")
    heads, rest = (
        sgd(step.main.heads),
        torch.optim.SGD([*step.main.backbone.parameters(), *step.relations.parameters()], lr=0.1),
    )
    assert told(lambda: step.attach(heads, rest)) == []
    rest.step()
    assert step.updates == 1  # that which was given last
    step.relations.requires_grad_(False)
    other = made(AUGSELF)
    other.relations.requires_grad_(False)
    assert told(lambda: other.attach(sgd(other.branches))) == []


@pytest.mark.parametrize(("kind", "zero"), [(torch.optim.SGD, "optimizer"), (torch.optim.AdamW, "step")])
def test_parameters_that_stand_still_are_told_in_a_loop_that_attaches_nothing(zero, kind):
    def loop(step, parameters):
        optimizer = kind(parameters, lr=0.01)
        for number in range(5):
            forward(step, number).backward()
            optimizer.step()
            {"optimizer": optimizer, "step": step}[zero].zero_grad()

    step = made(AUGSELF)
    (line,) = told(lambda: loop(step, step.main.backbone.parameters()))
    assert line.startswith(
        "the optimiser lacks 14 parameters of net.z, net.logits, augself, which never learn; make it of"
    )
    step = made(AUGSELF)
    step.main.backbone.unused = nn.Linear(2, 2)  # is no slip of the loop
    assert told(lambda: loop(step, step.parameters())) == []


def test_an_optimiser_of_another_network_is_refused():
    step = made()
    with pytest.raises(
        ManyviewError, match=r"^attach: this optimiser holds no parameter of the step; make it of step\.par"
    ):
        step.attach(sgd(made()))
    assert not step.attached


def test_training_in_evaluation_mode_is_told():
    step = made().eval()
    (line,) = told(lambda: trained(step, follow=True))
    assert line.startswith("an update was made by a loss in evaluation mode")
    step = made().train()
    step.main.backbone.eval()
    (line,) = told(lambda: forward(step))
    assert line.startswith(
        "branches.net.backbone is in evaluation mode, and the step in training mode: after model.eval()"
    )


def test_what_is_held_is_no_slip():
    step = made()
    step.hold(["backbone"])
    assert told(lambda: forward(step.train())) == []


def test_more_updates_than_the_run_has_are_told():
    (line,) = told(lambda: trained(made(total_steps=2), updates=4, follow=True))
    assert line.startswith("3 updates were made of total_steps=2")


@pytest.mark.slow(reason="torch's compiler is loaded")
@pytest.mark.parametrize("how", ["module", "fullgraph", "function", "method"])
def test_torchs_compiler_is_refused_at_once(how):
    step = made(PLAIN)
    compiled = {
        "module": lambda: torch.compile(step),
        "fullgraph": lambda: torch.compile(step, fullgraph=True),
        "function": lambda: torch.compile(lambda *given, **named: step(*given, **named)),
        "method": lambda: step.compile() or step,
    }[how]
    torch.compiler.reset()
    with pytest.raises((ManyviewError, RuntimeError), match=r"call step\.compile_parts\(\)"):
        forward(compiled())


def test_data_parallel_is_refused():
    with pytest.raises(ManyviewError, match=r"^nn\.DataParallel does not take a step"):
        nn.parallel.replicate(made(), [0, 1]) if torch.cuda.is_available() else made()._replicate_for_data_parallel()


def test_copies_and_pickles_train_on_alike():
    step = made()
    for twin in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
        assert forward(twin.eval()).item() == forward(step.eval()).item()
        assert not twin.attached


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tied_cifar10", C), "recipe is what load_recipe"),
        ((None, 0), r"num_classes=0, and cross_entropy\(logits\(a\)\) reads class scores; say how many classes"),
        ((None, "10"), "num_classes is a whole number, 0 without labels, got '10'"),
        ((None, C, nn.Flatten()), "a network is given by name, as in"),
        ((None, C, {"net": nn.Flatten()}), "a network is given by name, as in"),
    ],
)
def test_arguments_in_the_wrong_place(arguments, told):
    recipe, *rest = arguments
    with pytest.raises(RecipeError, match=told):
        Step(recipe or parse_recipe(TEXT.replace("LINES", PLAIN).replace("PARTS", "1")), *rest)
    with pytest.raises(TypeError):
        Step(parse_recipe(TEXT.replace("LINES", PLAIN).replace("PARTS", "1")), C, None, {"net": nn.Flatten()})


def told_of(*batches):
    """What is told of batches (images, index, epoch), each once."""
    habits = Habits(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for images, index, epoch in batches:
            habits.draws("image", images, torch.tensor(index), epoch)
    assert all(each.category is ManyviewWarning for each in caught)
    return [str(each.message).partition(",")[0] for each in caught]


OTHERS = PHOTOS.flip(0)


def test_indices_by_which_views_are_drawn_again_are_told():
    places, later = list(range(B)), list(range(B, 2 * B))
    assert told_of((PHOTOS, places, 0), (OTHERS, later, 0), (PHOTOS, places, 1), (OTHERS, later, 1)) == []
    assert told_of((PHOTOS, places, 0), (PHOTOS, places, 0)) == []  # one batch, twice
    assert told_of((PHOTOS, places, 0), (OTHERS, places, 0)) == ["index 0 came twice in epoch 0"]  # places in the batch
    epochs = [(PHOTOS, places, 0), (OTHERS, later, 0)] * 3  # an epoch that never changes
    assert told_of(*epochs) == ["index 0 came twice in epoch 0"]
    assert told_of((PHOTOS, [7, 7, 7, 1], 0), (OTHERS, [9, 9, 9, 9], 0)) == ["index 7 stands 3 times in a batch"]


WORDS = """
import torch
from torch import nn

from manyview.relations import Port

class Still(nn.Module):
    def __init__(self, first: Port) -> None:
        super().__init__()

    def forward(self, first):
        return torch.tensor(1.0)

class Noisy(Still):
    def forward(self, first):
        return (first.value + torch.randn(first.value.shape)).mean()

RELATIONS = {"still": Still, "noisy": Noisy}
"""


def test_a_loss_without_gradient_is_told_in_the_first_training_forward(tmp_path):
    file = tmp_path / "still.py"
    file.write_text(WORDS)
    text = TEXT.replace("LINES", '"still(h(a))"').replace("PARTS", "4")
    step = Step(parse_recipe(text, use=file), C)
    with torch.no_grad():
        assert told(lambda: forward(step)) == []
    line = "still: the value has no gradient, so nothing learns by it: what it reads is frozen, or it is computed with "
    assert [each.startswith(line) for each in told(lambda: [forward(step), forward(step)])] == [True]
    alone = Step(parse_recipe(text.replace('"cross_entropy(logits(a))", ', ""), use=file), C)
    with pytest.raises(ManyviewError, match=r"^nothing learns by the loss \(still\): no gradient reaches it$"):
        forward(alone)


def test_a_loss_that_draws_by_itself_is_told_when_the_recipe_is_loaded(tmp_path):
    file = tmp_path / "noisy.py"
    file.write_text(WORDS)
    text = TEXT.replace("LINES", '"noisy(h(a))"').replace("PARTS", "1")
    assert [each.partition(":")[2][:67] for each in told(lambda: parse_recipe(text, use=file))] == [
        " noisy(h(a)): forward draws at random, by torch.randn: the same batch"[:67]
    ]


def test_of_a_step_that_is_frozen_whole_nothing_learns():
    step = made(PLAIN).requires_grad_(False)
    with pytest.raises(ManyviewError, match="every parameter of the step has requires_grad=False"):
        forward(step)
