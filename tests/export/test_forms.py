"""What leaves as one file, or for the hub: it answers as the run does, or nothing is there."""

import json

import pytest
import torch
import yaml
from torch import nn

from commands import contents, done, manyview, one_line
from manyview import parse_recipe
from manyview.branches.weights import open_weights
from manyview.errors import ManyviewError, RunError
from manyview.export.export import export_model
from manyview.export.outgoing import check_alike, outgoing, pictures
from manyview.foundation.files import write_json
from manyview.judge.models import exported
from manyview.training.run import Run
from manyview.training.train import train
from subjects import run_of, trained

SLA = """
title: SLA
views:
  a: {from: image, make: "pad_crop(8, padding=1)"}
  r: {from: a, orbit: ORBIT}
branches: {net: {backbone: test_resnet, normalize: cifar10, joint: "linear(h, orbit=r)"}}
relations: ["joint_cross_entropy(joint(r))"]
train: {steps: 9, ema: 0.5}
"""
HEADS = """
views:
  a: {from: image, make: flip(0.5)}
  b: {like: a}
branches: {net: {backbone: test_resnet, normalize: half, z: "mlp(h, 16, 8)", logits: "linear(z)"}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {steps: 9}
"""


def moved(text, classes=3):
    """A step whose trained weights are not the averaged ones."""
    step = trained(text, classes)
    with torch.no_grad():
        for parameter in step.main.parameters():
            parameter.mul_(1.25)
    return step


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    orbits = {f"sla_{orbit}": SLA.replace("ORBIT", orbit) for orbit in ("rotation", "rot_color_perm6")}
    return {name: run_of(moved(text), root / name) for name, text in {**orbits, "heads": HEADS}.items()}


