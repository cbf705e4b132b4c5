"""How checkpoints of others are laid out: what trainers keep weights under, and how their networks name them.

Tables alone, read by `checkpoints`. Names and layouts are those of the repositories that each entry names, as their
code builds and saves networks; none of that code is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manyview.branches.spec import NORMALIZATIONS, Normalization

WRAPPERS = (
    *("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher", "student"),
    *("target_encoder", "encoder", "backbone", "network", "net", "module"),
)
"""What trainers keep weights under. Averaged ones come first, as in timm's own loader and in our runs."""
AROUND = ("module.", "_orig_mod.")  # what DDP and torch.compile put before every name
COUNTED = ("n_averaged",)  # what torch's AveragedModel has beside weights

LOOKS_AT, CUT_FROM = 224, 256
"""Pixels of the side that networks for large images see, and of the shorter side that this is the centre of: by the
evaluation code of all layouts that have marks. timm's own networks of the same names have other shares."""
IMAGENET = NORMALIZATIONS["imagenet"]
CIFAR: Normalization = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # the std of many repositories


@dataclass(frozen=True)
class Spelling:
    """Other names for the weights of a network that timm or manyview has.

    network: in words. marks: ends of names, all of which are there behind one prefix. renames: (regular expression,
    replacement) of what stands behind it, the first that matches. biased: whether convolutions have biases that go
    into the means of the BatchNorms behind them, see `unbiased`.
    """

    network: str
    marks: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]
    biased: bool = False


_NUMBERED = ((r"^0\.", "conv1."), (r"^1\.", "bn1."))  # the stem of a network whose children have numbers for names
SPELLINGS = (
    Spelling(  # nn.Sequential of a torchvision ResNet's children: SLA, lightly's examples
        "a ResNet's children, numbered",
        ("0.weight", "1.running_mean", "4.0.conv1.weight", "7.0.conv1.weight"),
        (*_NUMBERED, *((rf"^{4 + stage}\.", f"layer{1 + stage}.") for stage in range(4))),
    ),
    Spelling(  # SLA's models/__init__.py, of models/cifar_resnet.py
        "a CIFAR ResNet's children, numbered",
        ("0.weight", "1.running_mean", "3.0.conv_a.weight", "5.0.conv_a.weight"),
        (
            *_NUMBERED,
            *(
                (rf"^{3 + stage}\.(\d+)\.(conv|bn)_{letter}\.", rf"layer{1 + stage}.\1.\g<2>{number}.")
                for stage in range(3)
                for number, letter in enumerate("ab", 1)
            ),
        ),
    ),
    Spelling(  # the ResNets of kuangliu/pytorch-cifar, which DSSL's and many others' CIFAR code has
        "a ResNet with shortcuts",
        ("conv1.weight", "layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_mean"),
        ((r"^(layer\d+\.\d+)\.shortcut\.", r"\1.downsample."), (r"^linear\.", "fc.")),
    ),
    Spelling(  # xternalbz/WideResNet-pytorch, which Tied-Augment's CIFAR code has
        "a Wide ResNet of blocks",
        ("conv1.weight", "block1.layer.0.convShortcut.weight", "block3.layer.0.conv2.weight"),
        (
            (r"^block(\d)\.layer\.(\d+)\.convShortcut\.", r"layer\1.\2.shortcut."),
            (r"^block(\d)\.layer\.", r"layer\1."),
            (r"^bn1\.", "bn."),
        ),
    ),
    Spelling(  # AgMax's features/wide_resnet.py
        "a Wide ResNet with biases",
        ("conv.weight", "conv.bias", "layer1.0.shortcut.bias", "layer3.0.conv2.bias", "bn.running_mean"),
        ((r"^conv\.", "conv1."),),
        biased=True,
    ),
    Spelling(  # torchvision.models.vision_transformer
        "torchvision's ViT",
        ("class_token", "conv_proj.weight", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"),
        (
            (r"^class_token$", "cls_token"),
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^encoder\.ln\.", "norm."),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_1|0)\.", r"blocks.\1.mlp.fc1."),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_2|3)\.", r"blocks.\1.mlp.fc2."),
            (r"^heads\.(?:head|0)\.", "head."),
        ),
    ),
)


