"""A recipe as timm's task: its losses, what timm validates, averages, saves and loads, and what waits for updates."""

import copy
from argparse import Namespace

import pytest
import torch

from pictures import coloured

timm = pytest.importorskip("timm", minversion="1.0.29")

from timm.task import load_task_ema_checkpoint, resume_task_checkpoint  # noqa: E402
from timm.utils import CheckpointSaver, NativeScaler, unwrap_model  # noqa: E402
from timm_recipes import AUGSELF, MIXED, MOCO, SLA, SYSTEMS, TIED  # noqa: E402
from torch import nn  # noqa: E402

from manyview.errors import ManyviewError, RecipeError  # noqa: E402
from manyview.integrations.timm import ViewsDataset, ViewsTask  # noqa: E402
from manyview.load import load_recipe, parse_recipe  # noqa: E402
from manyview.step import Step  # noqa: E402

ALL = {**SYSTEMS, "moco": MOCO}
PICTURES = coloured()
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def network(seed=0):
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=3)


def made(text, lr=0.05, seed=0, **options):
    """A task, its optimiser attached, and its data set."""
    recipe = parse_recipe(text)
    task = ViewsTask(recipe, model=network(seed), total_steps=8, verbose=False, **options)
    optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=lr, momentum=0.9)
    task.step.attach(optimizer)
    return task, optimizer, ViewsDataset(PICTURES, recipe, 3)


def update(task, optimizer, dataset, number, rows=8):
    """One update of timm's loop; the loss."""
    start = number * rows % 40
    task.train()
    result = task(*dataset[range(start, start + rows)])
    optimizer.zero_grad()
    result["loss"].backward()
    optimizer.step()
    task.update_ema(step=number + 1)
    return result["loss"].item()


# ------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_loss_and_gradients_are_those_of_a_step_on_the_same_model(text):
    task, optimizer, dataset = made(text)
    step = Step(parse_recipe(text), 3, 8, backbone=network())
    other = torch.optim.SGD(step.parameters(), lr=0.05, momentum=0.9)
    for number in range(3):
        positions = range(8 * number, 8 * number + 8)
        labels = PICTURES.labels(positions)
        expected = step(PICTURES.uint8(positions), labels, index=positions, epoch=0)
        result = task(*dataset[positions])
        assert list(result) == ["loss", "output", *expected["terms"]]
        assert torch.equal(result["loss"], expected["loss"])
        output = result["output"]
        assert output is None if expected["output"] is None else torch.equal(output, expected["output"])
        for each, loss in ((optimizer, result["loss"]), (other, expected["loss"])):
            each.zero_grad()
            loss.backward()
            each.step()
        step.after_step()
        task.update_ema()
        theirs = step.state_dict()
        for name, value in task.step.state_dict().items():
            assert torch.equal(value, theirs[name]) or name.startswith("branches.net.backbone.fc"), name


def test_the_recipes_backbone_takes_the_models_place_without_one():
    recipe = parse_recipe(TIED.replace("test_resnet", "cresnet20"))
    task = ViewsTask(recipe, 3, total_steps=8, verbose=False)
    assert list(task.get_checkpoint_state()["state_dict"]) == list(timm.create_model("cresnet20").state_dict())
    with pytest.raises(ManyviewError, match=r"^ViewsTask: num_classes says how many classes"):
        ViewsTask(recipe, total_steps=8)


def test_two_epochs_learn_colours():
    task, optimizer, dataset = made(TIED)
    losses = [update(task, optimizer, dataset, number) for number in range(8)]
    assert sum(losses[-2:]) < sum(losses[:2])
    test = coloured(count=60, seed=1)
    pixels = (test.uint8(range(60)) / 255 - 0.5) / 0.5
    with torch.no_grad():
        right = task.get_eval_model().eval()(pixels).argmax(1) == test.labels(range(60))
    assert right.float().mean() > 0.6


