"""`manyview import`: a checkpoint of each layout gives what the network gave that it was made of, or is refused."""

import argparse
import pickle
import re

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from authors import AgMax, ResNet, Sla, ViT, Wide, mlp, numbered, sla_cresnet, stirred, under
from commands import contents, done, manyview, one_line, png
from manyview import Step, parse_recipe
from manyview.branches.architecture import network_by_shapes
from manyview.branches.layouts import LAYOUTS
from manyview.branches.spec import NORMALIZATIONS
from manyview.branches.timm_models import timm_model
from manyview.branches.weights import open_weights
from manyview.errors import ManyviewWarning, RunError
from manyview.export.export import export_model
from manyview.foundation.grammar import Call, parse_call
from manyview.judge.importing import import_checkpoint
from manyview.judge.models import exported
from pages import ROOT
from subjects import TIED

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SWAV = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
HALF = (0.5,) * 3, (0.5,) * 3
USUAL = None  # nobody tells


class Made:
    """A checkpoint of a layout. file: what is saved; h, logits: what its network gives for normalised pixels."""

    def __init__(self, file, h, logits=None, images=IMAGENET, layout=None, left=(), **options):
        self.file, self.h, self.logits, self.images = file, h, logits, images
        self.layout, self.left, self.options = layout, left, options


def agmax():
    net = ResNet(deep=True)
    whole = stirred(AgMax(net, net.width, 7))
    state = under("module.", whole.state_dict())
    file = {"epoch": 90, "model_state_dict": state, "optimizer_state_dict": {"state": {0: {"m": torch.rand(3)}}}}
    return Made(file, net.features, lambda x: whole.backbone.classifier(net.features(x)), left=["Q: 4 tensors"])


def agmax_standard():
    net = ResNet(deep=True)
    whole = stirred(AgMax(net, net.width, 7)).backbone
    file = {"epoch": 1, "model_state_dict": under("module.", whole.state_dict())}
    return Made(file, net.features, lambda x: whole.classifier(net.features(x)), layout="agmax")


def agmax_timm():
    inner = timm.create_model("regnetx_002")  # with a classifier of its own, which nothing reads
    features = nn.ModuleDict({"features": inner})
    whole = stirred(AgMax(features, 368, 7))
    h = lambda x: inner.forward_features(x).mean((2, 3))  # noqa: E731
    file = {"model_state_dict": under("module.", whole.state_dict())}
    left = ["classifier of timm's, which nothing reads: 2 tensors "]
    scores = lambda x: whole.backbone.classifier(h(x))  # noqa: E731
    return Made(file, h, scores, layout="agmax", left=left, backbone="regnetx_002")


def agmax_wide():
    net = Wide(6, 2, agmax=True)
    whole = stirred(AgMax(net, net.width, 10))
    file = {"model_state_dict": under("module.", whole.state_dict())}
    return Made(file, net.features, lambda x: whole.backbone.classifier(net.features(x)), USUAL, layout="agmax")


def sla():
    whole = stirred(Sla(sla_cresnet(), 64, 40))
    args = argparse.Namespace(mode="sla", aug="rotation", dataset="cifar10", model="cresnet20")
    file = {"model": under("module.", whole.state_dict()), "optim": {"state": {}}, "best": (0.5, 0.4), "args": args}
    joint = lambda x: whole.classifiers[0](whole.base_model(x))[:, ::4]  # noqa: E731
    return Made(file, whole.base_model, joint, HALF, left=[])


def sla_sd():
    net = ResNet()
    whole = stirred(Sla(numbered(net), net.width, 28, 7))
    file = {"model": under("module.", whole.state_dict()), "iteration": 3}
    scores = lambda x: whole.classifiers[1](whole.base_model(x))  # noqa: E731
    return Made(file, net.features, scores, layout="sla", left=["joint head: 2 tensors"])


def augself():
    net = stirred(ResNet())
    parts = {"projector": mlp(16, 8, 8, last_bn=True), "predictor": mlp(8, 4, 8)}
    predictors = {kind: mlp(32, 8, 4).state_dict() for kind in ("crop", "color")}
    file = {"backbone": net.state_dict(), **{k: v.state_dict() for k, v in parts.items()}, "ss_predictor": predictors}
    optimizers = [{"state": {0: {"momentum_buffer": torch.rand(2)}}, "param_groups": [{"lr": 0.1}]}]
    left = ["projector: 12 tensors", "predictor: 7 tensors", "ss_predictor: 14 tensors"]
    return Made({**file, "optimizers": optimizers}, net.features, images=USUAL, left=left)


