"""Recipes in Lightning's Trainer: the losses and weights of our own loop, bit for bit, and whatever the flags say."""

import json
import logging
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import manyview
from manyview.data.loader import Batches
from manyview.errors import DataError, ManyviewError, ManyviewWarning, RecipeError, RunError
from manyview.foundation.files import read_state

if not (find_spec("pytorch_lightning") or find_spec("lightning")):
    pytest.skip("Lightning is not installed: pip install 'manyview[lightning]'", allow_module_level=True)

from manyview.integrations.lightning import ViewsData, ViewsModule, lightning, trainer_flags

ON_DIGITS = ("data.limit=64", "train.epochs=2", "train.batch_size=32", "train.log_every=1")
RECIPES = {
    "labels": manyview.load_recipe(
        "quickstart", *ON_DIGITS, "train.ema=0.9", "train.clip=1.0", "train.accumulate=2", "evaluate=[knn(k=5)]"
    ),
    "teacher": manyview.load_recipe(
        "byol_cifar10", "data={source: digits}", *ON_DIGITS, "branches.online.backbone=cresnet20",
        "branches.online.z.out=16", "branches.online.z.hidden=32", "branches.online.p.hidden=32",
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
        "the Trainer's run has 2 updates, and the recipe's schedule 4",
    ]


def test_it_is_fed_by_its_own_data():
    recipe = RECIPES["labels"]
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
    with pytest.raises(ManyviewError, match="ViewsModule is fed by ViewsData"):
        trainer.fit(ViewsModule(recipe, 10), DataLoader([1]))
    with pytest.raises(DataError, match="learns from labels, and there are none"):
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


def test_the_name_of_the_library_is_that_of_the_program(monkeypatch):
    from manyview.integrations.lightning import NAMES, _library

    stand_in = type(sys)("stand-in")
    for name in NAMES:
        with monkeypatch.context() as patch:
            for other in NAMES:
                patch.delitem(sys.modules, other, raising=False)
            patch.setitem(sys.modules, name, stand_in)
            assert _library() is stand_in
