"""Words of one's own: found, checked and named in messages; carried by recipes, never loaded by their text."""

import copy
import json
import pickle
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch

import manyview
import own_words
from commands import done, one_line
from commands import manyview as command
from manyview import Step, parse_recipe
from manyview.data import open_splits
from manyview.data.loader import _Values
from manyview.errors import ManyviewError, ManyviewWarning, RecipeError, RunError, WordsError
from manyview.foundation.vocabulary import PREFIX, Words
from manyview.training.kept_words import check_words, keep_words, kept_words
from manyview.views.ops import OPS
from manyview.words.load import words_of
from processes import server

OP, RELATION = own_words.IMPORTS + own_words.SPECKLE, own_words.IMPORTS + own_words.PULL
HEAD, SOURCE = own_words.IMPORTS + own_words.SQUASH, own_words.IMPORTS + own_words.STRIPES
PROTOCOL = own_words.IMPORTS + own_words.CENTROIDS


@pytest.fixture
def words(tmp_path):
    return own_words.written(tmp_path)


def loaded(*overrides, use):
    return parse_recipe(own_words.RECIPE, *overrides, use=use)


# ------------------------------------------------------------------------------------------------------------- a value


def visible(use):
    """The data of the recipe."""
    recipe = loaded(use=use)
    return open_splits(recipe.data, recipe.seed)


def test_a_recipe_carries_its_words(words):
    recipe = loaded(use=words)
    assert [each.op for each in recipe.view_plan["a"].ops][1].strength == 0.2
    for same in (copy.deepcopy(recipe), recipe.model_copy(), pickle.loads(pickle.dumps(recipe)), loaded(use=[words])):
        assert same == recipe
        assert same.words == same.data.words == recipe.words
    assert parse_recipe(recipe.to_yaml(), use=recipe.words) == recipe
    assert type(Step(recipe, 3).relations["pull"]).__name__ == "Pull"
    assert parse_recipe(own_words.RECIPE, "seed=4", use=words) != recipe


def test_other_words_make_another_recipe(words, tmp_path):
    other = own_words.written(tmp_path / "other", own_words.ALL + "\n# another\n")
    assert loaded(use=words) != loaded(use=other)
    assert loaded(use=words) == loaded(use=own_words.written(tmp_path / "again"))


def test_nothing_stays_behind(words):
    loaded(use=words)
    with pytest.raises(RecipeError, match="unknown op 'speckle'"):
        parse_recipe(own_words.RECIPE)


def test_no_key_of_a_recipe_loads_code(words):
    for key in ("use", "words", "_words", "data.words", "data._words", "train.words"):
        with pytest.raises(RecipeError, match="unknown key"):
            parse_recipe(own_words.RECIPE, f"{key}=[{words}]")


def test_a_module_that_was_imported(words):
    spec = spec_from_file_location("imported_words", words)
    module = module_from_spec(spec)
    sys.modules["imported_words"] = module
    try:
        spec.loader.exec_module(module)
        recipe = loaded(use=module)
        assert type(recipe.view_plan["a"].ops[1].op) is module.Speckle
        assert recipe == loaded(use=words)
    finally:
        del sys.modules["imported_words"]
    with pytest.raises(WordsError, match="module sys stands in no file"):
        words_of(sys)


def test_a_file_given_twice_is_there_once(words, tmp_path):
    again = own_words.written(tmp_path / "copy", name="other_name.py")
    assert len(words_of([words, again, words, words_of(words)]).origins) == 1


def test_two_files_of_one_name(tmp_path):
    files = [
        own_words.written(tmp_path / "one", OP + "OPS = {'speckle': Speckle}"),
        own_words.written(tmp_path / "two", RELATION + "RELATIONS = {'pull': Pull}"),
    ]
    assert [each.said for each in words_of(files).origins] == [["op speckle"], ["relation pull"]]


def test_an_edited_file_is_read_anew(tmp_path):
    for strength in (0.1, 0.2):  # within the same second, of the same length: Python's own cache would not see it
        path = own_words.written(tmp_path, OP.replace("= 0.1", f"= {strength}") + "OPS = {'speckle': Speckle}")
        assert words_of(path).own("OPS")["speckle"]().strength == strength


