"""EMA branches: what they begin as, what moves and what does not, where they are refused; their state resumes."""

import copy
import io
import math

import pytest
import torch

from manyview.branches.ema import Ema, follow
from manyview.errors import RecipeError
from manyview.foundation.grammar import Name
from manyview.load import parse_recipe
from manyview.optimize.optimize import make_optimizer
from manyview.recipe.recipe import difference
from manyview.step import Step

B, C = 6, 5
RECIPE = """
seed: 2
views:
  a: {from: image, make: "pad_crop(16, padding=2) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1)"}
  b: {like: a}
branches:
  BRANCHES
relations: [LINES]
train: {steps: 10, optimizer: "sgd(lr=0.1, momentum=0.9)"}
"""
ONLINE = 'online: {backbone: cresnet20, z: "projector(h, 12)", p: "predictor(z, 6)", forward: separate}'
TEACHER = "teacher: ema(online, momentum=0.8)"
BYOL = "cosine(p(a), toward=teacher.z(b), weight=2, swapped=True)"
MOCO = "info_nce(z(a), toward=teacher.z(b), queue=16)"


def recipe(*overrides, branches=(ONLINE, TEACHER), lines=(BYOL,)):
    text = RECIPE.replace("BRANCHES", "\n  ".join(branches)).replace("LINES", ", ".join(f'"{line}"' for line in lines))
    return parse_recipe(text, *overrides)


def make(*overrides, **options):
    return Step(recipe(*overrides, **options), C)


def refusal(*overrides, **options):
    with pytest.raises(RecipeError) as caught:
        make(*overrides, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def photos(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (B, 3, 16, 16), generator=generator, dtype=torch.uint8)


def update(step, optimizer, seed):
    optimizer.zero_grad()
    step(photos(seed), index=range(B), epoch=0)["loss"].backward()
    optimizer.step()
    step.after_step()


def train(step, seeds=range(3), optimizer=None):
    optimizer = optimizer or make_optimizer(step.recipe.train, step)
    for seed in seeds:
        update(step, optimizer, seed)
    return optimizer


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def is_statistic(name):
    return "running" in name or "tracked" in name


# ------------------------------------------------------------------------------------------------------- a teacher


def test_begins_as_the_branch_it_follows_without_heads_that_are_not_read():
    step = make()
    online, teacher = step.branch("online"), step.branch("teacher")
    assert list(teacher.heads) == ["z"]
    assert list(online.heads) == ["z", "p"]
    theirs = online.state_dict()
    assert teacher.state_dict()
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, theirs[name]), name
        assert value.data_ptr() != theirs[name].data_ptr(), name  # a copy, no second name


def test_has_no_gradient_and_stands_in_no_group_of_the_optimiser():
    step = make()
    teacher = {id(parameter) for parameter in step.branch("teacher").parameters()}
    online = {id(parameter) for parameter in step.branch("online").parameters()}
    optimizer = make_optimizer(step.recipe.train, step)
    grouped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert grouped == online
    assert not grouped & teacher
    reads = []
    step.branch("teacher").heads["z"].register_forward_hook(lambda module, args, out: reads.append(out))
    step(photos(0), index=range(B), epoch=0)["loss"].backward()
    assert len(reads) == 2
    assert not any(value.requires_grad for value in reads)
    assert all(parameter.grad is None for parameter in step.branch("teacher").parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in step.branch("online").parameters())


@pytest.mark.parametrize("momentum", [0, 0.8, 0.999])
def test_weights_follow_after_an_update_and_statistics_do_not(momentum):
    step = make(f"branches.teacher.momentum={momentum}")
    online, teacher = step.branch("online"), step.branch("teacher")
    before = snapshot(teacher)
    optimizer = make_optimizer(step.recipe.train, step)
    step(photos(0), index=range(B), epoch=0)["loss"].backward()
    optimizer.step()
    seen = snapshot(teacher)
    weights = dict(teacher.named_parameters())
    assert all(torch.equal(seen[name], before[name]) for name in weights)  # not before after_step
    step.after_step()
    theirs = dict(online.named_parameters())
    for name, value in weights.items():
        wanted = momentum * before[name].double() + (1 - momentum) * theirs[name].detach().double()
        torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=1e-8, msg=name)
    if momentum == 0:
        assert all(torch.equal(value, theirs[name]) for name, value in weights.items())
    statistics = [name for name in before if is_statistic(name)]
    assert statistics
    for name in statistics:
        assert torch.equal(teacher.state_dict()[name], seen[name]), name
        assert not torch.equal(seen[name], before[name]), name  # it looked at its views in training mode


