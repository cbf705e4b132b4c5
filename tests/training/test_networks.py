"""A run whose network was given from Python: noted, taken up again, read, exported; without it, one line."""

import json
import warnings

import pytest
import timm
import torch
from torch import nn

import commands
import manyview
from manyview.errors import ManyviewError, ManyviewWarning, RecipeError, RunError
from manyview.judge.export import export_timm
from manyview.judge.judge import judge
from manyview.judge.predict import predict_files
from manyview.judge.subject import open_subject
from manyview.training.run import Run

TEXT = """
data: {source: digits, limit: 120}
views: {a: {from: image, make: "pad_crop(8, padding=1)"}, b: {like: a}}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["cross_entropy(logits(a), logits(b))", "similarity(h(a), h(b), weight=warmup(2))"]
train: {epochs: EPOCHS, batch_size: 32, keep: last}
"""


class Net(nn.Module):
    def __init__(self, width=8, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.fc = nn.Conv2d(3, width, 3), nn.Linear(width * 36, 10)

    def forward(self, images):
        return self.fc(self.conv(images).relu().view(len(images), -1))


def recipe(epochs=1):
    return manyview.parse_recipe(TEXT.replace("EPOCHS", str(epochs)))


def train(folder, model, epochs=1, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ManyviewWarning)
        return manyview.train(recipe(epochs), folder, backbone=model, quiet=True, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("given") / "run", Net()
    return Run(folder), model, train(folder, model)


def test_the_very_object_is_trained_and_its_run_read_again(run):
    folder, model, result = run
    assert any(not torch.equal(one, two) for one, two in zip(model.parameters(), Net().parameters(), strict=True))
    fresh = Net(seed=3)
    step = folder.step(folder.recipe(), backbone=fresh)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in model.state_dict().items())
    assert step.main.backbone is fresh
    assert result["eval"]["top1"] > 0


def test_the_folder_notes_what_was_given(run):
    folder, _, _ = run
    (note,) = json.loads((folder.folder / "networks.json").read_text()).values()
    assert {key: note[key] for key in ("network", "parameters")} == {"network": "Net", "parameters": 3114}
    assert note["class"].endswith("test_networks.Net")


@pytest.mark.parametrize("command", ["eval", "predict", "export"])
def test_the_command_line_says_what_it_needs(run, command, tmp_path):
    folder, _, _ = run
    photo = commands.png(tmp_path / "photo.png")
    rest = {"eval": [], "predict": [photo], "export": ["--to", "timm", tmp_path / "out"]}[command]
    line = commands.one_line(*commands.manyview(command, folder.folder, *rest))
    assert "was trained with a network given from Python (net: Net, 3,114 weights); give one like it, " in line
    assert "which the command line cannot" in line


def test_what_is_not_its_network_is_refused(run, tmp_path):
    folder, _, _ = run
    for again, told in (
        (lambda: train(folder.folder, None, resume=True), "was trained with a network given from Python"),
        (
            lambda: train(folder.folder, Net(width=4), resume=True),
            r"was begun with net: Net, 3,114 weights, not with net: N",
        ),
        (lambda: folder.step(folder.recipe()), r"Run\(folder\)\.step\(recipe, backbone=model\)"),
        (lambda: folder.step(folder.recipe(), backbone=Net(width=4)), "not with net: Net, 1,562 weights"),
        (lambda: export_timm(folder, tmp_path / "out", backbone=Net()), "timm knows no Net, so there is no export"),
    ):
        with pytest.raises(RunError, match=told):
            again()
    assert not (tmp_path / "out").exists()


def stopped(folder, at):
    """A run of two epochs that ends in a training forward, counted from 0; three of them are an epoch."""
    model, count = Net(), iter(range(100))

    def stop(module, args):
        if module.training and next(count) == at:
            raise RuntimeError("the machine went away")

    handle = model.register_forward_pre_hook(stop)
    with pytest.raises(RuntimeError, match="went away"):
        train(folder, model, epochs=2)
    handle.remove()
    return Run(folder)


def test_a_run_goes_on_with_its_network_to_the_bit(tmp_path):
    whole, again = Net(), Net(seed=5)
    train(tmp_path / "whole", whole, epochs=2)
    assert stopped(tmp_path / "stopped", at=4).last.is_file()
    train(tmp_path / "stopped", again, epochs=2, resume=True)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_run_that_has_not_begun_begins_with_its_own_weights(tmp_path):
    assert not stopped(tmp_path / "run", at=0).last.is_file()
    with pytest.raises(RunError, match="was to begin with other weights of Net"):
        train(tmp_path / "run", Net(seed=5), epochs=2, resume=True)
    assert train(tmp_path / "run", Net(), epochs=2, resume=True)["epochs"] == 2


def test_a_run_that_named_its_network_takes_no_other(tmp_path):
    manyview.train(recipe(), tmp_path / "run", quiet=True)
    with pytest.raises(ManyviewError, match="has the network that its recipe names; leave backbone= out"):
        train(tmp_path / "run", Net(), resume=True)


@pytest.mark.slow(reason="two runs with a ResNet")
def test_timms_network_is_exported_for_timm(tmp_path):
    def make():
        return timm.create_model("resnet10t", num_classes=10)

    model = make()
    train(tmp_path / "run", model)
    export_timm(Run(tmp_path / "run"), tmp_path / "out", backbone=make())
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(pixels), model.eval()(pixels), rtol=1e-4, atol=1e-5)
    wide = timm.create_model("resnet10t", num_classes=10, stem_width=16)
    train(tmp_path / "wide", wide)
    with pytest.raises(RunError, match="the given resnet10t was built with arguments of its own"):
        export_timm(Run(tmp_path / "wide"), tmp_path / "other", backbone=wide)


def test_a_run_of_ones_own_network_is_judged_from_python(run, tmp_path):
    folder, _, result = run
    subject = open_subject(str(folder.folder), backbone=Net(seed=3))
    reports = judge(subject, ["classify", "knn(k=5)"], "test", out=tmp_path / "judged")
    classified, _ = reports.values()
    assert next(iter(classified.measures.values())) == result["eval"]["top1"]
    assert (tmp_path / "judged" / "result.json").is_file()
    photo = commands.png(tmp_path / "photo.png", size=(8, 8))
    (prediction,) = predict_files(folder.folder, photo, backbone=Net(seed=3))
    assert prediction.path == photo
    with pytest.raises(RunError, match="is no run; backbone= is for runs that were trained with a network"):
        open_subject("resnet18", checkpoint="nowhere.pt", backbone=Net())


def test_another_recipe_than_the_runs_is_told(run):
    folder, _, _ = run
    other = manyview.parse_recipe(TEXT.replace("EPOCHS", "1").replace("weight=warmup(2)", "weight=3"))
    with pytest.raises(RunError, match=r"the recipe given is another than that of .*: relations\.1: "):
        folder.step(other, backbone=Net())
    with pytest.raises(RecipeError, match=r"^Run\.step: recipe is what load_recipe"):
        folder.step("quickstart", backbone=Net())
    assert folder.step(recipe(epochs=7), backbone=Net()).main.backbone is not None  # how long is no part of a network


def test_a_frozen_body_is_trained_by_a_run(tmp_path):
    model = Net()
    model.conv.requires_grad_(False)
    before, head = model.conv.weight.clone(), model.fc.weight.clone()
    assert train(tmp_path / "frozen", model)["steps"] == 3
    assert torch.equal(model.conv.weight, before)
    assert not torch.equal(model.fc.weight, head)