# ------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("text", SYSTEMS.values(), ids=SYSTEMS)
def test_timms_validation_sees_what_ours_sees(text):
    """The very model, whose input timm normalises, gives the scores that the step predicts; its average, its own."""
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    task, optimizer, dataset = made(text, mean=mean, std=std)
    assert task.get_eval_model(ema=True) is None
    task.setup_ema(decay=0.5)
    kept = task.get_eval_model()  # timm's script asks for it once, before training
    for number in range(2):
        update(task, optimizer, dataset, number)
    images = PICTURES.uint8(range(6))
    pixels = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert task.normalization == {"mean": pytest.approx(mean), "std": pytest.approx(std)}
    with torch.no_grad():
        scores = kept.eval()(pixels)
        torch.testing.assert_close(scores, task.step.eval().predict(images)["logits"], rtol=1e-4, atol=1e-5)
        assert kept is task.get_eval_model() is task.model
        averaged = task.get_eval_model(ema=True).eval()(pixels)
    assert averaged.shape == scores.shape == (6, 3)
    assert not torch.allclose(averaged, scores)


def test_an_average_is_timms():
    with pytest.raises(
        RecipeError, match=r"^train.ema: inside timm's loop .* use setup_ema\(\), or --model-ema in its"
    ):
        ViewsTask(parse_recipe(TIED, "train.ema=0.9"), 3, verbose=False)
    with pytest.raises(RecipeError, match=r"^train\.optimizer: sam\(…\) looks at each batch twice, and timm's script"):
        ViewsTask(parse_recipe(TIED, "train.optimizer=sam(sgd(lr=0.1))"), 3, verbose=False)
    task, optimizer, dataset = made(SLA)
    task.setup_ema(decay=0.75)
    start = {name: value.clone() for name, value in task.model.named_parameters()}
    update(task, optimizer, dataset, 4)  # timm's average begins as a copy after the first
    averaged = dict(task.get_trainable_module(ema=True).module.named_parameters())
    assert averaged.keys() == start.keys()
    for name, value in task.model.named_parameters():
        torch.testing.assert_close(averaged[name], 0.75 * start[name] + 0.25 * value)


def test_where_nothing_classifies_timms_classifier_is_left_alone():
    task, optimizer, dataset = made(MOCO)
    assert not task.classifies
    before = copy.deepcopy(task.model.get_classifier().state_dict())
    update(task, optimizer, dataset, 0)
    after = task.model.get_classifier().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(each.grad is None for each in task.model.get_classifier().parameters())


# ------------------------------------------------------------------------------------------------- checkpoints


def saved(task, optimizer, folder, epoch=0):
    saver = CheckpointSaver(
        task.get_trainable_module(),
        optimizer,
        args=Namespace(model="test_resnet"),
        checkpoint_dir=str(folder),
        task=task,
    )
    saver.save_checkpoint(epoch, metric=1.0)
    return folder / "last.pth.tar"


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_a_checkpoint_has_timms_keys_and_resumes_bit_for_bit(text, tmp_path):
    one, optimizer, dataset = made(text)
    one.setup_ema(decay=0.5)
    for number in range(3):
        update(one, optimizer, dataset, number)
    file = saved(one, optimizer, tmp_path)

    plain = timm.create_model("test_resnet", num_classes=3)
    for ema in (False, True):
        timm.models.load_checkpoint(plain, str(file), use_ema=ema)  # as validate.py does, strictly
        theirs = unwrap_model(one.get_eval_model(ema=ema)).state_dict()
        assert plain.state_dict().keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())
    made_by_timm = timm.create_model("test_resnet", num_classes=3, checkpoint_path=str(file))
    assert torch.equal(made_by_timm.state_dict()["fc.weight"], plain.state_dict()["fc.weight"])

    two, other, _ = made(text, seed=1)
    assert resume_task_checkpoint(two, str(file), other, log_info=False) == 1
    two.setup_ema(decay=0.5)
    load_task_ema_checkpoint(two, str(file))
    assert two.step.updates == 3
    for number in (3, 4):
        assert update(one, optimizer, dataset, number) == update(two, other, dataset, number)
    theirs = two.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_a_checkpoint_without_the_tasks_state_says_so_and_emas_begin_as_the_model(caplog):
    plain = network(seed=4)
    task, _, _ = made(MOCO)
    task.load_checkpoint_state(plain.state_dict(), None)
    assert [record.message for record in caplog.records] == [
        "manyview: the checkpoint holds timm's model alone; heads, EMA teachers, queues and the count of updates begin "
        "anew"
    ]
    teacher = dict(task.step.branch("teacher").backbone.named_parameters())
    assert all(torch.equal(teacher[name], value) for name, value in plain.named_parameters() if name in teacher)