@dataclass(frozen=True)
class Layout:
    """Where a trainer's checkpoint has the backbone, its classifier, and what is neither.

    name: what `--as` takes; code: whose it is. An address is `section/name`, with a section for each wrapper and none
    for a plain state dict, as the file has the name but for AROUND; marks: regular expressions, each of which an
    address matches where a file is of this layout, and without: those that none matches. sections: that the weights
    lie in, the first that is there. trunk: what stands before the backbone's names, the first that is there;
    classifier: before `weight` and `bias` of one on h. parts: regular expressions of names of the rest, by what that
    is. large, small: how images are normalised by that code for networks with a 7x7 stem or patches, and with a 3x3
    stem, where it has one way; hint: what else it may be. arguments: of networks that no shape tells, by the name that
    shapes give, None where that code has several; padding: of a 3x3 stem, where it is not 1. resized: the filter that
    makes large images smaller there. joint: whether the classifier may be one of classes x transformations. refused:
    why such a file cannot come in as manyview's networks.
    """

    name: str
    code: str
    marks: tuple[str, ...]
    without: tuple[str, ...] = ()
    sections: tuple[str, ...] = WRAPPERS
    trunk: tuple[str, ...] = ("",)
    classifier: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    large: Normalization | None = None
    small: Normalization | None = None
    hint: str = ""
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    padding: int = 0
    resized: str = "bilinear"
    joint: bool = False
    refused: str = ""