def dssl():
    net = stirred(ResNet(small=True, around="shortcut"))
    head = nn.ModuleDict({"layer1": nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU())})
    state = {**under("backbone.", net.state_dict()), **under("projector.", head.state_dict())}
    state |= {**under("encoder.0.", net.state_dict()), **under("encoder.1.", head.state_dict())}
    file = {"epoch": 800, "arch": "resnet18", "state_dict": state, "optimizer": {}, "top1_acc": 92.0}
    return Made(file, net.features, images=CIFAR, left=["projector: 7 tensors", "backbone and projector once more"])


def byol():
    net, target = stirred(ResNet()), stirred(ResNet())
    head = {"net.0.weight": torch.rand(4, 4)}
    state = {**under("backbone.", net.state_dict()), **under("online_encoder.net.", net.state_dict())}
    state |= {**under("online_encoder.projector.", head), **under("target_encoder.net.", target.state_dict())}
    return Made({"state_dict": under("module.", {**state, **under("online_predictor.", head)})}, net.features)


def moco():
    net, keys = stirred(ResNet(fc=5)), stirred(ResNet(fc=5))  # v1: its projector is one linear layer, no classifier
    state = {**under("encoder_q.", net.state_dict()), **under("encoder_k.", keys.state_dict())}
    state |= {"queue": torch.rand(5, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    file = {"epoch": 200, "arch": "resnet50", "state_dict": under("module.", state), "optimizer": {"state": {}}}
    return Made(file, net.features, left=["projector: 2 tensors", "momentum encoder: ", "queue: 2 tensors"])


def mocov3():
    net = stirred(ViT(384, 12, 12))  # twice as many heads as timm's ViT-S
    state = {**under("base_encoder.", net.state_dict()), **under("base_encoder.head.", mlp(384, 8, 4).state_dict())}
    state |= {**under("momentum_encoder.", {"cls_token": torch.rand(1)}), **under("predictor.", mlp(4, 4).state_dict())}
    return Made({"arch": "vit_small", "state_dict": under("module.", state)}, net.features, left=["projector: "])


def simsiam():
    net = stirred(ResNet(fc=nn.Sequential(*mlp(16, 8, 8), nn.BatchNorm1d(8, affine=False))))
    state = {**under("encoder.", net.state_dict()), **under("predictor.", mlp(8, 4, 8).state_dict())}
    return Made(
        {"arch": "resnet50", "state_dict": under("module.", state)}, net.features, left=["predictor: 7 tensors"]
    )


def swav():
    net = stirred(ResNet(deep=True))
    state = {**net.state_dict(), **under("projection_head.", mlp(64, 8, 4).state_dict())}
    state["prototypes.weight"] = torch.rand(9, 4)
    return Made(under("module.", state), net.features, images=SWAV, left=["prototypes: 1 tensor "])


def vicreg():
    net = stirred(ResNet(deep=True))
    state = {**under("backbone.", net.state_dict()), **under("projector.", mlp(64, 8, 8).state_dict())}
    return Made({"epoch": 3, "model": under("module.", state), "optimizer": {}}, net.features, left=["projector: 7"])


def dino():
    net, student = stirred(ViT()), stirred(ViT())
    head = {"mlp.0.weight": torch.rand(4, 4), "last_layer.weight_g": torch.ones(5, 1)}
    file = {
        "student": under("module.", {**under("backbone.", student.state_dict()), **under("head.", head)}),
        "teacher": {**under("backbone.", net.state_dict()), **under("head.", head)},
        "args": argparse.Namespace(arch="vit_tiny", patch_size=16),
        "dino_loss": {"center": torch.zeros(1, 5)},
        "epoch": 100,
    }
    return Made(file, net.features, left=["head: 2 tensors", "student: ", "dino_loss: 1 tensor "])


def lightly():
    net = stirred(ResNet())
    twice = under("backbone_momentum.", numbered(stirred(ResNet())).state_dict())
    state = {
        **under("backbone.", numbered(net).state_dict()),
        **twice,
        "projection_head.layers.0.weight": torch.rand(4, 4),
    }
    file = {"state_dict": state, "pytorch-lightning_version": "2.1", "hyper_parameters": {"lr": 0.06}, "epoch": 3}
    return Made(file, net.features, images=USUAL, left=["momentum encoder: ", "projector: 1 tensor "])


def solo():
    net = stirred(ResNet())
    classifier = nn.Linear(16, 7)
    state = {**under("backbone.", net.state_dict()), **under("classifier.", classifier.state_dict())}
    state |= {**under("projector.", mlp(16, 8).state_dict()), **under("momentum_backbone.", net.state_dict())}
    scores = lambda x: classifier(net.features(x))  # noqa: E731
    return Made({"state_dict": state}, net.features, scores, USUAL, layout="solo-learn", left=["momentum encoder: "])


def solo_cifar():
    net = stirred(ResNet(small=True, pad=2))  # whose maps are 34 pixels wide
    classifier = nn.Linear(16, 7)
    state = {**under("encoder.", net.state_dict()), **under("classifier.", classifier.state_dict())}
    scores = lambda x: classifier(net.features(x))  # noqa: E731
    return Made({"state_dict": state}, net.features, scores, USUAL, layout="solo-learn")


def tied():
    net = stirred(Wide(4, 2))
    averaged = {"n_averaged": torch.tensor(3), **under("module.", net.state_dict())}
    file = {
        "model": stirred(Wide(4, 2)).state_dict(),
        "model_ema": averaged,
        "iteration": 9,
        "train_metrics": {"loss": []},
    }
    return Made(file, net.features, lambda x: net.fc(net.features(x)), USUAL, left=["model: "])


def tv_resnet():
    net = stirred(ResNet(layers=(2, 2, 2, 2), fc=7))
    return Made(net.state_dict(), net.features, net, USUAL, layout="timm")


def tv_vit():
    net = torchvision.models.VisionTransformer(32, 16, 12, 3, 192, 768, num_classes=7).eval()
    nn.init.normal_(net.heads.head.weight)

    def h(x):
        tokens = net._process_input(x)
        return net.encoder(torch.cat((net.class_token.expand(len(x), -1, -1), tokens), 1))[:, 0]

    return Made(net.state_dict(), h, net, layout="torchvision")


def of_anybody():
    net = stirred(ResNet(small=True, fc=7))
    state = {**under("net.module.", net.state_dict()), **under("head.", mlp(16, 8).state_dict())}
    file = {"state_dict": state, "hyper_parameters": {"lr": 0.1}}
    return Made(file, net.features, net, USUAL, layout="timm", left=["others: 1 tensor "])


def of_timm():
    net = stirred(timm.create_model("test_resnet", num_classes=7))
    h = lambda x: net.forward_head(net.forward_features(x), pre_logits=True)  # noqa: E731
    args = argparse.Namespace(model="test_resnet", lr=0.1)
    file = {"epoch": 3, "arch": "test_resnet", "state_dict": net.state_dict(), "args": args}
    return Made(file, h, net, HALF, layout="timm", normalize="half")


MADE = [
    *(
        agmax,
        agmax_standard,
        agmax_timm,
        agmax_wide,
        sla,
        sla_sd,
        augself,
        dssl,
        byol,
        moco,
        mocov3,
        simsiam,
        swav,
        vicreg,
        dino,
    ),
    *(lightly, solo, solo_cifar, tied, tv_resnet, tv_vit, of_anybody, of_timm),
]


SLOW = pytest.mark.slow(reason="a ViT-S of twelve blocks, the smallest whose heads MoCo v3 has otherwise than timm")


@pytest.mark.parametrize(
    "make", [pytest.param(make, id=make.__name__, marks=[SLOW] if make is mocov3 else []) for make in MADE]
)
@torch.no_grad()
def test_a_file_of_each_layout_gives_what_its_network_gave(make, tmp_path, recwarn):
    torch.manual_seed(0)
    made = make()
    torch.save(made.file, tmp_path / "c.pth.tar")
    lines = import_checkpoint(tmp_path / "c.pth.tar", tmp_path / "out", **made.options)
    assert lines[0].startswith(f"layout    {made.layout or make.__name__} ("), lines
    for part in made.left:
        assert any(line.startswith(f"left      {part}") for line in lines), lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pth.tar", "out"]
    assert not recwarn.list
    model = exported(tmp_path / "out")
    pixels = torch.rand(3, 3, 32, 32)
    images = made.images
    if images is USUAL:
        images = model.normalization[0].flatten().tolist(), model.normalization[1].flatten().tolist()
        assert "is not known; import it again with --normalize" in str(recwarn.pop().message)
    assert any(" is not known; " in line for line in lines) == (made.images is USUAL)
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in images)
    expected = {"h": made.h((pixels - mean) / std)}
    if made.logits is not None:
        expected["logits"] = made.logits((pixels - mean) / std)
    found = model.read(pixels)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert value.std() > 1e-2
        assert (found[name] - value).abs().max() <= 1e-6 * max(1, value.abs().max()), name


def saved(path, file):
    (save_file if path.suffix == ".safetensors" else torch.save)(file, path)
    return path


def normalised(pixels, mean=IMAGENET[0], std=IMAGENET[1]):
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std))
    return (pixels - mean) / std