def test_statistics_are_those_of_the_views_it_read_itself():
    """A teacher that reads b only, of the same weights as a network that saw b only."""
    step = make(lines=[MOCO])
    alone = copy.deepcopy(step.branch("teacher"))
    views = step.views(photos(0), index=range(B), epoch=0)
    step(views)
    alone({"b": views["b"]}, [("z", "b")])
    for name, value in alone.state_dict().items():
        assert torch.equal(step.branch("teacher").state_dict()[name], value), name
    online = step.branch("online").state_dict()
    name = "backbone.bn1.running_mean"
    assert not torch.equal(online[name], alone.state_dict()[name])


def test_training_and_evaluation_mode_reach_it():
    step = make()
    teacher = step.branch("teacher")
    assert all(module.training for module in teacher.modules())
    step.eval()
    assert not any(module.training for module in teacher.modules())
    before = snapshot(teacher)
    step(photos(0), index=range(B), epoch=0)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    step.train()
    step(photos(0), index=range(B), epoch=0)
    assert any(not torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_its_weights_stay_without_gradient_through_modes_and_loading():
    step = make()
    step.load_state_dict(snapshot(step))
    step.eval().train()
    assert not any(parameter.requires_grad for parameter in step.branch("teacher").parameters())


@pytest.mark.parametrize("lines", [(BYOL,), (MOCO,), (BYOL, "swav(z(a), z(b), prototypes=4, freeze=4)", MOCO)])
def test_a_resumed_step_continues_bit_for_bit(lines):
    whole = make("branches.teacher.schedule=cosine", lines=lines)
    train(whole, range(6))
    first = make("branches.teacher.schedule=cosine", lines=lines)
    optimizer = train(first, range(3))
    file = io.BytesIO()
    torch.save({"step": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    assert any(name.startswith("branches.teacher.") for name in saved["step"])
    second = make("branches.teacher.schedule=cosine", lines=lines)
    train(second, range(7, 9))  # other weights, queues and counts than those it takes over
    second.load_state_dict(saved["step"])
    optimizer = make_optimizer(second.recipe.train, second)
    optimizer.load_state_dict(saved["optimizer"])
    train(second, range(3, 6), optimizer)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_the_same_seed_begins_the_same_whatever_was_drawn_before():
    torch.manual_seed(1)
    one = make(lines=[MOCO]).state_dict()
    torch.manual_seed(2)
    two = make(lines=[MOCO]).state_dict()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_teacher_begins_as_the_published_weights_that_a_checkpoint_replaces():
    """pretrained=False leaves both as they were drawn, and equal."""
    step = Step(recipe(), C, pretrained=False)
    theirs = step.branch("online").state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in step.branch("teacher").state_dict().items())


# ------------------------------------------------------------------------------------------------------ its momentum


def test_a_constant_momentum():
    assert [Ema(Name("online"), 0.9).at(progress) for progress in (0, 0.5, 1)] == [0.9, 0.9, 0.9]


@pytest.mark.parametrize("momentum", [0, 0.9, 0.996])
def test_a_cosine_momentum_rises_from_its_value_to_1(momentum):
    ema = Ema(Name("online"), momentum, "cosine")
    found = [ema.at(k / 20) for k in range(21)]
    for k, value in enumerate(found):
        assert value == pytest.approx(1 - (1 - momentum) * (math.cos(math.pi * k / 20) + 1) / 2, abs=1e-15)
    assert (found[0], found[10], found[20]) == (momentum, pytest.approx((1 + momentum) / 2), 1)
    assert found == sorted(found)


@pytest.mark.parametrize(("override", "total_steps"), [("train.steps=10", None), ("train.epochs=4", 4)])
def test_the_schedule_follows_the_updates(override, total_steps):
    step = Step(recipe("branches.teacher.schedule=cosine", override), C, total_steps)
    optimizer = make_optimizer(step.recipe.train, step)
    for number in range(4):
        before = step.branch("teacher").heads["z"][0].weight.detach().double().clone()
        update(step, optimizer, number)
        momentum = Ema(Name("online"), 0.8, "cosine").at(number / (total_steps or 10))
        online = step.branch("online").heads["z"][0].weight.detach().double()
        moved = momentum * before + (1 - momentum) * online
        torch.testing.assert_close(step.branch("teacher").heads["z"][0].weight.double(), moved, rtol=1e-6, atol=1e-8)


def test_a_momentum_that_follows_a_run_of_unknown_length_is_refused_in_training():
    step = make("branches.teacher.schedule=cosine", "train.epochs=4")
    optimizer = make_optimizer(step.recipe.train, step)
    told = r"^branches\.teacher\.momentum: ema of online, momentum 0\.8 to 1 follows .* give it .*total_steps=4000\)$"
    with pytest.raises(RecipeError, match=told):
        step(photos(0), index=range(B), epoch=1)
    with pytest.raises(RecipeError, match=told):
        step.attach(optimizer)
    step.eval()(photos(0), index=range(B), epoch=1)  # where no teacher moves
    with pytest.raises(RecipeError, match=told):
        step.after_step()
    make("train.epochs=4")(photos(0), index=range(B), epoch=1)  # nor any momentum


def test_follow_moves_by_names_and_leaves_the_other_alone():
    online, teacher = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2, bias=False)
    weight, kept = teacher.weight.detach().clone(), snapshot(online)
    follow(teacher, online, 0.75)
    torch.testing.assert_close(teacher.weight, 0.75 * weight + 0.25 * online.weight)
    assert all(torch.equal(value, kept[name]) for name, value in online.state_dict().items())


# --------------------------------------------------------------------------------------------------- whose it is


def test_the_main_branch_is_never_a_teacher_even_if_it_stands_first():
    step = make(branches=[TEACHER, ONLINE])
    assert step.main is step.branch("online")
    assert list(step.recipe.branch_plan) == ["teacher", "online"]
    assert step.branch("teacher").spec.ema is not None
    usual = make()
    out, other = (each(photos(0), index=range(B), epoch=0) for each in (step, usual))
    assert torch.equal(out["loss"], other["loss"])


def test_a_bare_readout_is_that_of_the_branch_that_is_no_teacher():
    plan = recipe(lines=["cosine(p(a), toward=stop(z(b)))", "cosine(online.p(a), toward=teacher.z(b))"]).relation_plan
    assert [read.branch for line in plan for read in line.all_reads] == ["online", "online", "online", "teacher"]
    other = ONLINE.replace("online", "other")
    wanted = "relations.0: say whose p, as in online.p(a); 2 branches have it"
    assert refusal(branches=[ONLINE, other, TEACHER]) == wanted


def test_two_teachers_of_one_branch_and_one_of_another():
    other = ONLINE.replace("online", "other")
    lines = (
        "cosine(online.p(a), toward=slow.z(b))",
        "cosine(online.p(b), toward=fast.z(a))",
        "cosine(other.p(a), toward=third.z(b))",
    )
    branches = ["slow: ema(online, 0.9)", ONLINE, "fast: ema(online, 0.1)", "third: ema(other, 0.5)", other]
    step = make(branches=branches, lines=lines)
    begun = {name: snapshot(step.branch(name)) for name in ("slow", "fast", "third")}
    train(step, [0])
    for name, followed, momentum in (("slow", "online", 0.9), ("fast", "online", 0.1), ("third", "other", 0.5)):
        found = step.branch(name).heads["z"][0].weight
        online = step.branch(followed).heads["z"][0].weight
        torch.testing.assert_close(found, momentum * begun[name]["heads.z.0.weight"] + (1 - momentum) * online)


def test_a_teacher_that_nothing_reads_is_not_built():
    step = make(lines=["cosine(p(a), toward=stop(z(b)))"])
    assert list(step.branches) == ["online"]


def test_it_follows_under_averaged_weights_and_evaluation_asks_the_online_branch():
    step = make("train.ema=0.5")
    train(step, [0])
    assert step.average is not None
    step.eval()
    assert torch.equal(step.predict(photos(1))["h"], step.average.module.read(step.test_pixels(photos(1)), ["h"])["h"])
    plain = make().eval()
    assert torch.equal(plain.predict(photos(1))["h"], plain.main.read(plain.test_pixels(photos(1)), ["h"])["h"])


# ----------------------------------------------------------------------------------------------------- as it is written


def test_overrides_and_the_way_through_yaml():
    changed = recipe("branches.teacher.momentum=0.9", "branches.teacher.schedule=cosine", "relations.cosine.weight=0.4")
    assert changed.branches["teacher"] == "ema(online, momentum=0.9, schedule='cosine')"
    assert changed.branch_plan["teacher"].ema == Ema(Name("online"), 0.9, "cosine")
    assert changed.relation_plan[0].weight.at is not None
    assert changed.relations[0] == "cosine(p(a), toward=teacher.z(b), weight=0.4, swapped=True)"
    again = parse_recipe(changed.to_yaml())
    assert again == changed
    assert again.to_yaml() == changed.to_yaml()
    assert difference(recipe(), changed) == [
        "branches.teacher: 'ema(online, momentum=0.8)' -> \"ema(online, momentum=0.9, schedule='cosine')\"",
        "relations.0: 'cosine(p(a), toward=teacher.z(b), weight=2, swapped=True)' -> "
        "'cosine(p(a), toward=teacher.z(b), weight=0.4, swapped=True)'",
    ]


def test_a_momentum_by_position_is_overridden_in_its_place():
    changed = recipe("branches.teacher.momentum=0.5", branches=[ONLINE, "teacher: ema(online, 0.8)"])
    assert changed.branches["teacher"] == "ema(online, 0.5)"


def test_overrides_reach_the_online_branch_and_its_teacher_alike():
    step = make("branches.online.z.out=9", "branches.online.backbone=cresnet32")
    assert step.branch("teacher").dims["z"] == step.branch("online").dims["z"] == 9
    assert len(list(step.branch("teacher").parameters())) < len(list(step.branch("online").parameters()))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("relations.cosine.swapped=false", "cosine(p(a), toward=teacher.z(b), weight=2, swapped=False)"),
        ("relations.0.weight=1", "cosine(p(a), toward=teacher.z(b), weight=1, swapped=True)"),
        ("relations.cosine.toward=stop(z(b))", "cosine(p(a), toward=stop(z(b)), weight=2, swapped=True)"),
        ("relations.cosine.weight=warmup(20)", "cosine(p(a), toward=teacher.z(b), weight=warmup(20), swapped=True)"),
    ],
)
def test_overrides_of_a_line(override, line):
    changed = recipe(override)
    assert changed.relations == (line,)
    assert parse_recipe(changed.to_yaml()) == changed


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("teacher", "wanted"),
    [
        ("ema(onlin)", "branches.teacher: unknown branch 'onlin'; did you mean 'online'? branches: online"),
        ("ema(teacher)", "branches.teacher: 'teacher' is itself an EMA; follow the branch that is trained"),
        (
            "ema(online, momentum=1)",
            "branches.teacher: ema(online, momentum=1): momentum must be a number in [0, 1), got 1",
        ),
        (
            "ema(online, momentum=-0.1)",
            "branches.teacher: ema(online, momentum=-0.1): momentum must be a number in [0, 1), got -0.1",
        ),
        (
            "ema(online, momentum='x')",
            "branches.teacher: ema(online, momentum='x'): momentum must be a number in [0, 1), got 'x'",
        ),
        (
            "ema(online, momentum=True)",
            "branches.teacher: ema(online, momentum=True): momentum must be a number in [0, 1), got True",
        ),
        (
            "ema(online, schedule='cosin')",
            "branches.teacher: ema(online, schedule='cosin'): unknown schedule 'cosin'; did you mean 'cosine'? "
            "schedules: constant, cosine",
        ),
        (
            "ema(online, schedule=cosine)",
            "branches.teacher: ema(online, schedule=cosine): put quotes round schedule='cosine'",
        ),
        (
            "mean(online)",
            "branches.teacher: expected a mapping with a backbone, such as {backbone: resnet18}, or ema(online) or "
            "frozen('runs/x'); got 'mean(online)'",
        ),
        (
            "ema('online')",
            "branches.teacher: ema('online'): ema first names the branch that it follows, as in ema(online), "
            "got 'online'",
        ),
    ],
)
def test_refusals(teacher, wanted):
    assert refusal(branches=[ONLINE, f'teacher: "{teacher}"']) == wanted


