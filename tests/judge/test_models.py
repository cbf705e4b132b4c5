"""What is evaluated: steps, exports and timm's models give what they gave where they came from, and a key of it."""

import pickle
import shutil

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from manyview import parse_recipe
from manyview.errors import RunError
from manyview.evaluate.features import Features
from manyview.evaluate.model import StepModel
from manyview.foundation.grammar import parse_call
from manyview.judge.export import export_timm
from manyview.judge.models import TimmModel, exported, of_timm
from manyview.step import Step
from subjects import LETTERS, SLA, TIED, UNLABELED, features_of, pictures, run_of, trained

SMALL = TIED.replace("cresnet20", "'resnet18(small=True, channels=(4, 8, 8, 16))'").replace("half", "cifar10")
EMA = TIED.replace("epochs: 1", "epochs: 1, ema: 0.5")
CUT = TIED.replace("resize(12)", "resize(16) | center_crop(12)")
UNVIEWED = TIED.replace("  test: {from: image, make: resize(12)}\n", "")


@torch.no_grad()
def outputs(model, images, **options):
    return model.read(model.prepare(images), **options)


def same(found, expected, **tolerance):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, **tolerance)


# ------------------------------------------------------------------------------------------------------------ a step


@pytest.mark.parametrize("text", [TIED, UNLABELED, SLA, EMA])
def test_a_step_gives_its_predictions(text):
    step, images = trained(text), pictures(6).pixels
    expected = step.predict(images, aggregated=text == SLA)
    step.train()
    model = StepModel(step)
    same(outputs(model, images, aggregated=text == SLA), expected, rtol=0, atol=0)
    assert step.training, "the mode is as it was"
    assert all(module.training for module in step.main.modules())
    pixels = model.prepare(images)
    assert pixels.dtype == torch.float32
    assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1
    assert model.device == pixels.device == torch.device("cpu")


def test_averaged_weights_answer():
    step, images = trained(EMA), pictures(6).pixels
    with torch.no_grad():
        step.main.backbone.conv1.weight.add_(1)
    before = StepModel(step).key, outputs(StepModel(step), images)
    with torch.no_grad():
        step.main.backbone.conv1.weight.sub_(3)
    assert StepModel(step).key == before[0]
    same(outputs(StepModel(step), images), before[1], rtol=0, atol=0)
    step.average.module.backbone.conv1.weight.add_(1)
    assert StepModel(step).key != before[0]
    assert not torch.allclose(outputs(StepModel(step), images)["h"], before[1]["h"])


@pytest.mark.parametrize("text", [TIED, SLA])
def test_gradients_reach_the_pixels(text):
    model = StepModel(trained(text).double())
    pixels = model.prepare(pictures(3).pixels).double().requires_grad_()
    found = model.read(pixels, aggregated=text == SLA)
    for value in found.values():
        (gradient,) = torch.autograd.grad(value[1].sum(), pixels, retain_graph=True)
        assert gradient[1].abs().max() > 0
        assert gradient[[0, 2]].abs().max() == 0, "an image's outputs depend on that image alone"


def test_names_of_classes():
    assert StepModel(trained(TIED, 3)).labels == ("", "", "")
    assert StepModel(trained(TIED, 3), ["cat", "dog", "eel"]).labels == ("cat", "dog", "eel")
    assert StepModel(trained(UNLABELED, 3), ["cat", "dog", "eel"]).labels is None
    assert StepModel(trained(UNLABELED, 0)).labels is None
    assert (StepModel(trained(TIED, 3)).orbit, StepModel(trained(SLA, 3)).orbit) == (None, "rotation")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("a", "b", "c"), True),
        (("", "", ""), True),
        (("0", "1", "2"), False),
        (("b", "a", "c"), False),
        (("", ""), False),
        (None, False),
    ],
)
def test_whose_classes_scores_are_of(labels, expected):
    known = features_of(trained(TIED, 3), pictures(6, 3))
    known.model.labels = labels
    assert known.classifies is expected
    assert (known.of("test").logits is not None) is expected


def changed_step(what):
    """A step of the same recipe and weights, but for one thing."""
    text = {"size": TIED.replace("resize(12)", "resize(14)"), "normalize": TIED.replace("half", "cifar10")}
    step = Step(parse_recipe(text.get(what, TIED)), 3)
    step.load_state_dict(trained(TIED, 3).state_dict())
    state = step.main.state_dict()
    if what in ("weight", "bias", "moment"):
        name = {"weight": "conv1.weight", "moment": "running_var"}.get(what, "logits.bias")
        value = next(value for key, value in state.items() if key.endswith(name))
        with torch.no_grad():
            value[(0,) * value.ndim] += 1e-3
    return step.eval()