@torch.no_grad()
@pytest.mark.slow(reason="three commands on it, and a step that begins with it")
def test_it_is_a_model_as_any_other(tmp_path, recwarn):
    torch.manual_seed(1)
    made = sla_sd()
    path, out = saved(tmp_path / "c.pth", made.file), tmp_path / "out"
    told = done("import", path, out)
    assert (
        "\nmatched   67 weights, model: base_model.*; renamed from a ResNet's children, numbered (under base_" in told
    )
    assert "\nhead      7 classes, classifiers.1.*\nleft      joint head: 2 tensors (classifiers.0.weight, " in told
    images = "images    224x224, the centre of 256; normalised by imagenet, as the code of sla has it"
    assert told.endswith(f"\nnot read  iteration\n{images}\nwrote     {out / 'model.safetensors'} and config.json\n")
    assert str(exported(out).test.ops[0].op) == "Resize(size=256)"  # as SLA's own test.py, and not as timm's resnet18
    photos = tmp_path / "photos"
    files = [png(photos / name / f"{seed}.png", (40, 40), seed) for seed, name in enumerate("abababab")]
    done("embed", out, photos, "--out", tmp_path / "f.npz", "--size", "32")
    model = exported(out, size=32)
    pixels = model.prepare([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in sorted(files)])
    kept = torch.from_numpy(np.load(tmp_path / "f.npz")["features"])
    assert torch.allclose(kept, made.h(normalised(pixels)), atol=1e-5)
    predicted = done("predict", out, files[0], "--size", "32").rstrip("\n").split("\t")
    scores = made.logits(normalised(pixels[:1])).softmax(1)[0]
    assert predicted[1] == str(int(scores.argmax()))
    data = "data.source=folder", f"data.root={photos}", "data.val_fraction=0.5"
    assert "knn" in done("eval", out, "knn(k=1)", *data, "--size", "32", "--out", tmp_path / "judged")
    backbone = f"resnet18(layers=(1, 1, 1, 1), channels=(4, 8, 8, 16), init={str(out)!r})"
    text = TIED.replace("cresnet20", f'"{backbone}"').replace("half", "imagenet")
    text = text.replace("normalize: imagenet", f'normalize: imagenet, logits: "linear(h, init={str(out)!r})"')
    found = Step(parse_recipe(text), 7).eval().main.read(pixels, ["h", "logits"])
    assert torch.allclose(found["h"], made.h(normalised(pixels)), atol=1e-5)
    assert torch.allclose(found["logits"], made.logits(normalised(pixels)), atol=1e-5)
    assert not recwarn.list