def normalized(folder, pixels):
    told = json.loads((folder / "model.json").read_text())
    mean, std = (torch.tensor(told[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std


OPTIONS = {
    "scores": ({}, "logits"),
    "features": ({"features": True}, "h"),
    "aggregated": ({"aggregate": True}, "aggregated"),
    "trained": ({"weights": "trained"}, "logits"),
}


@pytest.mark.parametrize(
    ("name", "option"), [*(("sla_rotation", option) for option in OPTIONS), ("sla_rot_color_perm6", "aggregated")]
)
def test_torchscript_answers_as_the_run(runs, tmp_path, name, option):
    """SLA+SI as a plain classifier, SLA+AG with the orbit inside, averaged weights unless told otherwise."""
    options, answer = OPTIONS[option]
    export_model(runs[name], tmp_path / "out", "torchscript", **options)
    step = runs[name].step(runs[name].recipe())
    if option == "trained":
        step.average = None
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = step.read(pixels, aggregated=True)[answer]
        found = torch.jit.load(tmp_path / "out" / "model.pt")(normalized(tmp_path / "out", pixels))
        plain = runs[name].step(runs[name].recipe()).read(pixels, aggregated=True)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    if option == "trained":
        assert (found - plain["logits"]).abs().max() > 1e-3
    if option == "aggregated":
        assert (found - plain["logits"]).abs().max() > 1e-3
    told = json.loads((tmp_path / "out" / "model.json").read_text())
    assert told["output"] == {"name": answer, "shape": ["batch", wanted.shape[1]]}
    assert told["label_names"] == ([] if option == "features" else ["a", "b", "c"])
    assert told["manyview"]["weights_of"] == ("trained" if option == "trained" else "averaged")


def test_heads_that_timm_has_no_place_for_leave_as_one_network(runs, tmp_path):
    with pytest.raises(RunError, match=r"no linear layer on h.*; --to onnx and --to torchscript take any network$"):
        export_model(runs["heads"], tmp_path / "out")
    export_model(runs["heads"], tmp_path / "out", "torchscript", size=12)
    pixels = torch.rand(2, 3, 12, 12)
    with torch.no_grad():
        found = torch.jit.load(tmp_path / "out" / "model.pt")(normalized(tmp_path / "out", pixels))
        wanted = runs["heads"].step(runs["heads"].recipe()).read(pixels)["logits"]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


class Fickle(nn.Module):
    """Whose features depend on how many images there are, which no graph can hold."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 8)

    def forward(self, images):
        return self.layer(images.mean(dim=(2, 3))) * (1.0 if len(images) == 2 else 2.0)


def test_a_difference_is_an_error_and_leaves_nothing(tmp_path):
    recipe = parse_recipe(
        HEADS.replace('z: "mlp(h, 16, 8)", logits: "linear(z)"', "logits: linear(h)"), "train.steps=1"
    )
    rows = [(torch.full((3, 8, 8), 30 * n, dtype=torch.uint8), n % 3) for n in range(6)]
    train(recipe, tmp_path / "run", backbone=Fickle(), data={"train": rows}, quiet=True)
    run = Run(tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(
        RunError, match=r"^model.pt does not reproduce this model's outputs: of up to .*, they differ by"
    ):
        export_model(run, tmp_path / "deep" / "out", "torchscript", size=8, backbone=Fickle())
    assert contents(tmp_path) == before


def test_how_far_outputs_may_differ():
    some = torch.tensor([[1.0, 0.5]])
    assert check_alike("it", some, some + 5e-6) == pytest.approx(5e-6, abs=2e-7)
    assert check_alike("it", 100 * some, 100 * some + 5e-4) > 1e-5  # of what is large, as much less
    for other in (some + 2e-5, some * float("nan"), some[:, :1]):
        with pytest.raises(RunError, match=r"please report it"):
            check_alike("it", some, other)
    with pytest.raises(RunError, match=r"^the model's own outputs are not finite numbers"):
        check_alike("it", some * float("inf"), some)


def test_pictures_are_always_the_same():
    first, second = pictures(3, 5, (7, 12)), pictures(3, 5, (7, 12))
    assert torch.equal(first, second)
    assert first.shape == (3, 5, 7, 12)
    assert first.float().std(dim=(1, 2, 3)).min() > 20


REFUSED = {
    "form": ({"to": "tflite"}, "export: unknown format 'tflite'"),
    "no_form": ({"to": ["onnx"]}, "export: unknown format"),
    "pixels": ({"size": "8"}, "size: a number of pixels is wanted, got '8'"),
    "both": ({"features": True, "aggregate": True}, "features are not averaged over an orbit"),
    "weights": ({"weights": "best"}, "weights: unknown kind 'best'"),
    "orbit": ({"aggregate": True}, "timm has no place for an orbit inside a network; --to onnx"),
    "preprocess": ({"preprocess": "nhwc"}, "preprocess: it is for onnx"),
    "layout": ({"to": "onnx", "preprocess": "hwc"}, "preprocess: unknown layout 'hwc'"),
    "licence": ({"licence": "CC0"}, "licence: it stands in the model card"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_nothing(runs, tmp_path, case):
    options, message = REFUSED[case]
    with pytest.raises(ManyviewError) as caught:
        export_model(runs["sla_rotation"], tmp_path / "out", **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_runs_without_averages_orbits_and_sizes(runs, tmp_path):
    for options, message in (
        ({"weights": "averaged"}, r"has no averaged weights; train.ema makes them$"),
        ({"aggregate": True}, r"^nothing to aggregate"),
        ({"to": "torchscript"}, r"^the recipe fixes no size of the images; say which one leaves, as in --size 224$"),
    ):
        with pytest.raises(RunError, match=message):
            export_model(runs["heads"], tmp_path / "out", **options)
    assert not [*tmp_path.iterdir()]


def test_a_library_that_is_missing_is_told(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("manyview.export.onnx.NEEDS", ("nosuch_library",))
    with pytest.raises(
        RunError, match=r"^--to onnx: nosuch_library is not installed; pip install 'manyview\[export\]'$"
    ):
        export_model(runs["sla_rotation"], tmp_path / "out", "onnx")
    assert not [*tmp_path.iterdir()]


def test_command_line(runs, tmp_path):
    run = runs["sla_rotation"].folder
    told = done("export", run, tmp_path / "out", "--to", "torchscript", "--aggregate")
    assert told.splitlines()[0].endswith("test_resnet, 3 classes, averaged over its orbit, images of 8x8")
    assert told.splitlines()[-1].startswith("the run is not finished")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "model.pt"]
    assert done("export", run, tmp_path / "more", "--quiet") == ""
    assert one_line(*manyview("export", run, tmp_path / "new", "--preprocess", "nchw")).startswith(
        "preprocess: it is for"
    )
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------------------------------------------------------- hub


def card_of(folder):
    """The front matter, and the text below it."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


RESULT = {
    "seed": 4,
    "epochs": 2.0,
    "seconds": 61.5,
    "data": "50,000 train, 10,000 test",
    "selected_by": "the last step",
    "versions": {"torch": "2.9.0"},
    "eval": {"top1": 93.126, "fewshot": 71.5, "fewshot_half_width": 0.42},
    "eval_split": "test",
    "starts": {"net.backbone": {"source": "/home/me/simsiam/checkpoints/last.pt (branch net)"}},
    "evaluations": {"calibration(bins=15) on test": {"measures": {"": 0.031, "ece15": 0.02}, "note": "a `note`"}},
}


def test_a_card_says_what_was_measured_and_no_more(runs, tmp_path):
    run = Run(tmp_path / "compared" / "runs" / "sla" / "seed-4")
    run_of(moved(SLA.replace("ORBIT", "rotation").replace("test_resnet", "cresnet20")), run.folder)
    bare = export_model(run, tmp_path / "bare", "hub")
    assert "the run is not finished, so nothing measured stands in it" in bare[-2]
    front, text = card_of(tmp_path / "bare")
    assert "Nothing has been measured of it." in text
    assert "model-index" not in front
    assert "license" not in front
    assert "licence of the data: not told here" in text
    again = exported(tmp_path / "bare")  # as an export, and not as a run
    assert open_weights(tmp_path / "bare").backbone == "cresnet20()"
    pixels = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        wanted = run.step(run.recipe()).read(pixels)["logits"]
        torch.testing.assert_close(again.read(pixels)["logits"], wanted, rtol=1e-5, atol=1e-5)
    assert {path.name for path in (tmp_path / "bare").iterdir()} == {
        *("README.md", "training.yaml", "config.json", "model.safetensors", "cresnet20.py")
    }

    write_json(run.result, RESULT)
    score = {"n": 3, "mean": 93.0, "sd": 0.2, "difference": {"mean": 0.8, "t": [0.1, 1.5]}}
    error = {"n": 3, "mean": 0.0312, "sd": 0.002, "difference": {"mean": -0.0041, "t": [-0.0072, -0.0011]}}
    table = {"top1": {"sla": score}, "calibration": {"sla": error}}
    write_json(tmp_path / "compared" / "compare.json", {"reference": "baseline", "table": table})
    export_model(run, tmp_path / "whole", "hub", licence="CC BY-SA 4.0")
    front, text = card_of(tmp_path / "whole")
    assert front["library_name"] == "timm"
    assert front["pipeline_tag"] == "image-classification"
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 93.126, "name": "top-1"}]
    assert result["dataset"]["split"] == "test"
    for line in (
        "licence of the data: CC BY-SA 4.0",
        "50,000 train, 10,000 test",
        "net.backbone began with weights of `simsiam/checkpoints/last.pt (branch net)`",
        "| top-1 | 93.13 % |",
        "| fewshot half width | 0.42 % |",
        "`calibration(bins=15) on test` (a 'note')",
        "| calibration | 0.031 |",
        "| ece15 | 0.020 |",
        "| top-1 | 93.00 ± 0.20 | 3 | +0.80 (+0.10 to +1.50) |",
        "| calibration | 0.031 ± 0.002 | 3 | -0.004 (-0.007 to -0.001) |",
        "paired difference to baseline, 95 % interval of t",
        "manyview train training.yaml --out OUT",
        "manyview export OUT FOLDER --to hub",
        "- seed: 0",
        'import sys; sys.path.insert(0, "FOLDER"); import cresnet20',
    ):
        assert line in text, line
    # other weights than those that were evaluated have no figures of their own
    export_model(run, tmp_path / "trained", "hub", weights="trained")
    front, text = card_of(tmp_path / "trained")
    assert "model-index" not in front
    assert "of the averaged weights of the same run, which are not those here" in text
    export_model(run, tmp_path / "larger", "hub", size=12)
    front, text = card_of(tmp_path / "larger")
    assert "model-index" not in front
    assert "of images of the recipe's own size, which is not the one here" in text
    export_model(run, tmp_path / "features", "hub", features=True)
    front, text = card_of(tmp_path / "features")
    assert front["pipeline_tag"] == "image-feature-extraction"
    assert "model-index" not in front


def test_a_recipe_for_others_has_no_folders_of_this_machine(tmp_path):
    text = SLA.replace("ORBIT", "rotation") + f"data: {{source: folder, root: {tmp_path / 'photos'}}}\n"
    (tmp_path / "photos").mkdir()
    run_of(trained(text, 3), tmp_path / "before")
    text = text.replace("backbone: test_resnet", f"backbone: \"test_resnet(init='{tmp_path / 'before'}')\"")
    export_model(run_of(trained(text, 3), tmp_path / "run"), tmp_path / "out", "hub")
    texts = [(tmp_path / "out" / name).read_text() for name in ("README.md", "training.yaml", "config.json")]
    assert not any(str(tmp_path) in text for text in texts)
    assert "manyview train training.yaml data.root=DIR --out OUT" in texts[0]
    again = parse_recipe(texts[1], "data.root=elsewhere")
    assert again.relations == parse_recipe(text).relations
    assert again.branches["net"]["backbone"] == "test_resnet(init='before')"


def test_a_data_set_of_the_hub_is_named(tmp_path):
    text = SLA.replace("ORBIT", "rotation") + "data: {source: \"hf('a/column')\", root: someone/photos}\n"
    export_model(run_of(trained(text, 3), tmp_path / "run"), tmp_path / "out", "hub")
    front, text = card_of(tmp_path / "out")
    assert front["datasets"] == ["someone/photos"]
    assert "`someone/photos` on the hub" in text
    assert "manyview train training.yaml --out OUT" in text
    assert parse_recipe((tmp_path / "out" / "training.yaml").read_text()).data.root == "someone/photos"


def test_what_timm_has_no_place_for_is_told_before_it_is_written(runs):
    leaving = outgoing(runs["sla_rotation"], aggregate=True)
    assert leaving.command == "manyview export OUT FOLDER --to hub --aggregate"
    assert outgoing(runs["sla_rotation"], weights="trained").command.endswith("--weights trained")
