"""A teacher that stands still: opened whole or refused, afterwards the same to the bit, no part of what is saved."""

import copy
import io
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from manyview import Step, parse_recipe
from manyview.branches.origin import anywhere
from manyview.branches.timm_models import timm_library
from manyview.compare.budget import own_length
from manyview.errors import ManyviewError, ManyviewWarning, RecipeError
from manyview.evaluate.model import StepModel
from manyview.foundation.grammar import Call
from manyview.judge.export import export_timm
from manyview.judge.models import exported, of_timm
from manyview.optimize.optimize import make_optimizer
from manyview.show.plan import Plan
from manyview.training.prepare import check_teachers
from published import publish
from subjects import TIED, run_of, trained

B, C = 6, 10
TEXT = """
views: {a: {from: image, make: "pad_crop(32, padding=2) | flip(0.5)"}, b: {like: a}}
branches:
  teacher: "TEACHER"
  net: {backbone: cresnet20, normalize: halfHEADS}
relations: [RELATIONS]
train: {steps: 10, optimizer: "sgd(lr=0.1, momentum=0.9)"}
"""
LOGITS = '"cross_entropy(logits(a))", "distill(logits(a), toward=teacher.logits(a), temperature=4)"'
FEATURES = '"cosine(t(a), toward=teacher.h(a))"'
HEAD = ", t: 'linear(h, width_of=teacher)'"
LABELS = torch.arange(B) * 3 % C
BATCH = {"index": range(B), "epoch": 2}


def recipe(teacher="frozen()", relations=LOGITS, heads="", *overrides):
    text = TEXT.replace("TEACHER", teacher).replace("RELATIONS", relations).replace("HEADS", heads)
    return parse_recipe(text, *overrides)


def network(name="cresnet32", classes=C, seed=1):
    """A network whose statistics of BatchNorm are not those it began with."""
    torch.manual_seed(seed)
    made = timm_library().create_model(name, num_classes=classes)
    made.train()(torch.randn(8, 3, 32, 32))
    return made


def photos(seed=0, side=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (B, 3, side, side), generator=generator, dtype=torch.uint8)


def refused(*arguments, given=None):
    with pytest.raises(ManyviewError) as caught:
        Step(recipe(*arguments), C, backbone=given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def taught(teacher, images, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)):
    """(h, logits) by hand."""
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std))
    with torch.no_grad():
        maps = teacher.forward_features((images - mean) / std)
        return teacher.forward_head(maps, pre_logits=True), teacher.forward_head(maps)


# --------------------------------------------------------------------------------------------------------- one step


def test_logits_and_features_equal_a_step_by_hand():
    """Knowledge distillation at temperature 4 and a cosine towards features, in losses and gradients."""
    teacher = network()
    twin = copy.deepcopy(teacher).eval()
    step = Step(recipe("frozen()", f"{LOGITS}, {FEATURES}", HEAD), C, backbone={"teacher": teacher}).train()
    student = copy.deepcopy(step.main)
    out = step(photos(), LABELS, **BATCH)
    out["loss"].backward()

    pixels = step.views(photos(), LABELS, **BATCH)["a"].pixels
    h = student.backbone((pixels - 0.5) / 0.5)
    logits, t = student.heads["logits"](h), student.heads["t"](h)
    theirs_h, theirs = taught(twin, pixels)
    soft = F.softmax(theirs / 4, dim=1)
    by_hand = {
        "cross_entropy": F.cross_entropy(logits, LABELS),
        "distill": 16 * (soft * (soft.log() - F.log_softmax(logits / 4, dim=1))).sum(dim=1).mean(),
        "cosine": -F.cosine_similarity(t, theirs_h).mean(),
    }
    sum(by_hand.values()).backward()
    assert list(out["terms"]) == list(by_hand)
    for name, value in by_hand.items():
        assert torch.allclose(out["terms"][name], value, rtol=1e-4, atol=1e-5), name
    own = dict(step.main.named_parameters())
    for name, parameter in student.named_parameters():
        assert torch.allclose(own[name].grad, parameter.grad, rtol=1e-2, atol=1e-4), name