def test_another_recipes_checkpoint_is_refused():
    state = made(TIED)[0].get_checkpoint_state()
    for text, parts in ((TIED.replace("warmup(1)", "2"), "relations"), (TIED.replace("seed: 2", "seed: 3"), "seed")):
        with pytest.raises(
            ManyviewError, match=f"^the checkpoint was trained with another recipe, of other {parts}; res"
        ):
            made(text)[0].load_checkpoint_state(state["state_dict"], state["task_state"])
    longer = made(TIED.replace("epochs: 2", "epochs: 9"))[0]  # how long is timm's to say
    longer.load_checkpoint_state(state["state_dict"], state["task_state"])


def test_state_that_does_not_fit_is_refused():
    one, two = made(MIXED)[0], made(MIXED)[0]
    state = one.get_task_state()
    state["step"].pop("relations.agmax.joint.0.weight")
    with pytest.raises(
        ManyviewError, match=r"does not fit this recipe: relations\.agmax\.joint\.0\.weight; resume with"
    ):
        two.load_task_state(state)


# ------------------------------------------------------------------------------------------------- updates


def test_what_follows_an_update_follows_updates_alone():
    """Four accumulated parts are one update; one that a scaler skips is none."""
    task, optimizer, dataset = made(MOCO)
    scaler = NativeScaler(device="cpu")
    teacher = task.step.branch("teacher")
    before = {name: value.clone() for name, value in teacher.named_parameters()}
    task.train()
    for part in range(4):
        loss = task(*dataset[range(8 * part, 8 * part + 8)])["loss"] / 4
        scaler(loss, optimizer, clip_grad=1.0, parameters=task.get_clip_parameters(), need_update=part == 3)
        assert task.step.updates == (part == 3)
    momentum = teacher.spec.ema.at(0.0)
    theirs = dict(task.step.main.named_parameters())
    for name, value in teacher.named_parameters():
        torch.testing.assert_close(value, momentum * before[name] + (1 - momentum) * theirs[name])
    after = {name: value.clone() for name, value in teacher.named_parameters()}
    optimizer.zero_grad()
    scaler(task(*dataset[range(8)])["loss"] * float("inf"), optimizer)
    assert task.step.updates == 1
    assert all(torch.equal(after[name], value) for name, value in teacher.named_parameters())


def test_prototypes_are_of_unit_length_whenever_they_are_read():
    text = MOCO.replace("info_nce(z(a), toward=teacher.z(b), queue=32)", "swav(z(a), z(b), prototypes=6)")
    text = text.replace("  teacher: ema(net, momentum=0.9, schedule='cosine')\n", "")
    task, optimizer, dataset = made(text, lr=5.0)
    for number in range(3):
        lengths = [p.norm(dim=1) for n, p in task.step.relations.named_parameters() if "prototypes" in n]
        assert lengths
        assert all(torch.allclose(length, torch.ones(6)) for length in lengths)
        update(task, optimizer, dataset, number)


def test_a_schedule_needs_the_length_of_the_run():
    task = ViewsTask(parse_recipe(MOCO), model=network())
    with pytest.raises(RecipeError, match=r"^branches\.teacher\.momentum: .* whose length is unknown"):
        task.step.attach(torch.optim.SGD(task.step.parameters(), lr=0.1))