@torch.no_grad()
@pytest.mark.slow(reason="two exports, one of them traced")
def test_it_leaves_again(tmp_path, recwarn):
    made = solo_cifar()
    saved(tmp_path / "c.pth", made.file)
    done("import", tmp_path / "c.pth", tmp_path / "out", "--normalize", "half")  # of one number
    assert "small_resnet18.py" in done("export", tmp_path / "out", tmp_path / "timm")
    done("export", tmp_path / "out", tmp_path / "traced", "--to", "torchscript", "--size", "32")
    pixels = torch.rand(2, 3, 32, 32)
    expected = exported(tmp_path / "out").read(pixels)
    assert torch.equal(exported(tmp_path / "timm").read(pixels)["logits"], expected["logits"])
    traced = torch.jit.load(tmp_path / "traced" / "model.pt")(normalised(pixels, *NORMALIZATIONS["half"]))
    assert torch.allclose(traced, expected["logits"], atol=1e-5)
    assert "is no run, whose files a model card is made of" in one_line(
        *manyview("export", tmp_path / "out", tmp_path / "hub", "--to", "hub")
    )
    assert not (tmp_path / "hub").exists()
    assert not [each for each in recwarn.list if issubclass(each.category, ManyviewWarning)]  # torch.jit has one


@torch.no_grad()
@pytest.mark.parametrize("make", [sla_sd, agmax_wide, dssl, tied], ids=lambda make: make.__name__)
def test_init_reads_the_same_spellings(make, tmp_path, recwarn):
    torch.manual_seed(0)
    made = make()
    import_checkpoint(saved(tmp_path / "c.pth", made.file), tmp_path / "out")
    imported = open_weights(tmp_path / "out")
    step = Step(parse_recipe(TIED.replace("cresnet20", begins(imported.backbone, tmp_path / "c.pth"))), 3)
    own = step.main.backbone.state_dict()
    assert all(torch.equal(value, imported.state[name]) for name, value in own.items())


