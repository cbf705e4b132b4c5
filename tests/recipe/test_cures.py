"""Messages that know the cure say it in full; a mapping is merged; a title that is not true does not stand."""

import json
import shlex

import pytest

from commands import done, manyview, one_line, png
from manyview.errors import FEW, ManyviewError, RecipeError, reason, unknown
from manyview.foundation.words import counted
from manyview.load import load_recipe, parse_recipe
from manyview.recipe.cures import in_full, places
from manyview.recipe.recipe import Recipe
from manyview.recipe.settings import Train

# ---------------------------------------------------------------------------------------------------------------- keys

MISPLACED = {
    "epochs=3": "write train.epochs=3",
    "epoch=3": "did you mean train.epochs=3?",
    "batch=32": "did you mean train.batch_size=32?",
    "lr=0.1": "write train.optimizer.lr=0.1",
    "train.lr=0.1": "write train.optimizer.lr=0.1",
    "weight_decay=1e-4": "write train.optimizer.weight_decay=0.0001",
    "warmup=0.1": "write train.schedule.warmup=0.1",
    "optimizer.lr=0.1": "write train.optimizer.lr=0.1",
    "data.batch_size=3": "write train.batch_size=3",
    "train.seed=3": "write seed=3",
    "train.limit=30": "write data.limit=30",
    "root=photos": "write data.root=photos",
    "download=true": "write data.download=true",
    "backbone=resnet18": "write branches.net.backbone=resnet18",
    "net.backbone=resnet18": "write branches.net.backbone=resnet18",
    "backbone=resnet18(small=True)": "write 'branches.net.backbone=resnet18(small=True)'",
    "a.make=flip": "write views.a.make=flip",
    "similarity.weight=3": "write relations.similarity.weight=3",
    "data=photos": "write data.source=folder data.root=photos",
    "data=cifar10": "write data.source=cifar10",
    "train={optimizer: {lr: 0.1}}": "write train.optimizer.lr=0.1",
}


@pytest.mark.parametrize("override", MISPLACED)
def test_what_stands_in_the_wrong_place_is_told_its_own(override):
    with pytest.raises(ManyviewError) as caught:
        load_recipe("quickstart", override)
    advice = MISPLACED[override]
    assert str(caught.value).endswith(f"; {advice}")
    words = shlex.split(advice.removeprefix("write ").removeprefix("did you mean ").removesuffix("?"))
    load_recipe("quickstart", *words)  # the cure cures


def test_a_key_at_the_top_of_a_file_is_told_its_section():
    with pytest.raises(RecipeError, match=r"^epochs: unknown key 'epochs'; write train\.epochs=3$"):
        parse_recipe("epochs: 3\nviews: {}\nbranches: {}\nrelations: []")


def test_a_key_like_none_is_told_nothing():
    assert in_full("zzz", 1, places({}, {"train": Train.model_fields, "": Recipe.model_fields})) == ""
    with pytest.raises(RecipeError, match=r"zzz: unknown key 'zzz'; keys: branches, "):
        load_recipe("quickstart", "zzz=1")


def test_short_lists_are_whole_and_long_ones_are_cut_to_the_nearest():
    few = [f"name{number}" for number in range(FEW)]
    assert unknown("op", "nam1", few) == f"unknown op 'nam1'; did you mean 'name1'? ops: {', '.join(few)}"
    told = unknown("branch", "nam11", [f"name{number}" for number in range(30)])
    assert told == "unknown branch 'nam11'; did you mean 'name11'? branches: name11, name1, name21, … (30 in all)"


@pytest.mark.parametrize("name", ["Quickstart", "quickstrat", "QUICKSTART"])
def test_names_are_found_in_any_case(name):
    with pytest.raises(RecipeError, match=r"did you mean 'quickstart'\?"):
        load_recipe(name)


