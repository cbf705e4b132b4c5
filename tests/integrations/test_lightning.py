"""Recipes in Lightning's Trainer: the losses and weights of our own loop, bit for bit, and whatever the flags say."""

import json
import logging
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import manyview
from manyview.data.digits import digits
from manyview.data.loader import Batches
from manyview.errors import DataError, ManyviewError, ManyviewWarning, RecipeError, RunError
from manyview.foundation.files import read_state

if not (find_spec("pytorch_lightning") or find_spec("lightning")):
    pytest.skip("Lightning is not installed: pip install 'manyview[lightning]'", allow_module_level=True)

from manyview.integrations.lightning import ViewsData, ViewsModule, lightning, trainer_flags

ON_DIGITS = ("data.limit=64", "train.epochs=2", "train.batch_size=32", "train.log_every=1")
STREAMS = """
data: {source: digits, labels_per_class: 2, unlabeled: all, unlabeled_limit: 64}
views:
  x: {from: image, make: "pad_crop(8, padding=1)"}
  weak: {from: unlabeled, make: "pad_crop(8, padding=1)"}
  strong: {from: weak, make: "randaugment(2, 9) | cutmix(1.0, per='image')"}
branches: {net: {backbone: cresnet20, normalize: half}}
relations:
  - cross_entropy(logits(x))
  - pseudo_label(logits(strong), toward=stop(logits(weak)), threshold=flex(0.12))
train: {epochs: 2, batch_size: 16, unlabeled_per_labeled: 2, accumulate: 2, log_every: 1, evaluate_every: 1,
        schedule: cosine(), optimizer: "sgd(lr=0.05, momentum=0.9)"}
evaluate: ["knn(k=5)"]
"""
RECIPES = {
    "streams": manyview.parse_recipe(STREAMS),
    "labels": manyview.load_recipe(
        "quickstart", *ON_DIGITS, "train.ema=0.9", "train.clip=1.0", "train.accumulate=2", "evaluate=[knn(k=5)]"
    ),
    "teacher": manyview.load_recipe(
        "byol_cifar10", "data={source: digits}", *ON_DIGITS, "branches.online.backbone=cresnet20",
        "branches.online.z.out=16", "branches.online.z.hidden=32", "branches.online.p.hidden=32",
        "views.a.make.crop.size=8", "train.schedule=cosine()", "train.evaluate_every=1", "evaluate=[knn(k=5)]",
    ),
    "judged": manyview.load_recipe(
        "simclr_cifar10", "data={source: digits}", *ON_DIGITS, "branches.online.backbone=cresnet20",
        "branches.online.z.out=16", "branches.online.z.hidden=32", "branches.online.probe=linear(stop(h))",
        "relations=['nt_xent(z(a), z(b))', 'cross_entropy(probe(a), weight=30)']", "train.clip=0.2",
        "views.a.make.crop.size=8", "train.schedule=cosine()", "train.evaluate_every=1", "evaluate=[knn(k=5)]",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning)\b")
        yield


class Seen(lightning.Callback):
    """What a run logs; saves a checkpoint behind an update if asked to."""

    def __init__(self, saves=None):
        self.steps, self.epochs, self.saves = [], [], saves

    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items() if name != "lr"})
        if self.saves and trainer.global_step == self.saves[0] and (number + 1) % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.saves[1])

    def on_validation_end(self, trainer, module):
        self.epochs.append({n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val_")})


def fit(recipe, checkpoint=None, saves=None, module=None, data=None, **flags):
    seen, data = Seen(saves), ViewsData(recipe, data)
    module = module or ViewsModule(recipe, data.num_classes)
    trainer = lightning.Trainer(
        **{**trainer_flags(recipe), **flags},
        accelerator="cpu", devices=1, callbacks=[seen], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=checkpoint)
    return seen, module, trainer


@pytest.fixture(scope="module", params=RECIPES)
def ours(request, tmp_path_factory):
    """A recipe, what our own loop logged of it, and the weights that it came to."""
    recipe, folder = RECIPES[request.param], tmp_path_factory.mktemp("ours") / "run"
    manyview.train(recipe, folder, quiet=True)
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return recipe, logged, read_state(folder / "checkpoints" / "last.pt")["step"]


def same(module, weights):
    found = module.step.state_dict()
    assert found.keys() == weights.keys()
    return [name for name in weights if not torch.equal(found[name], weights[name])]


@pytest.mark.slow(reason="it trains a run three times")
def test_losses_and_weights_are_those_of_our_loop(ours, tmp_path):
    recipe, logged, weights = ours
    seen, module, trainer = fit(recipe, saves=(3, tmp_path / "mid.ckpt"))
    parts = recipe.train.accumulate
    found = [sum(step["loss"] for step in seen.steps[at : at + parts]) / parts for at in range(0, 4 * parts, parts)]
    assert len(seen.steps) == 4 * parts
    np.testing.assert_allclose(found, [line["loss"] for line in logged if "loss" in line], rtol=1e-6)
    assert same(module, weights) == []  # bit for bit
    measured = [line["val"] for line in logged if "val" in line and line["step"]]
    assert len(seen.epochs) == len(measured) == 2
    for one, other in zip(seen.epochs, measured, strict=True):
        assert {name: pytest.approx(value) for name, value in one.items()} == {f"val_{n}": v for n, v in other.items()}
    assert {f"terms/{name}" for name in logged[-2].get("terms", logged[-1].get("terms"))} <= seen.steps[0].keys()

    # a run that goes on in the midst of an epoch is the one that was not interrupted
    rest, resumed, _ = fit(recipe, checkpoint=tmp_path / "mid.ckpt")
    assert [step["loss"] for step in rest.steps] == [step["loss"] for step in seen.steps[-parts:]]
    assert same(resumed, weights) == []
    assert resumed.step.updates == 4

    (tested,) = trainer.test(module, ViewsData(recipe), verbose=False)
    assert "test_knn" in tested


@pytest.mark.slow(reason="it trains a run three times")
def test_a_run_that_was_stopped_after_some_steps_goes_on_with_the_next(tmp_path):
    recipe = RECIPES["labels"]
    whole, _, _ = fit(recipe)
    with pytest.warns(ManyviewWarning, match="the Trainer's run has 3 updates, and the recipe's schedule 4"):
        _, _, trainer = fit(recipe, max_epochs=-1, max_steps=3)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    rest, module, _ = fit(recipe, checkpoint=tmp_path / "end.ckpt", max_epochs=-1, max_steps=4)
    assert [step["loss"] for step in rest.steps] == [step["loss"] for step in whole.steps[-2:]]
    loaded = ViewsModule.load_from_checkpoint(tmp_path / "end.ckpt", recipe=recipe, num_classes=10)
    assert (loaded.step.updates, module.step.updates) == (3, 4)


def test_each_process_makes_its_own_part():
    """Of two processes, whatever Lightning's sampler would do."""
    recipe = RECIPES["teacher"]
    data = ViewsData(recipe)

    class Trainer:
        world_size, global_step = 2, 1
        strategy = type("Strategy", (), {"root_device": torch.device("cpu")})
        fit_loop = type("Loop", (), {"epoch_loop": type("Epoch", (), {"batch_progress": type(
            "Progress", (), {"current": type("Current", (), {"ready": 1})})})})  # fmt: skip

        def __init__(self, rank):
            self.global_rank = rank

    seen = []
    for rank in (0, 1):
        data.trainer = Trainer(rank)
        seen += [batch.index.tolist() for batch in data.train_dataloader()]
    whole = Batches(data.splits.train, 32, 2, recipe.seed)
    assert [len(part) for part in seen] == [16, 16]
    assert seen[0] + seen[1] == data.splits.train.index[whole.positions(1)[1]].tolist()
    assert not isinstance(data.train_dataloader(), DataLoader)  # of which Lightning would change the sampler


def test_flags_that_change_what_is_learnt_are_refused_or_told():
    recipe = RECIPES["labels"]
    with pytest.raises(RunError, match=r"accumulate_grad_batches=1\), but train.accumulate is 2"):
        fit(recipe, accumulate_grad_batches=1)
    with pytest.raises(RecipeError, match=r"^train\.optimizer: sam\(…\) looks at each batch twice, and Lightning's Tr"):
        ViewsModule(manyview.parse_recipe(recipe.to_yaml(), "train.optimizer=sam(sgd(lr=0.1))"), 10)
    with pytest.raises(RunError, match="say data"):
        fit(recipe, overfit_batches=1)
    with pytest.warns(ManyviewWarning) as told:
        fit(recipe, gradient_clip_val=0.5, max_epochs=1, limit_val_batches=0)
    assert [str(line.message) for line in told if line.category is ManyviewWarning] == [
        "Trainer(gradient_clip_val=0.5), where the recipe would have 1.0",
        "each of the 2 parts of a batch, 16 images, is by itself for BatchNorm, so that another number of parts trains "
        "otherwise",
        "the Trainer's run has 2 updates, and the recipe's schedule 4",
    ]


def test_it_is_fed_by_its_own_data():
    recipe = RECIPES["labels"]
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
    with pytest.raises(ManyviewError, match="ViewsModule is fed by ViewsData"):
        trainer.fit(ViewsModule(recipe, 10), DataLoader([1]))
    with pytest.raises(DataError, match="needs labels, and there are none"):
        ViewsData(recipe, {"train": np.zeros((64, 8, 8, 3), np.uint8)})


def test_a_network_and_data_of_ones_own():
    recipe = manyview.load_recipe("quickstart", *ON_DIGITS[1:])
    rng = np.random.default_rng(0)
    data = {"train": (rng.integers(0, 256, (80, 8, 8, 3), dtype=np.uint8), np.arange(80) % 2)}
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = network[0].weight.clone()
    seen, module, _ = fit(recipe, data=data, module=ViewsModule(recipe, 2, backbone=network))
    assert module.step.updates == len(seen.steps) == 4
    assert not torch.equal(network[0].weight, before)
    assert set(module.eval()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))) == {"h", "logits"}