def test_overrides_reach_into_own_calls(words):
    recipe = loaded(
        *("views.a.make.speckle.strength=0.3", "relations.pull.memory=5", "branches.net.z.out=7"),
        *("data.source.count=48", "evaluate.centroids.images=9"),
        use=words,
    )
    assert "speckle(0.3)" in recipe.views["a"].make
    assert recipe.relation_plan[1].options == {"memory": 5}
    assert recipe.branches["net"]["z"] == "squash(h, out=7)"
    assert (recipe.data.source, recipe.evaluate) == ("stripes(count=48)", ("centroids(images=9)",))


def test_own_words_within_others(words):
    protocols = ["invariance(ops=('speckle(0.2)',))", "finetune(augment='speckle(0.2)')"]
    protocols += ["transfer('x', by='centroids')", "awareness('flip | speckle(0.2)')"]
    recipe = loaded(
        "views.a.make=pad_crop(16) | one_of('speckle(0.2)', 'flip(1)')",
        f"evaluate={json.dumps(protocols)}",
        use=words,
    )
    assert [type(each).__name__ for each in recipe.view_plan["a"].ops[1].op.parts] == ["Speckle", "Flip"]


@pytest.mark.parametrize(
    ("override", "message"),
    {
        "views.a.make=spekle": "unknown op 'spekle'; did you mean 'speckle'? ops: speckle, ",
        "views.a.make=one_of('spekle', 'flip')": "unknown op 'spekle'; did you mean 'speckle'?",
        "views.a.make=crp(3)": "did you mean 'crop'?",
        "relations=['pul(z(a), z(b))']": "unknown relation 'pul'; did you mean 'pull'?",
        "relations=['pull(z(a), z(b), memory=0)']": "pull(z(a), z(b), memory=0): memory must be at least 1",
        "relations=['pull(z(a), z(b), memry=2)']": "unknown argument 'memry'; did you mean 'memory'?",
        "relations=['pull(z(a), z(b), swapped=True)']": "with its views exchanged this line is the same",
        "branches.net.z=sqash(h)": "unknown head 'sqash'; did you mean 'squash'?",
        "data.source=strips": "unknown source 'strips'; did you mean 'stripes'?",
        "data.source=stripes(count=many)": "count=many in 'stripes' must be a whole number",
        "evaluate=[centroid]": "unknown protocol 'centroid'; did you mean 'centroids'?",
        "evaluate=[\"transfer('x', by='centroid')\"]": "unknown protocol 'centroid'; did you mean 'centroids'?",
    }.items(),
)
def test_did_you_mean_across_own_and_packaged(words, override, message):
    with pytest.raises(ManyviewError) as caught:
        loaded(override, use=words)
    assert message in str(caught.value)


def test_the_list_of_ours_does_not_have_theirs(words):
    with pytest.raises(RecipeError, match=rf"has all {len(OPS)}, and your own: speckle\)"):
        loaded("views.a.make=zzz", use=words)


# ------------------------------------------------------------------------------------------------------------- refused