def test_training_without_an_optimiser_attached_is_refused():
    recipe = parse_recipe(TIED)
    task = ViewsTask(recipe, model=network(), total_steps=10, verbose=False)
    batch = ViewsDataset(PICTURES, recipe)[range(6)]
    with pytest.raises(ManyviewError, match=r"no optimiser is attached.*call task\.step\.attach\(optimizer\) once"):
        task(*batch)
    task.eval()(*batch)  # nothing follows


def test_a_batch_of_pixels_is_refused():
    task, _, _ = made(TIED)
    with pytest.raises(
        ManyviewError, match=r"^ViewsTask: the batch is a Tensor, not views; iterate over ViewsLoader\("
    ):
        task(torch.rand(4, 3, 16, 16), torch.zeros(4))


# ------------------------------------------------------------------------------------------------- timm's options


@pytest.mark.slow(reason="torch's compiler traces three networks, which takes seconds to import")
def test_compiled_networks_train_and_validate_as_others():
    one, two = (made(TIED) for _ in range(2))
    one[0].setup_ema(0.5)
    one[0].compile(backend="eager")
    one[0].compile_ema(backend="eager")
    for number in range(2):
        assert update(*one, number) == pytest.approx(update(*two, number), rel=1e-5)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        scores = one[0].get_eval_model().eval()(pixels)
        torch.testing.assert_close(scores, two[0].get_eval_model().eval()(pixels), rtol=1e-4, atol=1e-5)
        assert one[0].get_eval_model(ema=True).eval()(pixels).shape == (2, 3)
    names = list(one[0].get_checkpoint_state(ema=True)["state_dict_ema"])
    assert list(one[0].get_checkpoint_state()["state_dict"]) == names == list(network().state_dict())


def test_clipping_leaves_out_the_classifier_alone():
    for text, classes in ((AUGSELF, 3), (SLA, 12), (MOCO, 0)):
        task, _, _ = made(text)
        every, but_one = (sum(p.numel() for p in task.get_clip_parameters(exclude)) for exclude in (False, True))
        assert every - but_one == classes * (task.model.num_features + 1)
        assert every == sum(p.numel() for p in task.step.parameters() if p.requires_grad)


def test_layerwise_lr_counts_the_models_layers():
    model, task = network(), made(AUGSELF)[0]
    plain = timm.optim.param_groups_layer_decay(model, layer_decay=0.5)
    ours = timm.optim.param_groups_layer_decay(task.get_trainable_module(), layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in ours for p in group["params"]}
    theirs = {id(p): group["lr_scale"] for group in plain for p in group["params"]}
    names = dict(model.named_parameters())
    assert len({*theirs.values()}) > 3
    for name, parameter in task.model.named_parameters():
        assert scale[id(parameter)] == theirs[id(names[name])], name
    assert {scale[id(p)] for p in task.step.relations.parameters()} == {1.0}


def test_weights_of_another_kind_and_models_that_cannot_classify_are_refused():
    recipe = parse_recipe(TIED)
    with pytest.raises(ManyviewError, match=r"^dtype: weights are kept in float32, not torch.bfloat16; train in bf"):
        ViewsTask(recipe, model=network(), total_steps=8, dtype=torch.bfloat16)
    bare = timm.create_model("test_resnet", num_classes=0)
    with pytest.raises(
        ManyviewError, match=r"^ViewsTask: the model has no classifier for this recipe to train; create"
    ):
        ViewsTask(recipe, 3, model=bare, total_steps=8)


def test_packaged_recipes_of_labels_fit_timms_models():
    for name in (
        "tied_cifar10",
        "agmax_cifar10_cutmix",
        "jsd_cifar10",
        "sla_sd_cifar10",
        "supervised_augself_imagenet100",
    ):
        task = ViewsTask(load_recipe(name), model=network(), total_steps=8, verbose=False)
        assert task.classifies
        assert isinstance(task.get_eval_model(), nn.Module)