FEATURES = manyview.parse_recipe("""
views: {a: {from: image, make: flip}, b: {like: a}}
branches: {net: {backbone: test_resnet, z: "projector(h, 8)", normalize: half}}
relations: ["cosine(z(a), toward=stop(z(b)))"]
train: {steps: 2}
""")


@pytest.fixture
def with_classifier():
    """A module around a network whose classifier no relation reads."""
    with pytest.warns(ManyviewWarning, match="has the classifier 'fc', which no relation reads"):
        return ViewsModule(FEATURES, 3, backbone=timm.create_model("test_resnet", num_classes=3))


def test_processes_are_told_which_gradients_never_come(with_classifier):
    """What they wrap is the module, so the names are the module's."""
    ignored = with_classifier._ddp_params_and_buffers_to_ignore
    assert ignored == [f"step.branches.net.backbone.fc.{name}" for name in ("bias", "weight")]
    assert {*ignored} <= {*dict(with_classifier.named_parameters())}


@pytest.fixture
def group(tmp_path):
    """One process that joins others, as far as DistributedDataParallel can tell."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'met'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_no_process_waits_for_a_classifier_that_is_not_read(with_classifier, group):
    module = with_classifier
    module.forward = module.step.forward  # as Lightning has it while it trains
    wrapped = DistributedDataParallel(module)
    for number in range(3):  # what was waited for in vain is said in the next
        images = torch.full((4, 3, 16, 16), 9 * number, dtype=torch.uint8)
        wrapped(images, index=range(4), epoch=number)["loss"].backward()
    assert module.step.main.backbone.fc.weight.grad is None
    assert next(module.step.parameters()).grad is not None


# ---------------------------------------------------------------------------------------- a run that goes on


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of the first of two epochs."""
    path = tmp_path_factory.mktemp("checkpoint") / "first.ckpt"
    _, _, trainer = fit(RESUMED, max_epochs=1, limit_val_batches=0)
    trainer.save_checkpoint(path)
    return path


