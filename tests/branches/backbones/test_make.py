"""Mistakes in a timm model's arguments and weights: one line that says what failed, of which model, and the cure."""

import logging
import re

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from commands import contents, manyview, one_line
from manyview.branches.branch import make_backbone
from manyview.branches.spec import parse_branch
from manyview.errors import RecipeError
from published import publish


def refused(text: str) -> str:
    where = "branches.net.backbone"
    with pytest.raises(RecipeError) as caught:
        make_backbone(parse_branch("net", {"backbone": text}).backbone, where)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{where}: ")
    return message.removeprefix(f"{where}: ").removeprefix(f"{text}: ")


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


def offline(monkeypatch):
    """As HF_HUB_OFFLINE does: tests have no network to be without."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


UNFETCHED = (
    r"its published weights are not in the cache and cannot be fetched \(.+\); fetch model\.safetensors of "
    r"huggingface\.co/timm/resnet10t\.c3_in1k where there is a network and write "
    r"branches\.net\.backbone\.init=model\.safetensors, set HF_HOME to a cache that has it, or drop pretrained"
)


@pytest.mark.parametrize("text", ["resnet10t(pretrained=True)", "resnet10t.c3_in1k(pretrained=True)"])
def test_weights_that_cannot_be_fetched(monkeypatch, tmp_path, text, capfd):
    offline(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert re.fullmatch(UNFETCHED, refused(text))
    assert capfd.readouterr() == ("", ""), "nothing of it is logged as well"
    line = one_line(*manyview("train", "quickstart", f"branches.net.backbone={text}", "--out", tmp_path / "run"))
    assert re.search(UNFETCHED, line)
    assert not (tmp_path / "run").exists()


def test_a_connection_is_tried_once(monkeypatch, tmp_path):
    """The hub's client by itself asks twelve times, and waits between them."""
    asked = []

    def get(url, **more):
        asked.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", get)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "(no route to host)" in refused("resnet10t(pretrained=True)")
    assert asked == ["https://huggingface.co/timm/resnet10t.c3_in1k/resolve/main/model.safetensors"]


def test_a_connection_that_ends_while_weights_are_fetched(monkeypatch):
    """The hub's own error, raised where timm asks for the weights."""

    def broken(*arguments, **more):
        raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr(timm, "create_model", broken)
    assert re.fullmatch(UNFETCHED, refused("resnet10t(pretrained=True)"))


@pytest.fixture(params=["as it is", "all disabled", "child quiet", "child disabled"])
def logged(request):
    """What a program may have made of logging; all of it stays so."""
    child = logging.getLogger("timm.models._builder")
    level, disabled = child.level, child.disabled
    if request.param == "all disabled":
        logging.disable(logging.INFO)
    child.setLevel(logging.ERROR if request.param == "child quiet" else level)
    child.disabled = request.param == "child disabled"
    before = logging.root.manager.disable, child.level, child.disabled, child.propagate, child.handlers
    yield
    assert before == (logging.root.manager.disable, child.level, child.disabled, child.propagate, child.handlers)
    logging.disable(logging.NOTSET)
    child.setLevel(level)
    child.disabled = disabled


def test_published_weights_leave_nothing_at_random(tmp_path, logged, monkeypatch):
    """timm itself logs it where no one looks, and trains on."""
    given = "pretrained=True"
    for name in ("resnet10t", "vit_tiny_patch16_224"):
        publish(monkeypatch, name, tmp_path / "w.pt")
    state = timm.create_model("resnet10t").state_dict()
    torch.save(state, tmp_path / "w.pt")
    model = make_backbone(parse_branch("net", {"backbone": f"resnet10t({given})"}).backbone, "")
    assert torch.equal(model.conv1[0].weight, state["conv1.0.weight"])
    assert refused(f"resnet10t(channels=(8, 8, 8, 16), {given})").startswith(
        "its published weights are of another shape (size mismatch for layer1.0.conv1.weight: "
    )
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "w.pt")
    assert refused(f"vit_tiny_patch16_224(global_pool='avg', {given})") == (
        "2 of its weights are not among the published ones (fc_norm.weight, fc_norm.bias), and would start at random; "
        "leave out what adds them, or drop pretrained"
    )


def test_an_exception_without_a_text_is_one_line_on_the_command_line(tmp_path):
    before = contents(tmp_path)
    backbone = "branches.net.backbone=resnet18(output_stride=5)"
    for command in (["plan", "quickstart", backbone], ["train", "quickstart", backbone, "--out", tmp_path / "run"]):
        message = one_line(*manyview(*command))
        assert message.startswith("branches.net.backbone: resnet18(output_stride=5): timm refuses these arguments")
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