LAYOUTS = (
    Layout(
        "agmax",
        "AgMax, roatienza/agmax",
        (r"/(backbone\.)?feature_extractor\.",),
        trunk=(
            *("backbone.feature_extractor.features.", "backbone.feature_extractor."),
            *("feature_extractor.features.", "feature_extractor."),
        ),
        classifier=("backbone.classifier.", "classifier."),
        parts={
            "Q": r"^qnet\.",
            "classifier of timm's, which nothing reads": r"feature_extractor\.features\.(classifier|head\.fc)\.",
        },
        large=IMAGENET,
        hint="its code has [[0.4914,0.4822,0.4465],[0.2023,0.1994,0.201]] for CIFAR and "
        "[[0.431,0.4302,0.4463],[0.1965,0.1984,0.1992]] for SVHN",
    ),
    Layout(
        "sla",
        "SLA, hankook/SLA",
        (r"/base_model\.", r"/classifiers\.0\.weight$"),
        trunk=("base_model.",),
        classifier=("classifiers.1.", "classifiers.0."),
        parts={"joint head": r"^classifiers\.0\.", "other head": r"^classifiers\."},
        large=IMAGENET,
        small=NORMALIZATIONS["half"],
        joint=True,
    ),
    Layout(
        "augself",
        "AugSelf, hankook/AugSelf",
        (r"^backbone/", r"^projector/"),
        sections=("backbone",),
        hint="its code has imagenet for ImageNet100 and [[0.43,0.42,0.39],[0.27,0.26,0.27]] for STL-10",
    ),
    Layout(
        "dssl",
        "DSSL on SimSiam, Yif-Yang/DSSL",
        (r"/backbone\.", r"/projector\.layer1\.0\.weight$"),
        trunk=("backbone.",),
        parts={
            "projector": r"^projector\.",
            "predictor": r"^predictor\.",
            "backbone and projector once more": r"^encoder\.",
        },
        large=IMAGENET,
        small=CIFAR,
    ),
    Layout(
        "byol",
        "BYOL, lucidrains/byol-pytorch, and DSSL on it, Yif-Yang/DSSL",
        (r"/online_encoder\.net\.",),
        trunk=("online_encoder.net.",),
        parts={
            "the whole network's own last layer": r"^online_encoder\.net\.(fc|head)\.",
            "projector": r"^online_encoder\.projector\.",
            "predictor": r"^online_predictor\.",
            "target encoder": r"^target_encoder\.",
            "backbone once more": r"^(backbone|net)\.",
        },
        large=IMAGENET,
    ),
    Layout(
        "moco",
        "MoCo v1 and v2, facebookresearch/moco",
        (r"/encoder_q\.",),
        trunk=("encoder_q.",),
        parts={"projector": r"^encoder_q\.(fc|head)\.", "momentum encoder": r"^encoder_k\.", "queue": r"^queue"},
        large=IMAGENET,
    ),
    Layout(
        "mocov3",
        "MoCo v3, facebookresearch/moco-v3",
        (r"/base_encoder\.",),
        trunk=("base_encoder.",),
        parts={
            "projector": r"^base_encoder\.(fc|head)\.",
            "momentum encoder": r"^momentum_encoder\.",
            "predictor": r"^predictor\.",
        },
        large=IMAGENET,
        arguments={"vit_small_patch16_224": {"num_heads": 12}},
    ),
    Layout(
        "simsiam",
        "SimSiam, facebookresearch/simsiam",
        (r"/encoder\.fc\.0\.weight$", r"/predictor\.0\.weight$"),
        trunk=("encoder.",),
        parts={"projector": r"^encoder\.fc\.", "predictor": r"^predictor\."},
        large=IMAGENET,
    ),
    Layout(
        "swav",
        "SwAV and DeepCluster v2, facebookresearch/swav",
        (r"/conv1\.weight$", r"/prototypes\."),
        parts={"projector": r"^projection_head\.", "prototypes": r"^prototypes\."},
        large=((0.485, 0.456, 0.406), (0.228, 0.224, 0.225)),  # not ImageNet's usual std
    ),
    Layout(
        "vicreg",
        "VICReg and Barlow Twins, facebookresearch/vicreg and /barlowtwins",
        (r"/backbone\.", r"/projector\.0\.weight$"),
        without=(r"/classifier\.",),
        trunk=("backbone.",),
        parts={"projector": r"^projector\.", "BatchNorm on the projection": r"^bn\."},
        large=IMAGENET,
    ),
    Layout(
        "dino",
        "DINO and DINOv2, facebookresearch/dino and /dinov2",
        (r"^(teacher|student)/backbone\.",),
        sections=("teacher", "student"),
        trunk=("backbone.",),
        parts={"head": r"^(head|dino_head|ibot_head)\."},
        large=IMAGENET,
        resized="bicubic",
    ),
    Layout(
        "lightly",
        "examples of lightly, lightly-ai/lightly",
        (r"/(\w+_)?backbone\.", r"/((student|teacher)_head|\w*(projection|prediction)_head\w*)\."),
        without=(r"/backbone\.2\.0\.shortcut\.|/backbone\.3\.0\.shortcut\.",),
        trunk=("backbone.", "teacher_backbone.", "student_backbone."),
        parts={
            "projector": r"^projection_head\.",
            "predictor": r"^prediction_head\.",
            "momentum encoder": r"^(backbone|projection_head)_momentum\.",
            "head": r"^(student|teacher)_head\.",
            "student": r"^student_backbone\.",
            "prototypes": r"^prototypes\.",
        },
    ),
    Layout(
        "lightly-cifar",
        "examples of lightly with its own ResNet, lightly-ai/lightly",
        (r"/backbone\.1\.running_mean$", r"/backbone\.3\.0\.shortcut\.0\.weight$"),
        refused="a Sequential of that ResNet's children has no ReLU behind its first BatchNorm, which timm's has",
    ),
    Layout(
        "solo-learn",
        "solo-learn, vturrisi/solo-learn",
        (r"/(backbone|encoder)\.", r"/classifier\.weight$"),
        without=(r"/(backbone\.)?feature_extractor\.",),
        trunk=("backbone.", "encoder."),
        classifier=("classifier.",),
        padding=2,  # of resnets for CIFAR, solo/methods/base.py
        # by its MoCo v3 these have 12 heads, otherwise timm's, 3 and 6
        arguments={name: {"num_heads": None} for name in ("vit_tiny_patch16_224", "vit_small_patch16_224")},
        parts={
            "momentum encoder": r"^momentum_",
            "projector": r"^(projector|projection_head)\.",
            "predictor": r"^predictor\.",
            "queue": r"^queue",
            "prototypes": r"^prototypes\.",
        },
    ),
    Layout(
        "fixmatch",
        "Tied-Augment's FixMatch, and kekmodel/FixMatch-pytorch",
        (r"^ema_state_dict/", r"/block1\.layer\.0\.convShortcut\.weight$"),
        refused="its Wide ResNet has LeakyReLU(0.1), and no activation before its second and third stage; manyview's "
        "has ReLU everywhere, as the paper's",
    ),
    Layout(
        "tied",
        "Tied-Augment's CIFAR code, ekurtulus/tied-augment, and Wide ResNets as xternalbz/WideResNet-pytorch has them",
        (r"/block1\.layer\.0\.convShortcut\.weight$",),
        without=(r"^ema_state_dict/",),
        large=IMAGENET,
        hint="Tied-Augment's code has [[0.4914,0.4822,0.4465],[0.2475,0.2435,0.2615]] for CIFAR-10",
    ),
    Layout(
        "torchvision",
        "torchvision's own weights, and Tied-Augment's ImageNet code",
        (r"/encoder\.layers\.encoder_layer_0\.",),
        large=IMAGENET,
    ),
    Layout("timm", "timm's own weights, and those of one network under its plain names", ()),
)
"""By name. The last is of files that no other is of: no mark tells it."""

USUAL = (
    "layer1.0.conv1.weight",
    "blocks.0.attn.qkv.weight",
)  # weights by which a ResNet or ViT is found under any prefix
SLA_DATA = {"imagenet": 1000, "cub200": 200, "tiny-imagenet": 200, "indoor": 67, "dogs": 120, "inat": 8142}
"""How many classes the data have by whose name SLA's command line calls them; of CIFAR the name says so."""