RESUMED = manyview.load_recipe("quickstart", *ON_DIGITS)
CHANGED = {
    "seed=5": r"seed: 0 -> 5",
    "relations=[cross_entropy(logits(a))]": r"relations\.0: .* -> 'cross_entropy\(logits\(a\)\)'",
    "train.optimizer.lr=0.5": r"train\.optimizer.*lr.*0\.5",
    "data.limit=48": r"data\.limit: 64 -> 48",
}


@pytest.mark.filterwarnings("ignore::manyview.errors.ManyviewWarning")
@pytest.mark.parametrize("override", CHANGED)
def test_a_run_does_not_go_on_by_another_recipe(checkpoint, override):
    other = manyview.load_recipe("quickstart", *ON_DIGITS, override)
    with pytest.raises(RunError, match=f"^the checkpoint was trained with another recipe: {CHANGED[override]}"):
        fit(other, checkpoint=checkpoint, limit_val_batches=0)


def test_what_changes_no_number_may_differ_and_weights_may_begin_another_run(checkpoint):
    other = manyview.load_recipe("quickstart", *ON_DIGITS, "train.log_every=7", "title=another", "train.ema=0.5")
    fit(other.model_copy(update={"train": RESUMED.train}), checkpoint=checkpoint, limit_val_batches=0)
    with pytest.raises(RunError, match=r"train\.ema: None -> 0\.5"):
        fit(other, checkpoint=checkpoint, limit_val_batches=0)
    recipe = manyview.load_recipe("quickstart", *ON_DIGITS, "seed=5")
    assert ViewsModule.load_from_checkpoint(checkpoint, recipe=recipe, num_classes=10).step.updates == 2
    recipe = manyview.load_recipe("quickstart", *ON_DIGITS, "branches.net.normalize=imagenet")
    with pytest.raises(RunError, match=r"another recipe: branches\.net\.normalize: .* -> 'imagenet'"):
        ViewsModule.load_from_checkpoint(checkpoint, recipe=recipe, num_classes=10)


