"""Mistakes in a timm model's arguments and weights: one line that says what failed, of which model, and the cure."""

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from commands import contents, manyview, one_line
from manyview.branches.backbones.cresnet import cresnet32
from manyview.branches.branch import make_backbone
from manyview.branches.spec import parse_branch
from manyview.errors import RecipeError


def refused(text: str) -> str:
    where = "branches.net.backbone"
    with pytest.raises(RecipeError) as caught:
        make_backbone(parse_branch("net", {"backbone": text}).backbone, where)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{where}: ")
    return message.removeprefix(f"{where}: ").removeprefix(f"{text}: ")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files that hold no weights, or those of another network, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "folder").mkdir()
    torch.save(cresnet32().state_dict(), tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("'nofile.pt'", "there is no file 'nofile.pt'; checkpoint_path names the file of cresnet20's weights"),
        ("'folder'", "there is no file 'folder'; "),
        ("'empty.pt'", "'empty.pt' is no file of weights (EOFError)"),
        ("'text.pt'", "'text.pt' is no file of weights ("),
        ("'text.safetensors'", "'text.safetensors' is no file of weights ("),
        ("'other.pt'", "'other.pt' does not hold the weights of cresnet20: Unexpected key(s) in state_dict: "),
        ("3", "checkpoint_path is a file's name in quotes, got 3"),
    ],
)
@pytest.mark.usefixtures("files")
def test_checkpoints_that_are_no_use(path, message, capfd):
    assert refused(f"cresnet20(checkpoint_path={path})").startswith(message)
    assert capfd.readouterr().err == ""  # nothing of it is logged as well


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet10t(output_stride=5)", "timm refuses these arguments with a bare AssertionError; leave some out"),
        ("resnet10t(act_layer='nope')", "timm knows no act_layer='nope'"),
        ("resnet10t(weights='x')", "resnet10t takes no argument 'weights'"),
        ("resnet10t(layers=3)", "timm cannot build it with these arguments ("),
        ("resnet10t(drop_rate='x')", "drop_rate must be a number of at least 0 and less than 1, got 'x'"),
        ("resnet10t(features_only=True)", "h is the pooled feature; drop features_only, and read layers by pool("),
        ("resnet10t(pretrained='yes')", "pretrained must be True or False, got 'yes'"),
        ("cresnet20(pretrained=True)", "No pretrained weights exist for cresnet20."),
        ("ResNet-18", "unknown backbone 'ResNet-18'; did you mean resnet18, "),
        ("resnet18.a1_in1k", "write resnet18.a1_in1k(pretrained=True) for those weights, or resnet18"),
        ("resnet18.nope", "unknown backbone 'resnet18.nope'; 'resnet18' has the weights a1_in1k, "),
    ],
)
def test_arguments_that_are_no_use(text, message):
    assert refused(text).startswith(message)


def test_weights_that_cannot_be_fetched(monkeypatch):
    """The hub's own error, raised where timm asks for the weights: tests have no network to be without."""

    def offline(*arguments, **more):
        raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub")

    monkeypatch.setattr(timm, "create_model", offline)
    assert refused("resnet10t(pretrained=True)") == (
        "its published weights cannot be fetched, and are not in the cache; run this once with a network, give their "
        "file by checkpoint_path='FILE', or drop pretrained"
    )


def test_an_exception_without_a_text_is_one_line_on_the_command_line(tmp_path):
    before = contents(tmp_path)
    backbone = "branches.net.backbone=resnet18(checkpoint_path='nofile.pt')"
    for command in (["plan", "quickstart", backbone], ["train", "quickstart", backbone, "--out", tmp_path / "run"]):
        message = one_line(*manyview(*command))
        assert message.startswith("branches.net.backbone: resnet18(checkpoint_path='nofile.pt'): there is no file ")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (["branches.net.backbone=vit_tiny_patch16_224"], "16x16"),
        (["branches.net.backbone=vit_tiny_patch16_224(img_size=16)", "views.test.make=resize(32)"], "32x32"),
    ],
)
def test_a_network_that_cannot_read_the_views_says_so_before_anything_is_written(tmp_path, overrides, size):
    message = one_line(*manyview("train", "quickstart", *overrides, "--quiet", "--out", tmp_path / "run"))
    assert f" cannot read views of {size}: " in message
    assert not (tmp_path / "run").exists()