def test_the_key_is_of_weights_and_preparation_alone():
    key = StepModel(changed_step(None)).key
    keys = [StepModel(changed_step(what)).key for what in ("weight", "bias", "moment", "size", "normalize")]
    assert len({key, *keys}) == 6
    assert StepModel(changed_step(None), ("x", "y", "z"), name="other").key == key
    text = TIED.replace("epochs: 1", "epochs: 7, optimizer: sgd(lr=1)").replace("padding=1", "padding=2")
    other = Step(parse_recipe("title: other\nseed: 4\n" + text), 3)
    other.load_state_dict(changed_step(None).state_dict())
    assert StepModel(other.train()).key == key


def test_trainable_is_a_copy():
    for model in (StepModel(trained(TIED)), StepModel(trained(EMA)), StepModel(trained(SMALL))):
        key, images = model.key, pictures(4).pixels
        trunk = model.trainable()
        pixels = model.prepare(images)
        torch.testing.assert_close(trunk.eval()(pixels), outputs(model, images)["h"])
        assert all(parameter.requires_grad for parameter in trunk.parameters())
        trunk.train()(pixels)  # moves BatchNorm's moments
        with torch.no_grad():
            for parameter in trunk.parameters():
                parameter.add_(1)
        assert model.key == key


# --------------------------------------------------------------------------------------------------------- an export


@pytest.mark.parametrize("text", [TIED, UNLABELED, SLA, EMA, SMALL, CUT, UNVIEWED])
def test_an_export_gives_what_its_step_gave(tmp_path, text):
    step = trained(text, 3)
    export_timm(run_of(step, tmp_path / "run"), tmp_path / "out")
    model, before = exported(tmp_path / "out"), StepModel(step, LETTERS[:3])
    assert model.labels == (None if text == UNLABELED else ("a", "b", "c"))
    assert model.orbit is None
    images = pictures(5, seed=4).pixels
    same(outputs(model, images), outputs(before, images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.trainable().eval()(model.prepare(images)), outputs(before, images)["h"])
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "out", moved)
    assert exported(moved).key == model.key != exported(moved, size=16).key
    assert exported(moved, size=16).prepare(images).shape == (5, 3, 16, 16)


def test_exports_that_are_damaged(tmp_path):
    export_timm(run_of(trained(TIED, 3), tmp_path / "run"), tmp_path / "out")
    weights, config = (tmp_path / "out" / name for name in ("model.safetensors", "config.json"))
    data, text = weights.read_bytes(), config.read_text()
    for bad in ("{", "[]", "{}", text.replace("model_args", "margs"), text.replace("pretrained_cfg", "cfg")):
        config.write_text(bad)
        with pytest.raises(RunError, match=r"config.json is not what `manyview export` writes: ") as caught:
            exported(tmp_path / "out")
        assert "\n" not in str(caught.value)
    config.write_text(text.replace('"cresnet20"', '"cresnet32"'))
    with pytest.raises(RunError, match=r"model.safetensors holds weights of another architecture than cresnet32\(\): "):
        exported(tmp_path / "out")
    config.write_text(text)
    weights.write_bytes(data[:1000])
    with pytest.raises(RunError, match=r"model.safetensors is damaged: "):
        exported(tmp_path / "out")
    weights.unlink()
    with pytest.raises(RunError, match=r"^no checkpoint .*model.safetensors$"):
        exported(tmp_path / "out")


# ----------------------------------------------------------------------------------------------------------- timm's


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    network = timm.create_model("test_resnet", num_classes=7)
    network(torch.rand(8, 3, 32, 32))  # BatchNorm has seen something
    return network.eval()