def begins(backbone, path):
    call = parse_call(backbone, "")
    return f'"{Call(call.name, (), {**call.kwargs, "init": str(path)})}"'


def spoilt(state, **changed):
    """Weights of which some are others, or gone."""
    found = {**state, **{name.replace("__", "."): value for name, value in changed.items()}}
    return {name: value for name, value in found.items() if value is not None}


class Code:
    def __reduce__(self):
        return (print, ("run",))


def refusals():
    """(name, file, options, what the refusal says)."""
    net = ResNet()
    state, moco_state = net.state_dict(), under("encoder_q.", net.state_dict())
    one = torch.zeros(1)
    yield "two", {"state_dict": {**moco_state, **under("base_encoder.", state)}}, (), (
        "may be of several layouts; say which: --as moco (MoCo v1 and v2, facebookresearch/moco) or --as mocov3 ("
    )  # fmt: skip
    yield "layout", moco_state, ("--as", "mocco"), "--as: unknown layout 'mocco'; did you mean 'moco'? layouts: moco, "
    yield (
        "other",
        state,
        ("--as", "moco"),
        "has no weights encoder_q.*, as files of MoCo v1 and v2, facebookresearch/moco",
    )
    yield "section", {"model": state}, ("--as", "dino"), "has no teacher or student, as files of DINO"
    told = "holds weights of another architecture than resnet18(layers=(1, 1, 1, 1), channels=(4, 8, 8, 16)): "
    yield "missing", spoilt(state, layer2__0__bn1__bias=None), (), told + "1 missing (layer2.0.bn1.bias)"
    yield (
        "shape",
        spoilt(state, layer2__0__bn1__bias=one),
        (),
        told + "1 of another shape (layer2.0.bn1.bias [1], not [8])",
    )
    yield "beyond", spoilt(state, layer2__0__bn3__bias=one), (), told + "1 unknown (layer2.0.bn3.bias)"
    yield (
        "network",
        {"a.weight": one},
        (),
        "names and shapes of its weights (a.weight) tell no network; say which, as in --b",
    )
    yield "empty", spoilt(state, layer1__0__conv2__weight=torch.zeros(4, 0, 3, 3)), (), "tell no network; say which"
    thin = {f"layer{stage}.0.conv2.weight": torch.zeros(9000, 1, 3, 3) for stage in range(1, 5)}
    yield "thin", {**state, **thin}, (), "tell no network; say which"
    deep = {f"layer1.{number}.bn1.bias": one for number in range(401)}
    yield "deep", {**state, **deep}, (), "tell no network; say which"
    yield (
        "backbone",
        state,
        ("--backbone", "resnet19"),
        "--backbone: unknown backbone 'resnet19'; did you mean resnet18",
    )
    yield "said", state, ("--backbone", "resnet18(num_classes=3)"), "drop num_classes; weights and classes are those of"
    yield "call", state, ("--backbone", "resnet18("), "--backbone: "
    yield "unlike", state, ("--backbone", "resnet34"), "holds weights of another architecture than resnet34(): "
    yield (
        "images",
        state,
        ("--normalize", "cifar"),
        "--normalize: unknown normalisation 'cifar'; did you mean 'cifar10'? ",
    )
    yield "std", state, ("--normalize", "[[0.5],[0]]"), "--normalize: expected 3 means and 3 positive stds"
    yield "classes", state, ("--classes", "3"), "--classes is for heads of classes x transformations, as SLA's; "
    sla_state = under("base_model.", numbered(net).state_dict())
    heads = {"classifiers.0.weight": torch.zeros(28, 16), "classifiers.0.bias": torch.zeros(28)}
    yield (
        "rows",
        {**sla_state, **heads},
        ("--classes", "5"),
        "classifiers.0.weight has 28 rows, no multiple of 5 classes",
    )
    other = {"classifiers.1.weight": torch.zeros(4, 16), "classifiers.1.bias": torch.zeros(4)}
    more = {**heads, "classifiers.0.weight": torch.zeros(10, 16)}
    yield (
        "mt",
        {**sla_state, **more, **other},
        (),
        "classifiers.0.weight has 10 rows, no head of classes x transformations",
    )
    flat = {**sla_state, "classifiers.0.weight": torch.zeros(16)}
    yield "flat", flat, (), "classifiers.0.weight [16] is of no linear layer"
    wide = Wide().state_dict()
    yield (
        "fixmatch",
        {"state_dict": wide, "ema_state_dict": None},
        (),
        "cannot be imported: its Wide ResNet has LeakyReLU",
    )
    lightly_own = {"backbone.1.running_mean": one, "backbone.3.0.shortcut.0.weight": one}
    yield "lightly", lightly_own, (), "cannot be imported: a Sequential of that ResNet's children has no ReLU behind"
    yield (
        "biases",
        spoilt(Wide(6, 2, agmax=True).state_dict(), layer2__1__conv1__bias=None),
        (),
        "lacks layer2.1.conv1.bias; ",
    )
    yield (
        "code",
        {"state_dict": state, "hook": Code()},
        (),
        "holds more than tensors: it names builtins.print, which is code; ",
    )
    yield (
        "run",
        {"step": {"branches.net.backbone.conv1.weight": one}},
        (),
        "is of a run of manyview, which is taken as it",
    )
    yield "wrapper", {"weights": state}, (), "has no state_dict or model, as files of timm's own weights"
    twice = {**wide, "layer1.0.bn1.weight": one}
    yield "twice", twice, (), "has the weights of a Wide ResNet of blocks under two names each"
    vit = {"classifier.weight": one, "backbone.cls_token": one, "backbone.pos_embed": torch.zeros(1, 5, 1)}
    vit |= {"backbone.patch_embed.proj.weight": torch.zeros(384, 3, 16, 16)}
    vit |= {f"backbone.blocks.{number}.attn.qkv.weight": one for number in range(12)}
    yield "heads", vit, (), "no shape tells; say it, as in --backbone 'vit_small_patch16_224(num_heads=…)'"
    yield "nothing", {"epoch": 3}, (), "holds no weights by name"
    yield "list", [one], (), "holds no weights by name"