FIRST = 'OPS = {"speckle": Speckle}\n'
REFUSED = {
    "no table": (
        OP,
        "words.py has none of the tables OPS, RELATIONS, HEADS, SOURCES, PROTOCOLS, and registers no backbone",
    ),
    "nearly a table": (OP + "ops = {'speckle': Speckle}", "words.py: did you mean OPS by ops?"),
    "a list": (OP + "OPS = [Speckle]", "words.py: OPS is a table, as in OPS = {'name': …}, got [<class"),
    "packaged": (
        OP + "OPS = {'crop': Speckle}",
        "words.py: OPS['crop']: manyview has an op 'crop' already; give yours another",
    ),
    "packaged tap": (HEAD + "HEADS = {'pool': squash}", "HEADS['pool']: manyview has a head 'pool' already"),
    "a function of readouts": (RELATION + "RELATIONS = {'stop': Pull}", "manyview has a relation 'stop' already"),
    "a measure": (
        PROTOCOL + "PROTOCOLS = {'top1': Centroids}",
        "PROTOCOLS['top1']: manyview has a protocol 'top1' already",
    ),
    "a keyword": (OP + "OPS = {'class': Speckle}", "OPS['class']: 'class' cannot be a name"),
    "a dot": (RELATION + "RELATIONS = {'my.pull': Pull}", "RELATIONS['my.pull']: 'my.pull' cannot be a name"),
    "again": (OP + "OPS = {'speckle_again': Speckle}", "'_again' in a name tells the second op of a view"),
    "twice": (
        OP + "OPS = {'one': Speckle, 'two': Speckle}",
        "OPS['two'] is OPS['one'] by another name; give it one name",
    ),
    "manyview's own": (
        "from manyview.views.ops.crop import Crop\nOPS = {'cut': Crop}",
        "OPS['cut'] is manyview's 'crop' by another name; give it one name",
    ),
    "an instance": (OP + "OPS = {'speckle': Speckle()}", "OPS['speckle']: expected a class, a frozen dataclass"),
    "no sample": (
        OP.replace("def sample", "def draw") + FIRST,
        "OPS['speckle']: class Speckle has no sample(draws, sizes)",
    ),
    "no render": (OP.replace("def render", "def paint") + FIRST, "class Speckle has no render(images, params)"),
    "no size": (OP.replace("def output_size", "def size") + FIRST, "class Speckle has no output_size(sizes)"),
    "one argument": (
        OP.replace("def render(self, images, params)", "def render(self, images)") + FIRST,
        "render of class Speckle is called as render(images, params)",
    ),
    "no dataclass": (
        OP.replace("@dataclass(frozen=True)", "") + FIRST,
        "class Speckle is no dataclass; write @dataclass(frozen=True)",
    ),
    "not frozen": (
        OP.replace("(frozen=True)", "") + FIRST,
        "class Speckle can be changed; write @dataclass(frozen=True)",
    ),
    "no hint": (
        OP.replace("p: float = 1.0", "p = 1.0") + FIRST,
        "'p' has no type hint, so it is no argument; write p: float",
    ),
    "no module": (
        RELATION.replace("(nn.Module)", "") + "RELATIONS = {'pull': Pull}",
        "a relation is a class, of torch's nn.Module",
    ),
    "no forward": (
        RELATION.replace("def forward", "def go") + "RELATIONS = {'pull': Pull}",
        "class Pull has no forward(…)",
    ),
    "unhinted port": (
        RELATION.replace("b: Port", "b") + "RELATIONS = {'pull': Pull}",
        "__init__ does not say what 'b' is",
    ),
    "no port": (
        RELATION.replace("a: Port, b: Port", "a: int, b: int") + "RELATIONS = {'pull': Pull}",
        "__init__ takes no readout",
    ),
    "other readouts": (
        RELATION.replace("a: Reading, b: Reading", "x: Reading, b: Reading") + "RELATIONS = {'pull': Pull}",
        "forward takes no 'a', which __init__ has as a readout",
    ),
    "a trait": (
        RELATION.replace("symmetric = True", "symmetric = 'yes'") + "RELATIONS = {'pull': Pull}",
        "symmetric is True or False",
    ),
    "a head's class": (
        HEAD + "HEADS = {'squash': nn.Linear}",
        "HEADS['squash']: a head is a function (…, *, inputs: int",
    ),
    "a head's inputs": (
        HEAD.replace("inputs: int, ", "") + "HEADS = {'squash': squash}",
        "HEADS['squash']: it takes no 'inputs'",
    ),
    "a source's root": (
        SOURCE.replace("(root, *, ", "(*, ") + "SOURCES = {'stripes': stripes}",
        "SOURCES['stripes']: it takes no 'root'",
    ),
    "a source's hint": (
        SOURCE.replace("count: int = 64", "count=64") + "SOURCES = {'stripes': stripes}",
        "it does not say what 'count' is",
    ),
    "no measure": (
        PROTOCOL.replace("def measure", "def go") + "PROTOCOLS = {'centroids': Centroids}",
        "PROTOCOLS['centroids']: class Centroids has no measure(features, split)",
    ),
    "a mistake": ("import math\n\nx = 1 / 0\n", "words.py, line 3: ZeroDivisionError: division by zero"),
    "a mistake within": (
        "def f():\n    return [][1]\n\nf()\n",
        "words.py, line 2, in f: IndexError: list index out of range",
    ),
    "no Python": ("OPS = {\n", "words.py, line 1: SyntaxError: '{' was never closed"),
    "indented": ("x = 1\n  y = 2\n", "words.py, line 2: IndentationError: unexpected indent"),
    "not installed": (
        "import no_such_package\n",
        "words.py, line 1: ModuleNotFoundError: No module named 'no_such_package'",
    ),
    "beside it": (
        "import beside\n",
        "a words file stands alone, so that a run can keep it: what it imports must be installed",
    ),
    "it leaves": ("import sys\nsys.exit('done')\n", "words.py, line 2: SystemExit: done"),
    "a null": ("x = '\0'\n", "words.py"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(tmp_path, case):
    text, message = REFUSED[case]
    own_words.written(tmp_path, "", "beside.py")
    path = own_words.written(tmp_path, text)
    for _ in range(2):  # nothing of a file that was refused stays behind
        with pytest.raises(WordsError) as caught:
            words_of(path)
        assert message in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "words.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(WordsError, match=r"words.py.*SyntaxError"):
        words_of(tmp_path / "words.py")


def test_where_there_is_none(tmp_path):
    own_words.written(tmp_path)
    (tmp_path / "package").mkdir()
    for given, message in {
        "wrds.py": "--use wrds.py: there is no such file; did you mean words.py?",
        "words": "--use words: there is no such file; did you mean words.py?",
        "package": "--use package is a folder; words stand in one file, NAME.py, or in an installed package",
        "recipe.yaml": "--use recipe.yaml is no Python file; words stand in one file, NAME.py",
    }.items():
        (tmp_path / "recipe.yaml").write_text(own_words.RECIPE)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            assert one_line(*command("plan", "quickstart", "--use", given)).startswith(message)


def test_a_name_of_two_files_is_refused_naming_both(tmp_path):
    one, two = (own_words.written(tmp_path, f"# {n}\n{OP}{FIRST}", f"{n}.py") for n in ("one", "two"))
    with pytest.raises(WordsError) as caught:
        words_of([one, two])
    assert str(caught.value) == f"{two}: OPS['speckle']: {one} has an op 'speckle', too; one needs another name"


def test_a_mistake_while_it_works_is_a_line(tmp_path, words):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(own_words.RECIPE)
    broken = own_words.ALL.replace('"near": (one - other)', '"near": 1 / 0 * (one - other)')
    path = own_words.written(tmp_path, broken)
    told = one_line(*command("train", recipe, "--use", path, "--out", tmp_path / "run", "--quiet"))
    line = next(n for n, text in enumerate(broken.splitlines(), 1) if "1 / 0" in text)
    assert told == f"{path}, line {line}, in forward: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(one - other)", "(one - othr)", "in forward: NameError: name 'othr' is not defined"),
        (
            ".square().mean(), ",
            ".square(), ",
            "forward gives a scalar, or a dict of named scalars, got a tensor [4, 6]",
        ),
        (
            'return {"near"',
            'return {"near": 1.0} or {"near"',
            "forward gives a scalar, or a dict of named scalars, got",
        ),
        (
            "nn.Tanh()), out",
            "nn.Tanh()), 9",
            "squash builds (module, width of its output) with width 9, but the module",
        ),
        ("nn.Tanh()), out", "nn.Tanh())", "squash builds (module, width of its output), got Sequential("),
        ("return RawSplits(", "return list((", "stripes gives RawSplits, of train, val and test, got ["),
    ],
)
def test_what_a_word_makes_is_looked_at_before_a_run(tmp_path, old, new, message):
    text = own_words.ALL.replace(old, new).replace('"four"))', '"four")))' if "list" in new else '"four"))')
    assert text != own_words.ALL
    path = own_words.written(tmp_path, text)
    with pytest.raises(ManyviewError) as caught:
        visible(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kind_that_an_own_op_cannot_take_is_told_with_its_line(tmp_path):
    text = OP.replace("    def sample", "    def __post_init__(self):\n        self.strength + 1\n\n    def sample")
    path = own_words.written(tmp_path, text + FIRST)
    with pytest.raises(RecipeError, match=r"views.a.make: .*words.py, line .*, in __post_init__: TypeError"):
        parse_recipe(own_words.RECIPE, "views.a.make=speckle('much')", use=path)


# ----------------------------------------------------------------------------------------------------------- backbones


def test_a_backbone_registered_with_timm(tmp_path):
    path = own_words.written(tmp_path, own_words.IMPORTS + own_words.NET)
    words = words_of(path)
    assert words.origins[0].said == ["backbone stripe_net"]
    step = Step(parse_recipe(NET, use=words), 3)
    assert step.main.dims["h"] == 6
    assert words.used_in("backbone: stripe_net(width=6)") == words
    assert words.used_in("backbone: stripe") == Words()
    with pytest.raises(WordsError, match=r"two.py: .*words.py registers a backbone 'stripe_net', too"):
        words_of([path, own_words.written(tmp_path, own_words.IMPORTS + own_words.NET + "\n", "two.py")])


NET = """
views: {a: {from: image, make: "flip"}, b: {like: a}}
branches: {net: {backbone: "stripe_net(width=6)", normalize: half}}
relations: ["similarity(h(a), h(b))"]
train: {epochs: 1}
"""


def test_a_backbone_that_is_not_as_those_of_timm_is_told_where_it_must_be(tmp_path):
    words = own_words.written(tmp_path, own_words.IMPORTS + own_words.NET)
    (tmp_path / "net.yaml").write_text(NET.replace("similarity(h(a), h(b))", "cross_entropy(logits(a))"))
    settings = ["data.source=digits", "data.limit=64", "train.batch_size=32", "--quiet"]
    use = ["--use", words]
    done("train", tmp_path / "net.yaml", *settings, "--out", tmp_path / "run", *use)
    told = one_line(*command("export", tmp_path / "run", tmp_path / "out", *use))
    assert told.startswith(
        "timm's stripe_net with 10 classes does not take its weights (Unexpected key(s) in state_dict: "
    )
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    judge = ["eval", "stripe_net(width=6)", "--checkpoint", checkpoint, "data.source=digits"]
    told = one_line(*command(*judge, *use))
    assert told == "stripe_net(width=6) is no model as timm's are: it has no forward_features and no forward_head"


def test_a_backbone_of_timm_is_not_taken(tmp_path):
    import timm

    before = {name: timm.models.model_entrypoint(name) for name in ("resnet18", "cresnet20")}
    for name in before:
        path = own_words.written(tmp_path, own_words.IMPORTS + own_words.NET.replace("def stripe_net", f"def {name}"))
        with pytest.raises(WordsError, match=f"backbone '{name}' is timm's or manyview's already"):
            words_of(path)
        path.write_text(path.read_text() + "\nraise OSError\n")  # a file that raises leaves nothing behind either
        with pytest.raises(WordsError, match="OSError"):
            words_of(path)
    assert {name: timm.models.model_entrypoint(name) for name in before} == before
    assert timm.models.get_pretrained_cfg("resnet18").has_weights


# ---------------------------------------------------------------------------------------------------------- installed


def installed(folder, name, text, version="1.2"):
    """A package, installed as pip leaves it."""
    own_words.written(folder / name, text, "__init__.py")
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[manyview.words]\n{name} = {name}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[name]


def test_words_of_an_installed_package(site):
    installed(site, "acme_words", own_words.ALL)
    recipe = parse_recipe(own_words.RECIPE)
    (origin,) = recipe.words.origins
    assert (origin.called, origin.source) == ("acme_words 1.2", None)
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert words_of(sys.modules["acme_words"]) == recipe.words
    path = own_words.written(site, OP + FIRST)
    with pytest.raises(
        WordsError, match=r"words.py: OPS.'speckle'.: installed package acme_words 1.2 has an op 'speckle', too"
    ):
        words_of(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import no_such_package",
            "acme_broken cannot be loaded: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        (OP + "OPS = {'crop': Speckle}", "OPS['crop']: manyview has an op 'crop' already"),
    ],
)
def test_a_package_that_cannot_be_used_is_left_out_and_told(site, text, message):
    installed(site, "acme_broken", text)
    with pytest.warns(ManyviewWarning) as told:
        assert parse_recipe(NET.replace("stripe_net(width=6)", "cresnet20")).words == Words()
    assert message in str(told[0].message)
    assert str(told[0].message).startswith("left out: installed package acme_broken 1.2: ")