@pytest.mark.parametrize(
    "teacher",
    [
        "ema",
        "ema()",
        "ema(online, 0.9, 'cosine', 3)",
        "ema(online, decay=0.9)",
        "ema(online",
        "ema(online) | ema(online)",
        "ema(online.z)",
        "{ema: online}",
    ],
)
def test_what_cannot_be_meant_is_one_line_that_names_the_branch(teacher):
    quoted = teacher if teacher.startswith("{") else f'"{teacher}"'
    assert refusal(branches=[ONLINE, f"teacher: {quoted}"]).startswith("branches.teacher: ")


def test_an_ema_of_an_ema_is_refused_in_either_order():
    wanted = "branches.second: 'teacher' is itself an EMA; follow the branch that is trained"
    assert refusal(branches=[ONLINE, TEACHER, "second: ema(teacher)"]) == wanted
    assert refusal(branches=["second: ema(teacher)", TEACHER, ONLINE]) == wanted


def test_nothing_but_teachers_is_refused():
    wanted = "branches: at least one branch is needed, such as net: {backbone: resnet18}"
    assert refusal(branches=[TEACHER]) == wanted


def test_a_branch_that_nothing_trains_is_not_followed():
    wanted = "branches: an EMA follows 'online', but no relation reads that branch"
    assert refusal(lines=["nt_xent(teacher.z(a), teacher.z(b))"]) == wanted


def test_a_head_that_nothing_trains_is_not_read_of_the_teacher():
    wanted = "branches.teacher: p is read of the EMA, but no relation trains online's"
    assert refusal(lines=["nt_xent(z(a), teacher.z(b))", "similarity(teacher.p(a), teacher.p(b))"]) == wanted


def test_an_unknown_readout_of_the_teacher():
    found = refusal(lines=["cosine(p(a), toward=teacher.q(b))"])
    assert found.startswith("relations.0: unknown readout 'teacher.q'; readouts: ")