def saved(path, network, how):
    state = network.state_dict()
    if how == "safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        wrapped = {f"_orig_mod.module.{name}": value for name, value in state.items()}
        torch.save(
            {
                "plain": state,
                "state_dict": {"state_dict": state, "epoch": 3, "arch": "test_resnet"},
                "model": {"model": {f"module.{name}": value for name, value in state.items()}, "optimizer": {"lr": 1}},
                "compiled": {"model_state_dict": wrapped, "step": 5},
                "older": {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
            }[how],
            path,
        )
    return path


@pytest.mark.parametrize("how", ["plain", "state_dict", "model", "compiled", "older", "safetensors"])
def test_a_timm_model_with_a_checkpoint(tmp_path, network, how):
    path = saved(tmp_path / ("w.safetensors" if how == "safetensors" else "w.pt"), network, how)
    model = of_timm(parse_call("test_resnet", ""), path, size=32)
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    config = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        x = (images.float() / 255 - mean) / std
        expected = {"h": network.forward_head(network.forward_features(x), pre_logits=True), "logits": network(x)}
    same(outputs(model, images), expected)
    assert model.labels == ("",) * 7
    assert model.key == TimmModel(network, config["mean"], config["std"], model.test, "any").key
    trunk = model.trainable().eval()
    torch.testing.assert_close(trunk(model.prepare(images)), expected["h"])
    with pytest.raises(RunError, match=r"^test_resnet tells no members of an orbit apart$"):
        outputs(model, images, aggregated=True)


def test_a_timm_model_without_a_classifier(tmp_path, network):
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    torch.save(state, tmp_path / "w.pt")
    model = of_timm(parse_call("test_resnet", ""), tmp_path / "w.pt")
    assert model.labels is None
    found = outputs(model, torch.randint(256, (2, 3, 40, 50), dtype=torch.uint8))
    assert set(found) == {"h"}
    height, width = timm.data.resolve_model_data_config(network)["input_size"][-2:]
    unlike = [torch.zeros(3, 30, 50, dtype=torch.uint8), torch.zeros(3, 60, 40, dtype=torch.uint8)]
    assert model.prepare(unlike).shape == (2, 3, height, width)


def test_the_small_stem_of_a_timm_model(tmp_path):
    step = trained(SMALL, 3)
    torch.save(step.main.backbone.state_dict(), tmp_path / "w.pt")
    model = of_timm(parse_call("resnet18(small=True, channels=(4, 8, 8, 16))", ""), tmp_path / "w.pt", size=12)
    images = pictures(3).pixels
    with torch.no_grad():
        config = timm.data.resolve_model_data_config(model.network)
        mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        expected = step.main.backbone((model.prepare(images) - mean) / std)
    torch.testing.assert_close(outputs(model, images)["h"], expected)
    with pytest.raises(
        RunError, match=r"another architecture than resnet18\(channels=.*\): 1 of another shape \(conv1"
    ):
        of_timm(parse_call("resnet18(channels=(4, 8, 8, 16))", ""), tmp_path / "w.pt")


class Code:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pt", {"stem.weight": torch.zeros(2)},
         r"^{path} holds weights of another architecture than test_resnet\(\): \d+ missing \(conv1.0.weight, .*, …\); "
         r"1 unknown \(stem.weight\)$"),
        ("w.pt", [torch.zeros(2)], r"^{path} holds no weights by name$"),
        ("w.pt", torch.zeros(2), r"^{path} holds no weights by name$"),
        ("w.pt", {"state_dict": 3}, r"^{path} holds no weights by name$"),
        ("w.pt", {"epoch": 3}, r"^{path} holds no weights by name$"),
        ("w.pt", {"state_dict": Code()}, r"^{path} is damaged, or holds more than tensors: "),
        ("w.pt", b"PK cut short", r"^{path} is damaged, or holds more than tensors: "),
        ("w.pt", b"\x80cut short", r"^{path} is damaged, or holds more than tensors: "),
        ("w.pt", b"no checkpoint", r"^{path} is no file of weights, "),
        ("w.pt", b"", r"^{path} is damaged: the file is empty \(0 bytes\)$"),
        ("w.safetensors", b"no checkpoint", r"^{path} is damaged: "),
        ("w.pt", None, r"^no checkpoint {path}$"),
    ],
)  # fmt: skip
def test_checkpoints_that_are_refused(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict) and isinstance(content.get("state_dict"), Code):
        path.write_bytes(pickle.dumps(content))
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(RunError, match=message.format(path=path)) as caught:
        of_timm(parse_call("test_resnet", ""), path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert capsys.readouterr().out == "", "nothing in a checkpoint is run"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("resnet18x", r"^'resnet18x' is neither the folder of a run or an export, nor a model of timm"),
        ("test_resnet(3)", r"write arguments of a model by name, as in test_resnet\(small=True\)$"),
        ("test_resnet(small=1)", r"write arguments of a model by name"),
        ("test_resnet(pretrained=True)", r"pretrained cannot be given; weights and classes are those of .*w.pt$"),
        ("test_resnet(num_classes=3)", r"num_classes cannot be given"),
        ("test_resnet(checkpoint_path='x')", r"checkpoint_path cannot be given"),
        ("test_resnet(init='x')", r"init cannot be given"),
        ("test_resnet(depth=3)", r"w.pt: test_resnet\(depth=3\): .*depth"),
        ("test_vit(small=True)", r"w.pt: test_vit\(\): "),
    ],
)
def test_models_that_are_refused(tmp_path, network, call, message):
    path = saved(tmp_path / "w.pt", network, "plain")
    with pytest.raises(RunError, match=message) as caught:
        of_timm(parse_call(call, ""), path)
    assert "\n" not in str(caught.value)


def test_the_key_of_a_timm_model():
    def model(seed=0, **changed):
        torch.manual_seed(seed)
        network = timm.create_model("test_resnet", num_classes=3, **changed.pop("network", {}))
        options = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "test": None, "name": "a", **changed}
        return TimmModel(network, **options)

    key = model().key
    view = StepModel(trained(TIED)).step.test_plan["test"]
    others = [
        {"seed": 1},
        {"mean": (0.4,) * 3},
        {"std": (0.4,) * 3},
        {"test": view},
        {"network": {"act_layer": nn.SiLU}},
    ]
    assert len({key, *(model(**changed).key for changed in others)}) == 6
    assert model(name="b", labels=("x", "y", "z")).key == key
    assert Features(model(name="b"), None).model.key == key