# ------------------------------------------------------------------------------------------------------------- workers


def fresh(data, pipe):
    """In a process that has not seen the words file: unpickles a loader's plan, and draws from it."""
    assert not [name for name in sys.modules if name.startswith(PREFIX)]
    plan = pickle.loads(data)
    batch, told = plan[0]
    pipe.send((batch.images["a"].images.sum().item(), type(plan.plan.views["a"].ops[1].op).__module__, told))


@pytest.mark.slow(reason="begins a process from a server, which may have to load torch first")
def test_a_loaders_plan_reaches_a_process_that_knows_no_words(words):
    from manyview.data.loader import Batches

    recipe = loaded(use=words)
    train = open_splits(recipe.data, recipe.seed).train
    plan = _Values(Batches(train, 16, 4, recipe.seed, views=recipe.seen_views, classes=3), None)  # no worker, no desk
    ours, theirs = server().Pipe()
    process = server().Process(target=fresh, args=(pickle.dumps(plan), theirs))
    process.start()
    total, module, told = ours.recv()
    process.join()
    assert module.startswith(PREFIX)
    assert (total, told) == (plan[0][0].images["a"].images.sum().item(), [])


def test_what_a_class_says_of_itself(words, tmp_path):
    assert loaded(use=words).learns_from_labels == ["cross_entropy(logits(a), logits(b))"]
    learns = own_words.ALL.replace("symmetric = True", "learns_from_labels = True")
    recipe = loaded("relations=['pull(z(a), z(b), swapped=True)']", use=own_words.written(tmp_path / "other", learns))
    assert recipe.learns_from_labels == ["pull(z(a), z(b), swapped=True)"]
    assert len(recipe.relation_plan[0].calls) == 2