def test_a_recipe_that_lies_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("title: x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("title: x")
    (tmp_path / "photos").mkdir()

    def told(name):
        with pytest.raises(RecipeError) as caught:
            load_recipe(name)
        return str(caught.value).rpartition("; ")[2]

    assert told("mine") == "the file mine would be one if it were called mine.yaml"
    assert told("run") == "run is a run, and its recipe is run/recipe.yaml"
    assert told("photos") == "photos is a folder, and a recipe is a file, NAME.yaml"
    assert told("recipes/quickstart.yaml") == "the packaged recipe is called quickstart, without ending and folder"
    assert told("quickstart.yml") == "the packaged recipe is called quickstart, without ending and folder"


# ------------------------------------------------------------------------------------------------------------- mappings


def test_a_mapping_is_merged_into_every_section():
    plain = load_recipe("quickstart")
    merged = load_recipe("quickstart", "train={epochs: 2}")
    assert merged.train == plain.train.model_copy(update={"epochs": 2})
    assert load_recipe("quickstart", "data={limit: 90}").data == plain.data.model_copy(update={"limit": 90})
    branches = load_recipe("quickstart", "branches={net: {backbone: cresnet32}}").branches
    assert branches == {"net": {"backbone": "cresnet32", "normalize": "half"}}
    views = load_recipe("quickstart", "views={spare: {like: a}}").views
    assert {name: views[name] for name in plain.views} == plain.views
    assert views["spare"].like == "a"


def test_what_cannot_stand_beside_a_merged_key_goes():
    assert load_recipe("quickstart", "train={steps: 7}").train.epochs is None
    made = load_recipe("quickstart", "views.b={from: image, make: resize(16)}").views["b"]
    assert (made.source, made.make, made.like) == ("image", "resize(16)", None)
    with pytest.raises(RecipeError, match="give the length of the run once"):
        load_recipe("quickstart", "train={epochs: 2, steps: 7}")


@pytest.mark.parametrize("override", ["train={epoch: 2}", "data={roots: x}", "views={a: {mak: flip}}", "trian={}"])
def test_unknown_keys_of_a_mapping_are_refused(override):
    with pytest.raises(RecipeError, match="unknown key"):
        load_recipe("quickstart", override)


# --------------------------------------------------------------------------------------------------------------- titles

PHOTOS = ("data.root=/somewhere/photos", "branches.net.backbone=resnet18")


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        (PHOTOS, "tied_imagenet with data.root=photos, branches.net.backbone=resnet18"),
        (("branches={net: {backbone: resnet18}}",), "tied_imagenet with branches.net.backbone=resnet18"),
        (("data={source: cifar10, root: DIR}",), "tied_imagenet with data.source=cifar10"),
        (("relations.similarity.weight=0",), "tied_imagenet with relations.similarity.weight=0"),
        (("views.a.make.randaugment.m=15",), "tied_imagenet with views.a.make.randaugment.m=15"),
        ((*PHOTOS, "title=Ours"), "Ours"),
    ],
)
def test_a_title_that_is_not_true_any_more_is_replaced(overrides, title):
    assert load_recipe("tied_imagenet", *overrides).title == title


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.epochs=3", "train.batch_size=32", "seed=4", "data.workers=0", "data.limit=1000", "evaluate=[]"),
        ("branches.net.backbone=resnet50", "data.source=folder"),  # what it has already
    ],
)
def test_a_title_that_is_still_true_stands(overrides):
    assert load_recipe("tied_imagenet", *overrides).title == load_recipe("tied_imagenet").title


def test_where_data_of_a_name_lie_changes_no_title():
    assert load_recipe("tied_cifar10", "data.root=DIR").title == load_recipe("tied_cifar10").title


def test_the_replaced_title_stands_in_results_plans_and_exports(tmp_path):
    tiny = ("train.steps=1", "train.batch_size=8", "data.limit=20", "train.schedule=constant()", "evaluate=[]")
    changed = ("branches.net.backbone=cresnet32", "views.a.make=resize(16)")
    title = "quickstart with branches.net.backbone=cresnet32, views.a.make=resize(16)"
    printed = done("train", "quickstart", *tiny, *changed, "--out", tmp_path / "run")
    assert printed.splitlines()[0] == title
    assert json.loads((tmp_path / "run" / "result.json").read_text())["recipe"] == title
    done("export", tmp_path / "run", tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["manyview"]["recipe"] == title
    printed = done("plan", "quickstart", *changed, "--svg", tmp_path / "plan.svg")
    assert printed.startswith(title)
    assert title in (tmp_path / "plan.svg").read_text()
    # the run keeps it, wherever it is read from
    assert load_recipe(tmp_path / "run" / "recipe.yaml").title == title


# ---------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "epoch", "1 epoch"),
        (0, "epoch", "0 epochs"),
        (2, "class", "2 classes"),
        (1234, "step", "1,234 steps"),
        (1.0, "epoch", "1 epoch"),
        (2.5, "epoch", "2.5 epochs"),
        (2, "branch", "2 branches"),
        (3, "query", "3 queries"),
        (3, "forward pass", "3 forward passes"),
    ],
)
def test_numbers_and_their_nouns(number, noun, said):
    assert counted(number, noun) == said