@pytest.mark.parametrize(("file", "options", "said"), [pytest.param(*rest, id=name) for name, *rest in refusals()])
def test_what_cannot_come_in_is_refused_in_a_line(file, options, said, tmp_path):
    path = saved(tmp_path / "c.pth", file)
    before = contents(tmp_path)
    assert said in one_line(*manyview("import", path, tmp_path / "out", *options))
    assert contents(tmp_path) == before


def test_places_that_are_no_use(tmp_path):
    state = ResNet().state_dict()
    path = saved(tmp_path / "c.pth", state)
    whole = path.read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flax.msgpack").write_bytes(b"\x82\xa4step\x03\xa6params\x80")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.pth").touch()
    saved(tmp_path / "nan.pth", {**state, "bn1.bias": state["bn1.bias"] / 0})
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(Code()))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    before = contents(tmp_path)
    for name, out, said in [
        ("cut.pth", "out", "cut.pth is damaged"),
        ("flax.msgpack", "out", "flax.msgpack is no file of weights, neither torch.save's nor .safetensors"),
        ("text.safetensors", "out", "text.safetensors is damaged: "),
        (
            "code.pkl",
            "out",
            "code.pkl is damaged, or holds more than tensors: it holds Python objects, which may be code",
        ),
        ("empty.pth", "out", "empty.pth is damaged: the file is empty (0 bytes)"),
        ("nan.pth", "out", "nan.pth: not all numbers of bn1.bias are finite"),
        ("nofile.pth", "out", "no checkpoint "),
        ("full", "out", "full is a folder, and a checkpoint is a file"),
        ("c.pth", "full", "full is not empty; choose another folder"),
        ("c.pth", "c.pth", "c.pth is a file; choose another folder"),
        ("c.pth", "c.pth/out", "cannot write "),
    ]:
        assert said in one_line(*manyview("import", tmp_path / name, tmp_path / out)), name
    assert contents(tmp_path) == before