def test_several_views_pass_one_teacher_and_it_may_see_another():
    lines = '"distill(logits(a), toward=teacher.logits(b))", "cosine(t(b), toward=teacher.h(a))"'
    teacher = network()
    step = Step(recipe("frozen()", lines, HEAD), C, backbone={"teacher": teacher})
    views = step.views(photos(), LABELS, **BATCH)
    seen = {view: taught(teacher, views[view].pixels) for view in "ab"}
    read = step.branch("teacher")(views, [("logits", "b"), ("h", "a")])
    assert torch.allclose(read["logits", "b"], seen["b"][1], atol=1e-5)
    assert torch.allclose(read["h", "a"], seen["a"][0], atol=1e-5)


# ------------------------------------------------------------------------------------------------- what stands still


def test_it_is_the_same_to_the_bit_after_training():
    teacher = network().train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    step = Step(recipe(), C, backbone={"teacher": teacher}).train()
    optimizer = make_optimizer(step.recipe.train, step)
    step.attach(optimizer)
    holder = nn.ModuleList([teacher, step])  # as a module of somebody's that holds both
    for number in range(3):
        holder.train()
        step(photos(number), LABELS, index=range(B), epoch=number)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not any(module.training for module in teacher.modules())
    assert all(each.grad is None for each in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_it_is_no_part_of_what_is_saved_optimised_averaged_counted_or_judged():
    step = Step(recipe("frozen()", LOGITS, "", "train.ema=0.9"), C, backbone={"teacher": network()})
    alone = Step(recipe("frozen()", '"cross_entropy(logits(a))"', "", "train.ema=0.9"), C)
    assert step.state_dict().keys() == alone.state_dict().keys()
    for found in ("parameters", "buffers", "modules"):
        assert not {each for each, _ in getattr(step, f"named_{found}")() if "teacher.backbone" in each}
    assert step.main.spec.name == "net"
    assert list(step.backbones) == ["branches.net.backbone"]
    held = [each for group in make_optimizer(step.recipe.train, step).param_groups for each in group["params"]]
    assert {id(each) for each in held} == {id(each) for each in step.parameters() if each.requires_grad} - {
        id(each) for each in step.average.parameters()
    }
    assert StepModel(step).key == StepModel(alone).key
    count = sum(each.numel() for each in alone.main.parameters())
    shown = io.StringIO()
    Console(file=shown, width=200).print(Plan(step.recipe, step).render())
    assert re.search(r"^teacher +h +frozen, given in Python +64 +0$", shown.getvalue(), re.M)
    assert f"{count:,} parameters for 10 classes" in shown.getvalue()


def test_it_does_not_change_how_the_student_and_relations_begin():
    lines = '"cross_entropy(logits(a))", "agmax(logits(a), logits(b), hidden=8)"'
    alone = Step(recipe("frozen()", lines), C).state_dict()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    both = Step(recipe("frozen()", f'{lines}, "distill(logits(a), toward=teacher.logits(a))"'), C,
                backbone={"teacher": network()})  # fmt: skip
    assert all(torch.equal(value, both.state_dict()[name]) for name, value in alone.items())
    torch.manual_seed(7)
    assert torch.equal(state, torch.get_rng_state())


def test_a_forward_pass_of_it_counts_as_one():
    step = Step(recipe(), C, backbone={"teacher": network()})
    assert step.rows_per_image == 2
    assert own_length(step.recipe, dict.fromkeys(step.rows, 1000), step.rows).forwards == 10 * 128 * 2


def test_it_moves_with_the_step():
    step = Step(recipe(), C, backbone={"teacher": network()}).to("meta")
    assert {each.device.type for each in step.branch("teacher").backbone.parameters()} == {"meta"}


def test_its_precision_is_its_own():
    teacher = network()
    whole, half, kept = (
        Step(recipe(f"frozen({text})"), C, backbone={"teacher": copy.deepcopy(teacher)}).train()
        for text in ("", "precision='bf16'", "precision='fp32'")
    )
    exact, rounded = (step(photos(), LABELS, **BATCH)["terms"] for step in (whole, half))
    assert torch.equal(exact["cross_entropy"], rounded["cross_entropy"])
    assert not torch.equal(exact["distill"], rounded["distill"])
    assert torch.allclose(exact["distill"], rounded["distill"], rtol=0.03)
    views = whole.views(photos(), LABELS, **BATCH)
    with torch.autocast("cpu", torch.bfloat16):  # as a run of train.precision=bf16 has it
        read = []
        for step in (whole, kept):
            with step.branch("teacher").looking():
                read.append(step.branch("teacher")(views, [("h", "a")])["h", "a"])
    assert torch.equal(read[1], whole.branch("teacher")(views, [("h", "a")])["h", "a"])
    assert not torch.equal(read[0].float(), read[1])


# ------------------------------------------------------------------------------------------------------ how it opens


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was trained, as far as its folder tells, and is known by its averaged weights."""
    return run_of(trained(TIED.replace("epochs: 1", "epochs: 1, ema: 0.5")), tmp_path_factory.mktemp("run"))


def test_a_run_and_its_export_give_the_runs_own_scores(run, tmp_path):
    folder = run.folder
    judged = run.step(run.recipe())
    export_timm(run, tmp_path / "export")
    pixels = photos(side=12) / 255
    asked = judged.read(pixels)
    for place in (folder, tmp_path / "export", folder / "checkpoints" / "last.pt"):
        step = Step(recipe(f"frozen('{place}')", LOGITS), C)
        got = step.branch("teacher").read(pixels, ["h", "logits"])
        assert torch.allclose(got["logits"], asked["logits"], atol=1e-5), place
        assert torch.allclose(got["h"], asked["h"], atol=1e-5), place
        assert step.branch("teacher").mean.flatten().tolist() == [0.5] * 3
    named = of_timm(Call("cresnet20"), folder)  # which finds the run's head, by the same function
    assert torch.allclose(named.read(pixels)["logits"], asked["logits"], atol=1e-5)
    assert torch.allclose(exported(tmp_path / "export").read(pixels)["logits"], asked["logits"], atol=1e-5)


def test_its_classes_are_those_of_the_data(run, tmp_path):
    """By name, where both are known: by their number alone, another order would teach wrong classes in silence."""
    export_timm(run, tmp_path / "export")
    for place in (run.folder, tmp_path / "export"):
        step, names = Step(recipe(f"frozen('{place}')", LOGITS), C), run.classes()
        assert list(step.branch("teacher").starts["backbone"].labels) == names
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_teachers(step, names)
            check_teachers(step, [str(number) for number in range(C)])  # which are no names
        with pytest.raises(RecipeError, match=rf"^branches\.teacher: class 0 is '{names[0]}' to .*another order"):
            check_teachers(step, names[::-1])
        with pytest.warns(ManyviewWarning, match=rf"class {C - 1} is '{names[-1]}' to .* and 'other' in the data"):
            check_teachers(step, [*names[:-1], "other"])


def test_a_checkpoint_with_its_own_classifier(tmp_path):
    teacher = network("cresnet20", classes=7)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    named = f"frozen(cresnet20(init='{tmp_path / 'teacher.safetensors'}'), normalize='half')"
    lines = f'{FEATURES}, "distill(s(a), toward=teacher.logits(a))"'
    step = Step(recipe(named, lines, f"{HEAD}, s: 'linear(h, 7)'"), C)
    assert step.branch("teacher").dims == {"h": 64, "logits": 7}
    pixels = photos() / 255
    h, logits = taught(teacher.eval(), pixels, (0.5,), (0.5,))
    got = step.branch("teacher").read(pixels, ["h", "logits"])
    assert torch.allclose(got["h"], h, atol=1e-5)
    assert torch.allclose(got["logits"], logits, atol=1e-5)
    (start,) = step.starts.values()
    assert start.columns == {"h": 64, "logits": 7}


def test_published_weights_come_with_their_classifier_and_normalisation(tmp_path, monkeypatch):
    """timm's own way to weights, from a file in the place of the hub."""
    teacher = timm_library().create_model("test_resnet", num_classes=1000)
    save_file(teacher.state_dict(), tmp_path / "published.safetensors")
    publish(monkeypatch, "test_resnet", tmp_path / "published.safetensors")
    step = Step(recipe("frozen(test_resnet(pretrained=True))", FEATURES, HEAD), C)
    branch = step.branch("teacher")
    assert branch.mean.flatten().tolist() == pytest.approx(teacher.pretrained_cfg["mean"])
    assert branch.dims["h"] == teacher.num_features == step.main.dims["t"]
    pixels = photos() / 255
    h, _ = taught(teacher.eval(), pixels, teacher.pretrained_cfg["mean"], teacher.pretrained_cfg["std"])
    assert torch.allclose(branch.read(pixels, ["h"])["h"], h, atol=1e-5)


@pytest.mark.parametrize("head", ["linear(h, width_of=teacher)", "projector(h, width_of=teacher, hidden=24)",
                                  "mlp(h, 32, width_of=teacher)", "predictor(h, 16, width_of=teacher)"])  # fmt: skip
def test_a_head_is_as_wide_as_the_teacher(head):
    teacher = timm_library().create_model("test_resnet", num_classes=3)
    step = Step(recipe("frozen()", FEATURES, f", t: '{head}'"), C, backbone={"teacher": teacher})
    assert step.main.dims["t"] == teacher.num_features


# -------------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_meant(tmp_path, run):
    save_file(network("cresnet20", 7).state_dict(), tmp_path / "seven.safetensors")
    grey = timm_library().create_model("cresnet20", num_classes=C, in_chans=1)
    save_file(grey.state_dict(), tmp_path / "grey.safetensors")
    seven, one = (f"frozen(cresnet20(init='{tmp_path / name}.safetensors'))" for name in ("seven", "grey"))
    place = f"frozen('{run.folder}')"
    ema = "ema(net, momentum=0.9)"
    for arguments, told in {
        ("frozen(cresnet20)",): "cresnet20() has no weights, and a teacher that is drawn at random teaches nothing",
        ("frozen()",): "frozen() stands for a network that is given in Python, backbone={'teacher': model}",
        ("frozen('nowhere')",): "there is no run, export or file 'nowhere'",
        (f"frozen('{tmp_path / 'seven.safetensors'}')",): "does not tell what network its weights are of",
        (seven,): "logits(a) has 10 columns and teacher.logits(a) has 7",
        (one,): "looks at images of other channels than the data, which have 3",
        (f"frozen(cresnet32(init='{tmp_path / 'seven.safetensors'}'))",): "weights of another architecture than cres",
        ("frozen(resnet18(pretrained=True, small=True))",): "small=True draws the first convolution anew",
        ("frozen(net)",): "'net' is a branch of this recipe",
        ("frozen(resnet999(pretrained=True))",): "unknown backbone 'resnet999'",
        ("frozen(3)",): "frozen names a network",
        ("frozen('x', precision='fp16')",): "unknown precision 'fp16'",
        ("frozen('x', normalize='imagenot')",): "unknown normalisation 'imagenot'",
        ("frozen('x', depth=3)",): "unknown argument 'depth'",
        (place, '"cross_entropy(teacher.logits(a))"'): "teacher.logits(a) is frozen, and this line would train it",
        (place, '"cross_entropy(logits(a), teacher.logits(a))"'): "is frozen, and this line would train it",
        (place, '"distill(teacher.logits(a), toward=logits(a))"'): "is frozen, and this line would train it",
        (place, FEATURES, ", t: 'linear(h, width_of=net)'"): "width_of names a frozen branch, got net",
        (place, FEATURES, ", t: 'linear(h, 8, width_of=teacher)'"): "branches.net.t",
        (place, FEATURES, ", t: 'linear(h, out=8, width_of=teacher)'"): "drop the other one",
        (place, '"similarity(t(a), t(b))"', HEAD): "branches.net.t: no relation reads teacher, whose width this is",
        (place, '"distill(logits(a), toward=teacher.z(a))"'): "unknown readout 'teacher.z'",
        (ema, LOGITS, ", t: 'linear(h, width_of=teacher)'"): "width_of names a frozen branch",
    }.items():
        assert told in refused(*arguments), arguments
    with pytest.raises(RecipeError, match="'teacher' is frozen, and stands still; follow the branch that is trained"):
        parse_recipe(TEXT.replace('"TEACHER"', place + "\n  slow: ema(teacher)").replace("HEADS", "")
                     .replace("RELATIONS", LOGITS))  # fmt: skip


def test_what_is_given_is_looked_at():
    embedder = nn.Sequential(nn.Flatten(), nn.LazyLinear(12), nn.Softmax(dim=1))
    embedder(torch.zeros(1, 3, 32, 32))
    told = refused(given={"teacher": embedder})
    assert "ends in no linear classifier, so there is no teacher.logits; follow its features, teacher.h" in told
    step = Step(recipe("frozen()", FEATURES, HEAD), C, backbone={"teacher": embedder})
    assert step.main.dims["t"] == 12
    assert "cannot read an image of 3x32x32" in refused(given={"teacher": timm_library().create_model(
        "cresnet20", in_chans=1)})  # fmt: skip
    shared = network()
    assert "shares parameters" in refused(given={"teacher": shared, "net": shared})
    with pytest.warns(
        ManyviewWarning, match="the network of teacher stays as it was given; the recipe's runs/x is not"
    ):
        Step(recipe("frozen('runs/x')"), C, backbone={"teacher": network()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Step(recipe("frozen(cresnet32)"), C, backbone={"teacher": network(classes=C)})


# ------------------------------------------------------------------------------------------------------- as written


def test_overrides_reach_into_it():
    for override, told in {
        "branches.teacher.network=runs/other": "frozen, 'runs/other'",
        "branches.teacher.network=resnet50(pretrained=True)": "frozen, resnet50(pretrained=True)",
        "branches.teacher.precision=bf16": "frozen, cresnet20(init='a.pt'), bf16",
        "branches.teacher=frozen('runs/x', precision='fp32')": "frozen, 'runs/x', fp32",
    }.items():
        made = recipe("frozen(cresnet20(init='a.pt'))", LOGITS, "", override)
        assert str(made.branch_plan["teacher"].frozen) == told


def test_places_are_kept_for_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for written, kept in {
        "frozen('runs/x')": f"frozen('{tmp_path}/runs/x')",
        "frozen(network='runs/x', precision='bf16')": f"frozen(network='{tmp_path}/runs/x', precision='bf16')",
        "frozen(cresnet20(init='a.pt'))": f"frozen(cresnet20(init='{tmp_path}/a.pt'))",
        "frozen(resnet50(pretrained=True))": "frozen(resnet50(pretrained=True))",
        "frozen('/elsewhere')": "frozen('/elsewhere')",
        "frozen()": "frozen()",
        "ema(net)": "ema(net)",
    }.items():
        assert anywhere({"teacher": written}) == {"teacher": kept}
    assert anywhere({"net": {"backbone": "resnet18(init='a.pt')"}}) == {
        "net": {"backbone": f"resnet18(init='{tmp_path}/a.pt')"}
    }