def test_an_exception_without_a_text_is_told_by_its_kind():
    assert reason(IndexError()) == "IndexError"
    assert reason(FileNotFoundError(2, "No such file or directory", "x.pt")) == "x.pt: No such file or directory"
    assert reason(RuntimeError("\n  first\n  second")) == "first"
    assert reason(KeyError("missing")) == "'missing'"


# -------------------------------------------------------------------------------------------------- the parser's words

USAGES = {
    "train quickstart": "missing option '--out'; write --out runs/NAME",
    "views quickstart": "missing option '--out'; write --out views.png",
    "embed run": "missing option '--out'; write --out features.npz",
    "replay run --epoch 0 --out seen.png": "missing option '--index'; write --index 3",
    "train quickstart --epochs 3 --out o": "no such option: --epochs; write train.epochs=3",
    "train quickstart --epochs=3 --out o": "no such option: --epochs; write train.epochs=3",
    "train quickstart --train.epochs=3 --out o": "no such option: --train.epochs; write train.epochs=3",
    "train quickstart --lr 0.1 --out o": "no such option: --lr; write train.optimizer.lr=0.1",
    "train": "missing argument 'RECIPE'; see manyview train --help",
    "plann x": "no such command 'plann'. Did you mean 'plan'?; see manyview --help",
    "views quickstart --count 0 --out v.png": "invalid value for '--count': ",
}


@pytest.mark.parametrize("command", USAGES)
def test_what_the_parser_refuses_is_one_line(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert one_line(*manyview(*command.split())).startswith(USAGES[command])
    assert list(tmp_path.iterdir()) == []


def test_help_is_still_help():
    code, out, err = manyview("train", "--help")
    assert (code, err) == (0, "")
    assert "Usage: manyview train" in out
    assert manyview()[0] == 2
    assert "Usage: manyview" in manyview()[1]


def test_ctrl_c_is_one_line(monkeypatch):
    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("manyview.load.load_recipe", interrupted)
    assert manyview("plan", "quickstart") == (130, "", "manyview: stopped\n")


# ---------------------------------------------------------------------------------------------- what is not where it is


def test_what_eval_was_meant_to_look_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").touch()
    (tmp_path / "run" / "checkpoints" / "best.pt").touch()
    inside = "; it lies in the run run, so write manyview eval run"
    assert one_line(*manyview("eval", "run/checkpoints/best.pt")).endswith(inside)
    assert one_line(*manyview("eval", "run/recipe.yaml")).endswith(inside)
    message = one_line(*manyview("eval", "quickstart"))
    assert message.endswith("; it is a recipe, so train it first: manyview train quickstart --out runs/quickstart")
    assert "; did you mean resnet18, " in one_line(*manyview("eval", "resnet-18"))


@pytest.mark.parametrize(
    ("recipe", "overrides", "cure"),
    [
        ("quickstart", ["data.root=photos"], "say data.source=folder data.root=photos"),
        ("quickstart", ["data.source=photos"], "for that folder, write data.source=folder data.root=photos"),
        ("tied_cifar10", ["data.root=photos"], "say data.source=folder data.root=photos"),
    ],
)
def test_a_folder_of_own_images_is_told_in_full(recipe, overrides, cure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    png(tmp_path / "photos" / "cat" / "1.png")
    message = one_line(*manyview("train", recipe, *overrides, "--out", "run"))
    assert message.endswith(f" {cure}")


@pytest.mark.parametrize(
    ("override", "advised"), [("init=torch", "branches.net.init=torch"), ("per=12", "train.optimizer.per=12")]
)
def test_a_key_of_two_sections_is_the_one_that_its_value_fits(override, advised):
    """Before there was `init` the advice was init_std, and the schedule's `per` is a word."""
    message = one_line(*manyview("plan", "tied_cifar10", override))
    assert f"write {advised}" in message
    load_recipe("tied_cifar10", advised)


@pytest.mark.parametrize(
    ("override", "advised"),
    [("evaluate=knn(k=3)", "evaluate=[knn(k=3)]"), ("batch-size=32", "train.batch_size=32")],
)
def test_what_is_nearly_right_is_written_right(override, advised):
    message = one_line(*manyview("plan", "quickstart", override))
    assert f"write {shlex.quote(advised)}" in message
    load_recipe("quickstart", advised, "train.optimizer.lr=0.1")
