"""`init=`: a network begins with the weights of a run, an export or a file, all of them, or is refused."""

import argparse
import pickle
import re
import warnings

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from commands import contents, manyview, one_line
from manyview import Step, load_recipe, parse_recipe
from manyview.branches.weights import open_weights
from manyview.errors import ManyviewError, ManyviewWarning, RecipeError
from manyview.foundation.grammar import parse_call
from manyview.judge.export import export_timm, timm_state
from manyview.judge.models import of_timm
from manyview.training.run import Run
from manyview.training.train import train
from published import publish
from subjects import TIED, pictures, run_of, trained

NETWORK = "test_resnet"
SSL = """
views:
  a: {from: image, make: "pad_crop(8, padding=1)"}
  b: {like: a}
branches:
  online: {backbone: cresnet20, normalize: cifar10, init: torch, z: "projector(h, 16)", p: "predictor(z, 8)"}
  teacher: ema(online, momentum=0.5)
relations: ["cosine(p(a), toward=teacher.z(b))"]
train: {epochs: 1, ema: 0.5}
"""


def begun(backbone, text=TIED, **branch):
    """(step, the warnings it gave) of a recipe with this backbone."""
    recipe = parse_recipe(text)
    first = next(name for name, raw in recipe.branches.items() if isinstance(raw, dict))
    branches = {**recipe.branches, first: {**recipe.branches[first], "backbone": str(backbone), **branch}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step = Step(parse_recipe(recipe.model_copy(update={"branches": branches}).to_yaml()), 10)
    return step, [str(each.message) for each in caught]


def refused(backbone, **branch):
    with pytest.raises(RecipeError) as caught:
        begun(backbone, **branch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(state, others):
    assert state.keys() == others.keys()
    for name, value in state.items():
        assert torch.equal(value, others[name]), name


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    model = timm.create_model(NETWORK, num_classes=7)
    model(torch.rand(4, 3, 32, 32))  # statistics of BatchNorm that are not those of a new network
    return model.eval()


@pytest.fixture(scope="module")
def state(network):
    return network.state_dict()


def put(state, way):
    """Weights as trainers keep them."""
    prefixed = {
        "module": "module.",
        "compiled": "_orig_mod.",
        "both": "_orig_mod.module.",
        "simsiam": "module.encoder.",
        "lightning": "model.",
        "byol": "online_encoder.net.",
        "dino": "module.backbone.",
    }
    other = {name: value + 1 for name, value in state.items()}
    if way == "plain":
        return state
    if way == "timm":
        arguments = argparse.Namespace(model=NETWORK, lr=0.1)
        return {"epoch": 3, "arch": NETWORK, "state_dict": state, "args": arguments, "optimizer": {"state": {}}}
    if way == "timm_ema":
        return {"epoch": 3, "arch": NETWORK, "state_dict": other, "state_dict_ema": state}
    if way == "moco":
        pairs = [("module.encoder_q.", state), ("module.encoder_k.", other)]
        named = {prefix + name: value for prefix, each in pairs for name, value in each.items()}
        return {"epoch": 200, "arch": "resnet50", "state_dict": {**named, "module.queue": torch.rand(8, 4)}}
    if way == "dino_teacher":
        return {"student": {f"module.backbone.{n}": v for n, v in other.items()},
                "teacher": {f"backbone.{n}": v for n, v in state.items()}, "epoch": 1}  # fmt: skip
    named = {prefixed[way] + name: value for name, value in state.items()}
    if way == "byol":
        named |= {f"target_encoder.net.{name}": value for name, value in other.items()}
        named |= {"online_predictor.net.0.weight": torch.rand(4, 4)}
    return {"model": named} if way == "both" else named


WAYS = ["plain", "module", "compiled", "both", "timm", "timm_ema", "moco", "simsiam", "lightning", "byol", "dino"]


@pytest.mark.parametrize("way", [*WAYS, "dino_teacher"])
def test_checkpoints_of_many_trainers(tmp_path, network, state, way):
    path = tmp_path / "w.pth.tar"
    torch.save(put(state, way), path)
    step, said = begun(f"{NETWORK}(init={str(path)!r})")
    own = step.main.backbone.state_dict()
    same(own, {name: value for name, value in state.items() if name in own})
    assert said == []
    start = step.starts["net.backbone"]
    assert start.source.startswith(str(path))
    matched = sum(not name.endswith("num_batches_tracked") for name in own)
    assert re.fullmatch(rf"{matched} weights(, under '[\w.]+')?, 2 left out \(fc\.weight, fc\.bias\)", start.told)
    # what evaluates a checkpoint reads it by the same means
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = of_timm(parse_call(NETWORK, ""), path)
    same(model.network.state_dict(), state)
    told = "under '" in start.told or ", not " in start.source  # of what it chose among several
    assert len(caught) == told


def test_safetensors_and_half_precision(tmp_path, state):
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(half, tmp_path / "w.safetensors")
    step, _ = begun(f"{NETWORK}(init={str(tmp_path / 'w.safetensors')!r})")
    own = step.main.backbone.state_dict()
    same(own, {name: half[name].to(value.dtype) for name, value in own.items()})


def test_a_run_gives_its_main_branch(tmp_path):
    step = trained(SSL, 4)
    with torch.no_grad():
        step.average.module.backbone.conv1.weight.add_(0.5)
    run_of(step, tmp_path / "run")
    for path in ("run", "run/checkpoints/last.pt"):
        new, said = begun(f"cresnet20(init={str(tmp_path / path)!r})", normalize="cifar10")
        same(new.main.backbone.state_dict(), step.average.module.backbone.state_dict())
        assert said == []
        assert new.starts["net.backbone"].source.endswith("run/checkpoints/last.pt (branch online, averaged)")
    assert new.main.heads["logits"].weight.shape == (10, 64)
    torch.save(step.state_dict(), tmp_path / "step.pt")  # as a loop of one's own may keep it
    own, _ = begun(f"cresnet20(init={str(tmp_path / 'step.pt')!r})", normalize="cifar10")
    same(own.main.backbone.state_dict(), step.average.module.backbone.state_dict())
    teacher, _ = begun(f"cresnet20(init={str(tmp_path / 'run')!r})", SSL)
    same(teacher.branch("teacher").backbone.state_dict(), step.average.module.backbone.state_dict())
    fresh, _ = begun("cresnet20", SSL)
    same(teacher.main.heads.state_dict(), fresh.main.heads.state_dict())  # as the recipe's own scheme draws them


def test_the_first_features_are_those_of_the_run_bit_for_bit(tmp_path):
    old = trained(TIED)
    run = run_of(old, tmp_path / "run")
    export_timm(run, tmp_path / "export")
    images = pictures(6).pixels
    expected = old.main.read(old.test_pixels(images), ["h"])["h"]
    for place in ("run", "export", "export/model.safetensors"):
        new, said = begun(f"cresnet20(init={str(tmp_path / place)!r})")
        new.eval()
        assert torch.equal(new.main.read(new.test_pixels(images), ["h"])["h"], expected), place
        assert said == []


def test_heads_come_along_where_they_are_asked(tmp_path):
    old = trained(SSL, 4)
    run_of(old, tmp_path / "run")
    place = str(tmp_path / "run")
    asked, _ = begun(f"cresnet20(init={place!r})", SSL, z=f"projector(h, 16, init={place!r})")
    same(asked.main.heads["z"].state_dict(), old.average.module.heads["z"].state_dict())
    same(asked.branch("teacher").heads["z"].state_dict(), old.average.module.heads["z"].state_dict())
    fresh, _ = begun("cresnet20", SSL)
    same(asked.main.heads["p"].state_dict(), fresh.main.heads["p"].state_dict())
    assert set(asked.starts) == {"online.backbone", "online.z"}
    for other in ("linear(h, 16", "mlp(h, 16, 16", "projector(h, 16, layers=3"):  # which have some of its names
        with pytest.raises(RecipeError, match=r"branches\.online\.z: .*another architecture than \w+\(h, 16.*\): \d "):
            begun("cresnet20", SSL, z=f"{other}, init={place!r})", p="predictor(z, 8)")
    logits = f"linear(h, init={place!r})"
    message = refused("cresnet20", logits=logits)
    assert re.fullmatch(r"branches.net.logits: .*last.pt \(.*\) has no head logits; its heads are z, p", message)


def test_a_classifier_comes_from_an_export_or_a_file(tmp_path):
    old = trained(TIED)
    export_timm(run_of(old, tmp_path / "run"), tmp_path / "export")
    for place in ("run", "export"):
        path = str(tmp_path / place)
        new, _ = begun(f"cresnet20(init={path!r})", logits=f"linear(h, init={path!r})")
        same(new.main.state_dict(), old.main.state_dict())
    message = refused("cresnet20", logits=f"linear(h, 9, init={path!r})")
    assert "2 of another shape (weight [10, 64], not [9, 64], bias [10], not [9])" in message


def file_of(path, name, **options):
    torch.save(timm.create_model(name, **options).state_dict(), path)
    return str(path)


def test_weights_that_were_cut_short_are_told_from_those_of_another_network(tmp_path):
    state = timm.create_model("cresnet20").state_dict()
    path = str(tmp_path / "half.pth")
    torch.save(dict([*state.items()][:50]), path)
    message = refused(f"cresnet20(init={path!r})")
    assert f"{path} holds the first weights of cresnet20() alone, as a file that was cut short: " in message
    whole = (tmp_path / "half.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    assert f"{path} is damaged" in refused(f"cresnet20(init={path!r})")


def test_weights_of_another_network_are_refused(tmp_path):
    path = file_of(tmp_path / "w.pt", "cresnet32")
    message = refused(f"cresnet20(init={path!r})")
    assert message.startswith(f"branches.net.backbone: {path} holds weights of another architecture than cresnet20(): ")
    assert "unknown (layer1.3.conv1.weight" in message, "a deeper network has all of a shallower one's names"
    path = file_of(tmp_path / "w.pt", "cresnet20")
    assert "missing (layer1.3.conv1.weight, " in refused(f"cresnet32(init={path!r})")
    path = file_of(tmp_path / "w.pt", NETWORK)
    assert "missing (" in refused(f"cresnet20(init={path!r})")
    wide = file_of(tmp_path / "w.pt", "resnet18", channels=(4, 8, 8, 16))
    assert "of another shape (layer1.0.conv1.weight [4, 64, 3, 3], not [8, 64, 3, 3]" in refused(
        f"resnet18(channels=(8, 8, 8, 16), init={wide!r})"
    )
    run_of(trained(TIED), tmp_path / "run")
    assert refused(f"cresnet32(init={str(tmp_path / 'run')!r})").endswith("; those are of cresnet20()")


@pytest.mark.parametrize("extra", ["layer4.2.conv1.weight", "layer1.0.conv1.bias", "reg_token"])
def test_what_would_be_part_of_the_network_is_not_left_out(tmp_path, state, extra):
    torch.save({**state, extra: torch.zeros(2)}, tmp_path / "w.pt")
    assert f"2 unknown ({extra}" in refused(f"{NETWORK}(init={str(tmp_path / 'w.pt')!r})").replace("3 unk", "2 unk")


@pytest.mark.parametrize("lost", ["conv1.0.weight", "layer2.0.bn1.running_var"])
def test_nothing_is_left_at_random(tmp_path, state, lost):
    torch.save({name: value for name, value in state.items() if name != lost}, tmp_path / "w.pt")
    assert f"1 missing ({lost})" in refused(f"{NETWORK}(init={str(tmp_path / 'w.pt')!r})")


def test_a_stem_of_another_size_is_told(tmp_path):
    path = file_of(tmp_path / "w.pt", "resnet18", channels=(4, 8, 8, 16))
    call = f"resnet18(small=True, channels=(4, 8, 8, 16), init={path!r})"
    step, said = begun(call)
    assert said == [
        f"branches.net.backbone: the first convolution starts at random, since that of {path} is of another size"
    ]
    assert step.starts["net.backbone"].told.endswith("at random conv1.weight [64, 3, 7, 7], not [64, 3, 3, 3]")
    fresh, _ = begun("resnet18(small=True, channels=(4, 8, 8, 16))")
    assert torch.equal(step.main.backbone.conv1.weight, fresh.main.backbone.conv1.weight)
    given = torch.load(path, weights_only=True)
    own = step.main.backbone.state_dict()
    same({n: v for n, v in own.items() if n != "conv1.weight"}, {n: given[n] for n in own if n != "conv1.weight"})


def test_grey_images_and_position_embeddings_as_timm_has_them(tmp_path):
    path = file_of(tmp_path / "w.pt", NETWORK)
    grey = TIED.replace("views:", "data: {channels: 1}\nviews:", 1)
    step, _ = begun(f"{NETWORK}(init={path!r})", grey)
    theirs = timm.create_model(
        NETWORK, pretrained=True, in_chans=1, num_classes=0, pretrained_cfg_overlay={"file": path}
    )
    same(step.main.backbone.state_dict(), theirs.state_dict())
    assert "conv1.0.weight adapted from 3 to 1 channels" in step.starts["net.backbone"].told

    path = file_of(tmp_path / "w.pt", "test_vit")
    step, _ = begun(f"test_vit(img_size=32, init={path!r})")
    theirs = timm.create_model(
        "test_vit", pretrained=True, img_size=32, num_classes=0, pretrained_cfg_overlay={"file": path}
    )
    same(step.main.backbone.state_dict(), theirs.state_dict())
    assert "1 resampled (pos_embed from [1, 101, 64] to [1, 5, 64])" in step.starts["net.backbone"].told


def test_published_weights_tell_where_they_are_from_and_of_their_stem(tmp_path, monkeypatch):
    path = file_of(tmp_path / "w.pt", "resnet18", channels=(4, 8, 8, 16))
    publish(monkeypatch, "resnet18", path)
    given = "channels=(4, 8, 8, 16), pretrained=True"
    step, said = begun(f"resnet18({given})", normalize="imagenet")
    assert (said, str(step.starts["net.backbone"])) == ([], f"{path}: published weights")
    _, said = begun(f"resnet18(small=True, {given})")
    assert [line.partition(", since")[0] for line in said] == [
        "branches.net.backbone: the first convolution starts at random",
        f"branches.net: {path} was trained on images normalised otherwise than here; branches.net.normalize=imagenet",
    ]


def test_code_is_named(tmp_path, network):
    torch.save(network, tmp_path / "w.pt")
    message = refused(f"{NETWORK}(init={str(tmp_path / 'w.pt')!r})")
    assert "w.pt is damaged, or holds more than tensors: it names " in message
    assert "timm." in message
    assert message.endswith("which is code; write the weights alone, torch.save(model.state_dict(), …)")


def test_torchvisions_resnet(tmp_path):
    import torchvision

    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "w.pth")
    step, _ = begun(f"resnet18(init={str(tmp_path / 'w.pth')!r})")
    own = step.main.backbone.state_dict()
    same(own, {name: state[name] for name in own})


class Code:
    def __reduce__(self):
        return (print, ("run",))


def test_places_that_are_no_use(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Code()))
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(TIED)
    where = "branches.net.backbone: "
    assert refused("cresnet20(init='nofile.pt')").startswith(
        f"{where}there is no run, export or file 'nofile.pt', seen"
    )
    assert "folder is no run (it has no recipe.yaml), no export (it has no config.json)" in refused(
        "cresnet20(init='folder')"
    )
    assert f"{where}code.pt is damaged, or holds more than tensors: " in refused("cresnet20(init='code.pt')")
    none = "is no file of weights, neither torch.save's nor .safetensors"
    assert refused("cresnet20(init='text.pt')") == f"{where}text.pt {none}"
    assert f"{where}text.safetensors is damaged: " in refused("cresnet20(init='text.safetensors')")
    assert refused("cresnet20(init='empty.pt')") == f"{where}empty.pt holds no weights by name"
    assert refused("cresnet20(init='run')") == f"{where}run has no checkpoint yet; train it first"
    assert "is the name of a run, an export or a file, in quotes, got 3" in refused("cresnet20(init=3)")
    assert "init and checkpoint_path say the same; keep init" in refused("cresnet20(init='a', checkpoint_path='b')")
    assert capsys.readouterr().out == "", "nothing in a file is run"


def test_another_normalisation_is_told(tmp_path):
    run_of(trained(TIED), tmp_path / "run")  # which has 0.5
    export_timm(Run(tmp_path / "run"), tmp_path / "export")
    for place in ("run", "export"):
        call = f"cresnet20(init={str(tmp_path / place)!r})"
        assert begun(call)[1] == []
        _, said = begun(call, normalize="cifar10")
        assert len(said) == 1
        assert re.search(r"was trained on images normalised otherwise than here; branches.net.normalize=", said[0])
        assert begun(call, normalize=yaml.safe_load(re.search(r"normalize=(\S+)$", said[0])[1]))[1] == []


def test_a_file_stands_in_for_published_weights(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    given = f"init={str(tmp_path / 'w.pt')!r}"
    step, _ = begun(f"{NETWORK}(pretrained=True, {given})")
    assert torch.equal(step.main.backbone.conv1[0].weight, state["conv1.0.weight"])
    step, _ = begun(f"{NETWORK}({given})", init="torch")
    assert torch.equal(step.main.backbone.conv1[0].weight, state["conv1.0.weight"]), "a scheme draws what has no place"
    recipe = parse_recipe(TIED.replace("cresnet20", f'"{NETWORK}({given})"'))
    assert Step(recipe, 10, pretrained=False).starts == {}


# ------------------------------------------------------------------------------------------------------ from run to run


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run on digits, of four updates."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    train(load_recipe("quickstart", *SHORT), folder, quiet=True)
    return folder


SHORT = ("train.epochs=null", "train.steps=4", "data.limit=300", "evaluate=[]", "train.schedule=constant()")


@pytest.mark.slow(reason="two runs, one of them resumed")
def test_a_run_begins_where_another_ended(first, tmp_path, monkeypatch):
    monkeypatch.chdir(first.parent)
    overrides = [*SHORT, "branches.net.backbone.init=first"]
    code, out, err = manyview("train", "quickstart", *overrides, "--out", "second")
    assert (code, err) == (0, "")
    assert re.search(r"starts +net\.backbone from first/checkpoints/\w+\.pt \(branch net\): \d+ weights", out)
    run = Run(first.parent / "second")
    (start,) = run.finished()["starts"].values()
    assert start["source"].startswith("first/checkpoints/")
    assert len(start["digest"]) == 32
    written = run.recipe().branches["net"]["backbone"]
    assert written == f"cresnet20(init={str(first)!r})", "it can be read from any folder"
    plan = manyview("plan", "quickstart", *overrides)[1]
    assert "starts: net.backbone from first/checkpoints/" in plan

    export_timm(run, tmp_path / "export")
    exported = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)
    same(exported.state_dict(), timm_state(run.step(run.recipe()), run.step(run.recipe()).main)[0])

    # nothing but a checkpoint is needed to go on, and to be read
    first.rename(first.parent / "moved")
    try:
        run.result.unlink()
        assert manyview("train", "quickstart", *overrides, "--out", "second", "--resume")[0] == 0
        assert run.finished()["starts"] == {"net.backbone": start}
        run.step(run.recipe())
        line = one_line(*manyview("train", "quickstart", *overrides, "--out", "third"))
        assert line.startswith("branches.net.backbone: there is no run, export or file 'first'")
        assert not (first.parent / "third").exists()
        assert "no run, export or file" in one_line(*manyview("plan", "quickstart", *overrides))
        other = ["quickstart", "tied_cifar10", *SHORT, "data.source=digits", *overrides[-1:], "--out", "compared"]
        assert "no run, export or file" in one_line(*manyview("compare", *other))
        assert not (first.parent / "compared").exists()
    finally:
        (first.parent / "moved").rename(first)


@pytest.mark.slow(reason="a run that is begun twice")
def test_a_run_without_a_checkpoint_begins_with_the_same_weights(first, tmp_path):
    recipe = load_recipe("quickstart", *SHORT, f"branches.net.backbone.init={tmp_path / 'w.pt'}")
    weights = dict(open_weights(first).state)
    torch.save(weights, tmp_path / "w.pt")
    train(recipe, tmp_path / "run", quiet=True)
    for path in Run(tmp_path / "run").folder.glob("checkpoints/*"):
        path.unlink()
    Run(tmp_path / "run").result.unlink()
    weights["conv1.weight"] = weights["conv1.weight"] + 1
    torch.save(weights, tmp_path / "w.pt")
    before = contents(tmp_path)
    with pytest.raises(ManyviewError, match=r"w\.pt no longer holds the weights with which net\.backbone began"):
        train(recipe, tmp_path / "run", resume=True, quiet=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("path", ["runs/a (1)", "123", "null.pt", "1e3", "C:\\runs\\a", "it's"])
def test_a_path_is_the_text_that_was_written(path):
    recipe = load_recipe("quickstart", f"branches.net.backbone.init={path}")
    assert recipe.branch_plan["net"].backbone.kwargs == {"init": path}
    without = load_recipe("quickstart", "branches.net.backbone=cresnet20(init='a')", "branches.net.backbone.init=null")
    assert begun(without.branches["net"]["backbone"])[0].starts == {}


def test_a_network_that_was_given_stays_as_it_is(tmp_path, state):
    torch.save(state, tmp_path / "w.pt")
    model = timm.create_model(NETWORK, num_classes=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = parse_recipe(TIED.replace("cresnet20", f"\"{NETWORK}(init='{tmp_path / 'w.pt'}')\""))
    with pytest.warns(ManyviewWarning, match=r"^backbone: the network of net stays as it was given; the recipe's '.*w"):
        step = Step(recipe, 10, backbone=model)
    same(model.state_dict(), before)
    assert step.starts == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Step(recipe, 10, backbone=model, pretrained=False)
    # what it was trained to be is a start like any other
    run_of(step.eval(), tmp_path / "run")
    new, _ = begun(f"{NETWORK}(init={str(tmp_path / 'run')!r})", normalize="half")
    same(new.main.backbone.state_dict(), before)


@pytest.mark.parametrize("path", ["runs/simsiam", "weights.pt", "../a (1)/w.safetensors"])
def test_a_place_among_schemes_is_sent_on(path):
    where = "branches.net.init"
    with pytest.raises(
        RecipeError, match=f"{where} says how weights are drawn; where they come from stands in "
    ) as said:
        load_recipe("quickstart", f"{where}={path}")
    assert str(said.value).endswith(f"the backbone: branches.net.backbone.init={path}")