def test_a_port_is_known_by_its_hint(tmp_path):
    optional = RELATION.replace("b: Port, *", "*, b: Port | None = None").replace("check_alike(a, b)", "")
    optional = optional.replace("b: Reading)", "b: Reading | None = None)").replace("b.value", "(b or a).value")
    path = own_words.written(tmp_path, optional + "RELATIONS = {'pull': Pull}")
    lines = NET.replace("stripe_net(width=6)", "cresnet20").replace("similarity(h(a), h(b))", "LINE")
    assert parse_recipe(lines.replace("LINE", "pull(h(a), b=h(b))"), use=path).relation_plan[0].named_reads
    assert parse_recipe(lines.replace("LINE", "pull(h(a))"), use=path)
    with pytest.raises(RecipeError, match="b is a readout such as h"):
        parse_recipe(lines.replace("LINE", "pull(h(a), b=3)"), use=path)


def test_plans_and_sheets_show_them(words, tmp_path):
    (tmp_path / "mine.yaml").write_text(own_words.RECIPE)
    told = done("plan", tmp_path / "mine.yaml", "--use", words, "--svg", tmp_path / "plan.svg")
    assert "speckle(strength=0.2)" in " ".join(told.split())
    assert "speckle (some " in " ".join(told.split())
    assert "pull" in (tmp_path / "plan.svg").read_text()
    assert "drew 6 images" in done("views", tmp_path / "mine.yaml", "--use", words, "--out", tmp_path / "views.png")