@torch.no_grad()
def test_safetensors_half_precision_and_what_is_said(tmp_path, recwarn):
    net = stirred(ResNet(layers=(2, 2, 2, 2), fc=7))
    half = {name: value.half() if value.is_floating_point() else value for name, value in net.state_dict().items()}
    path = saved(tmp_path / "c.safetensors", {**half, "odd\x1b[31m\n.name": torch.zeros(2)})
    out = done("import", path, tmp_path / "out", "--as", "torchvision")
    assert "as the code of torchvision has it" in out
    assert "left      no part of the network: 1 tensor (odd\\x1b[31m\\n.name)\n" in out
    net.load_state_dict(half)
    pixels = torch.rand(2, 3, 32, 32)
    found = exported(tmp_path / "out").read(pixels)
    assert torch.allclose(found["logits"], net(normalised(pixels)), atol=1e-6)
    lines = import_checkpoint(path, tmp_path / "said", normalize="[[0.1,0.2,0.3],[0.4,0.5,0.6]]")
    sizes, own = "224x224, the centre of 236, bilinear here and bicubic there", "[[0.1,0.2,0.3],[0.4,0.5,0.6]]"
    assert f"images    {sizes}; normalised by {own}, as --normalize says" in lines
    with pytest.warns(ManyviewWarning, match=r"said says that images are resized by a bicubic filter; manyview and"):
        export_model(tmp_path / "said", tmp_path / "again", "torchscript", size=32)
    found = exported(tmp_path / "said").read(pixels)
    assert torch.allclose(found["logits"], net(normalised(pixels, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))), atol=1e-6)
    assert not recwarn.list


def test_a_joint_head_without_its_command_line(tmp_path):
    file = {key: value for key, value in sla().file.items() if key != "args"}
    path = saved(tmp_path / "c.pth", file)
    lines = import_checkpoint(path, tmp_path / "whole")
    assert (
        "head      40 classes, classifiers.0.*, all of its rows; if those are classes x transformations, say --classes"
        in lines
    )
    lines = import_checkpoint(path, tmp_path / "ten", classes=10)
    told = "head      10 classes, classifiers.0.*: of its 40 rows one in 4, those of the image as it is (SLA+SI)"
    assert told in lines
    whole, ten = (open_weights(tmp_path / name).state["fc.weight"] for name in ("whole", "ten"))
    assert torch.equal(whole[::4], ten)
    args = argparse.Namespace(mode="sla", dataset="flowers")
    with pytest.raises(RunError, match=r"weight is of classes x transformations \(SLA\); say --classes$"):
        import_checkpoint(saved(tmp_path / "c.pth", {**file, "args": args}), tmp_path / "own")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet34", {"small": True}),
        ("resnet50", {"in_chans": 1}),
        ("resnet101", {}),
        ("wide_resnet50_2", {}),
        ("resnext50_32x4d", {}),
        ("resnet50", {"layers": (1, 1, 1, 1), "cardinality": 2}),
        ("cresnet8", {}),
        ("cresnet56", {}),
        ("wrn28_10", {}),
        ("vit_small_patch16_224", {"img_size": 96}),
        ("vit_base_patch14_dinov2", {"img_size": 28}),
        ("vit_small_patch14_reg4_dinov2", {}),
    ],
    ids=str,
)
def test_networks_by_names_and_shapes(name, options):
    with torch.device("meta"):
        own = {key: value for key, value in options.items() if key != "small"}
        state = timm_model(name, {"num_classes": 5, **own}, options.get("small", False)).state_dict()
    assert network_by_shapes(state) == Call(name, (), options)


def test_networks_that_shapes_do_not_tell():
    for name in ("resnet50d", "seresnet50", "vit_base_patch16_clip_224", "convnext_atto"):
        with torch.device("meta"):
            state = timm.create_model(name, num_classes=0).state_dict()
        assert network_by_shapes(state) is None, name
    with torch.device("meta"):
        state = timm_model("wrn28_2", {}).state_dict()
    assert network_by_shapes({name: value for name, value in state.items() if "layer3.1." not in name}) is None


def test_layouts_have_names_of_their_own():
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
    assert [layout.name for layout in LAYOUTS if not layout.marks] == ["timm"]


def test_the_page_has_every_layout():
    page = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \|", page, re.M) == [layout.name for layout in LAYOUTS]
