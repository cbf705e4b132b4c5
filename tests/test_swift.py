"""What is imported for what: modules are counted, never seconds, in processes that have imported nothing before."""

import ast
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import manyview
from manyview.foundation.environment import PACKAGE
from manyview.optimize.optimize import cosine
from manyview.recipe.texts import argument_kind

HEAVY = "PIL accelerate matplotlib numba numpy scipy simplejpeg sklearn tensorboard timm torch torchvision"
SLOW = "accelerate matplotlib numba scipy sklearn tensorboard timm torchvision torch._dynamo"  # beside torch
LIGHT = 600  # modules, Python's own among them; torch alone brings more than a thousand
CALLS = """
import contextlib, io, json, sys
from manyview.cli import main
told = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["manyview", *words]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as left:
            told.append([words, left.code, out.getvalue(), err.getvalue(), [*sys.modules]])
print(json.dumps(told))
"""


def python(code: str, *arguments: str, cwd: Path | None = None) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def after(commands: list[str], cwd: Path) -> list[tuple[str, int, str, str, set[str]]]:
    """For each command, one after the other in one process: it, its exit code, what it printed, all that is loaded."""
    told = json.loads(python(CALLS, json.dumps([command.split() for command in commands]), cwd=cwd))
    return [(" ".join(words), code, out, err, set(loaded)) for words, code, out, err, loaded in told]


def test_help_lists_and_unknown_names_need_no_torch(tmp_path):
    helps = ["--help", "-h", "--version", "recipes", "recipes quickstart", "train -h", "compare --help"]
    mistakes = [
        "nosuch",
        "recipes nosuch",
        "plan",
        "plan nosuch",
        "plan nosuch.yaml",
        "plan quickstart --svg plan.txt",
        "train nosuch --out run",
        "train quickstart",
        "views nosuch --out views.png",
        "views quickstart --out views.txt",
        "compare nosuch quickstart --out both",
        "predict nosuch image.png",
        "replay nosuch --index 0 --epoch 0 --out seen.png",
        "predict nosuch image.png --format csv",
        "train --resume nosuch",
        "train quickstart --resume",
        "embed nosuch image.png --out features.txt",
        "export nosuch out",
        "report nosuch --out page.html",
        "report . --out page.pdf",
        "watch nosuch",
        "export nosuch out --to onnx",
        "export nosuch out --to tflite",
    ]
    for command, code, out, err, loaded in after([*helps, *mistakes], tmp_path):
        assert (code, bool(out), err.count("\n")) == ((0, True, 0) if command in helps else (2, False, 1)), command
        assert not loaded & {*HEAVY.split()}, command
        assert len(loaded) < LIGHT, command
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_a_recipe_need_torch_at_most(tmp_path):
    mistakes = {
        "plan quickstart views.a.make=crp(8)": "unknown op 'crp'",
        "plan quickstart views.a.make=pad_crop(16,margin=2)": "unknown argument 'margin'",
        "plan quickstart views.c.like=nosuch": "nosuch",
        "train quickstart views.a.make=randaugment(n=0) --out run": "n must be a whole number",
        "plan quickstart trian.epochs=3": "unknown key 'trian'",
        "plan quickstart train.epochs=many": "expected a whole number",
        "train quickstart --epochs 3 --out run": "write train.epochs=3",
    }
    for command, code, out, err, loaded in after([*mistakes], tmp_path):
        assert (code, out) == (2, ""), command
        assert mistakes[command] in err, err
        assert not loaded & {*SLOW.split()}, command
    assert list(tmp_path.iterdir()) == []


def test_the_package_loads_what_is_asked_for():
    code = "import manyview, sys; print(*sys.modules); print(manyview.ManyviewError.__name__, *sys.modules)"
    before, then = [{*line.split()} for line in python(code).splitlines()]
    assert {name for name in before if name.startswith("manyview")} == {"manyview"}
    assert "manyview.errors" in then
    assert "ManyviewError" in then
    assert not then & {*HEAVY.split()}
    assert len(then) < LIGHT


def test_public_names_are_those_that_type_checkers_see():
    tree = ast.parse(Path(manyview.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(guarded.test) == "TYPE_CHECKING"
    seen = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == manyview._HOMES
    assert sorted(seen) == sorted(manyview.__all__)
    assert {*manyview.__all__, "__version__"} <= {*dir(manyview)}
    for name, module in seen.items():
        assert getattr(manyview, name) is getattr(sys.modules[module], name)
    assert manyview.__version__ == version("manyview")
    with pytest.raises(AttributeError, match="module 'manyview' has no attribute 'Setp'"):
        _ = manyview.Setp


def test_texts_in_calls_are_known_where_a_result_is_named_for_type_checkers_alone():
    assert argument_kind(cosine, "per") == "text"
    assert argument_kind(cosine, "floor") is None


def test_what_a_result_depends_on_is_the_whole_package():
    assert Path(manyview.__file__).parent == PACKAGE


def test_python_m_manyview():
    done = subprocess.run([sys.executable, "-m", "manyview", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"manyview {version('manyview')}\n", "")