def test_a_run_does_not_go_on_with_other_images(checkpoint, tmp_path):
    whole = digits(None, download=False).train.images
    pixels, labels = whole.pixels.clone(), torch.from_numpy(whole.labels)
    paths = []
    for number in range(2):
        pixels[:, :, 0, 0] ^= number
        data = {"train": TensorDataset(pixels.clone(), labels)}
        _, _, trainer = fit(RESUMED, data=data, max_epochs=1, limit_val_batches=0)
        paths.append(tmp_path / f"{number}.ckpt")
        trainer.save_checkpoint(paths[-1])
    fit(RESUMED, data=data, checkpoint=paths[1], limit_val_batches=0)
    with pytest.raises(RunError, match=r"another recipe: train images: '64 \(.{8}\)' -> '64 \(.{8}\)'"):
        fit(RESUMED, data=data, checkpoint=paths[0], limit_val_batches=0)


def test_a_checkpoint_of_something_else_and_data_of_another_recipe(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    del state["manyview"]
    torch.save(state, tmp_path / "theirs.ckpt")
    with pytest.raises(RunError, match="does not say by which recipe it was trained"):
        fit(RESUMED, checkpoint=tmp_path / "theirs.ckpt")
    other = manyview.load_recipe("quickstart", *ON_DIGITS, "seed=5")
    with pytest.raises(RunError, match="ViewsData has another recipe than ViewsModule: seed: 0 -> 5; give both the"):
        fit(RESUMED, module=ViewsModule(other, 10))


def test_the_name_of_the_library_is_that_of_the_program(monkeypatch):
    from manyview.integrations.lightning import NAMES, _library

    stand_in = type(sys)("stand-in")
    for name in NAMES:
        with monkeypatch.context() as patch:
            for other in NAMES:
                patch.delitem(sys.modules, other, raising=False)
            patch.setitem(sys.modules, name, stand_in)
            assert _library() is stand_in