def test_two_files_of_one_name_are_both_kept(tmp_path):
    files = [
        own_words.written(tmp_path / "one", OP + "OPS = {'speckle': Speckle}"),
        own_words.written(tmp_path / "two", RELATION + "RELATIONS = {'pull': Pull}"),
    ]
    run = tmp_path / "a run"
    keep_words(run, words_of(files))
    assert [each.file for each in kept_words(run)] == ["words.py", "words_2.py"]
    check_words(run, words_of([run / "words" / "words_2.py", run / "words" / "words.py"]), exact=True)
    with pytest.raises(RunError) as caught:
        check_words(run, words_of(files[0]), exact=True)
    assert str(caught.value) == (
        f"{run} was made with words of its own (words.py: relation pull); give them: "
        f"--use '{run}/words/words.py' --use '{run}/words/words_2.py'"
    )


def test_a_package_of_another_version(site, tmp_path):
    installed(site, "acme_words", own_words.ALL)
    run = tmp_path / "run"
    keep_words(run, words_of())
    assert kept_words(run)[0].file is None
    newer = words_of().origins[0]
    check_words(run, words_of(), exact=True)
    newer = Words((replace(newer, digest="another", version="1.3", label="installed package acme_words 1.3"),))
    told = f"{run} was made with another acme_words 1.2 than {newer.origins[0].label}; its own: with acme_words 1.2"
    with pytest.raises(RunError) as caught:
        check_words(run, newer, exact=True)
    assert str(caught.value) == f"{told} installed"
    with pytest.raises(RunError, match=r"give them: with acme_words 1.2 installed"):
        check_words(run, Words(), exact=False)


def test_batched_is_one_by_one(words):
    recipe = loaded(use=words)
    step = Step(recipe, 3)
    images = torch.randint(256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    together = step.views(images, index=range(5), epoch=1)["a"]
    for row in range(5):
        alone = step.views(images[row : row + 1], index=[row], epoch=1)["a"]
        assert torch.equal(alone.images[0], together.images[row])
        assert torch.equal(alone.params["speckle"]["grain"][0], together.params["speckle"]["grain"][row])


def test_the_public_names_take_them(words, tmp_path):
    (tmp_path / "mine.yaml").write_text(own_words.RECIPE)
    assert manyview.load_recipe(tmp_path / "mine.yaml", "seed=3", use=[words]) == loaded(use=words)
