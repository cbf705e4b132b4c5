"""`manyview import`: a checkpoint of each layout gives what the network gave that it was made of, or is refused."""

import argparse

import pytest
import timm
import torch
import torchvision
from torch import nn

from authors import AgMax, ResNet, Sla, ViT, Wide, mlp, numbered, sla_cresnet, stirred, under
from manyview.judge.importing import import_checkpoint
from manyview.judge.models import exported

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


def agmax_wide():
    net = Wide(6, 2, agmax=True)
    whole = stirred(AgMax(net, net.width, 10))
    file = {"model_state_dict": under("module.", whole.state_dict())}
    return Made(file, net.features, lambda x: whole.backbone.classifier(net.features(x)), CIFAR, layout="agmax")


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


def of_timm():
    net = stirred(timm.create_model("test_resnet", num_classes=7))
    h = lambda x: net.forward_head(net.forward_features(x), pre_logits=True)  # noqa: E731
    args = argparse.Namespace(model="test_resnet", lr=0.1)
    file = {"epoch": 3, "arch": "test_resnet", "state_dict": net.state_dict(), "args": args}
    return Made(file, h, net, HALF, layout="timm", normalize="half")


MADE = [
    *(agmax, agmax_standard, agmax_wide, sla, sla_sd, augself, dssl, byol, moco, mocov3, simsiam, swav, vicreg, dino),
    *(lightly, solo, solo_cifar, tied, tv_resnet, tv_vit, of_timm),
]


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
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
    assert any(" is not known: " in line for line in lines) == (made.images is USUAL)
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in images)
    expected = {"h": made.h((pixels - mean) / std)}
    if made.logits is not None:
        expected["logits"] = made.logits((pixels - mean) / std)
    found = model.read(pixels)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert value.std() > 1e-2
        assert (found[name] - value).abs().max() <= 1e-6 * max(1, value.abs().max()), name
