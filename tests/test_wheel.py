"""The wheel, built, installed into an environment of its own, and used outside the repository. Nothing is downloaded.

It takes some ten seconds: a build, an installation, and one new process that imports torch and timm.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from manyview.load import packaged_recipes

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
# floats, since grey levels would have all kernels compiled for the new place, which takes twenty seconds
STEP = """
import torch
import manyview
from manyview.data import open_splits

recipe = manyview.load_recipe("quickstart")
train = open_splits(recipe.data, recipe.seed).train
step = manyview.Step(recipe, num_classes=10, total_steps=1)
images = torch.stack([train.read(n) for n in range(8)]).float() / 255
optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
before = [weight.clone() for weight in step.parameters()]
out = step(images, torch.tensor(train.labels[:8]), index=range(8), epoch=0)
out["loss"].backward()
optimizer.step()
print(manyview.__file__, bool(out["loss"].isfinite()), any(
    not torch.equal(old, new) for old, new in zip(before, step.parameters())
))
"""


def run(*command, cwd: Path) -> str:
    """What a command prints that must succeed; it sees nothing of the repository but what is installed."""
    free = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=free, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.skipif(
    # find_spec('pip') would have setuptools leave distutils to Python in this process, on which torch's compiler fails
    not {"hatchling", "pip"} <= {found.metadata["Name"].lower() for found in distributions()},
    reason="a wheel is built offline by pip and hatchling, and one of them is not installed",
)
def test_a_wheel_runs_outside_the_repository(tmp_path):
    built = tmp_path / "built"
    run(*PIP, "wheel", ROOT, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", built, cwd=tmp_path)
    (wheel,) = built.glob("manyview-*.whl")
    inside = {name.removeprefix("manyview/") for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "src" / "manyview"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert inside == {name for name in files if "__pycache__" not in name}
    assert {f"recipes/{name}.yaml" for name in packaged_recipes()} | {"py.typed"} <= inside

    home = tmp_path / "home"
    venv.EnvBuilder().create(home)
    base = {"base": str(home), "platbase": str(home)}
    site, scripts = Path(sysconfig.get_path("purelib", "venv", base)), Path(sysconfig.get_path("scripts", "venv", base))
    outer = [folder for folder in sys.path if folder.endswith("-packages")]
    # with what lies there, but not what their own .pth files add, such as this checkout
    (site / "outer.pth").write_text("\n".join(outer), encoding="utf-8")
    python = scripts / Path(sys.executable).name
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)

    listed = run(scripts / "manyview", "recipes", cwd=tmp_path)
    assert [line.split()[0] for line in listed.splitlines()[1:] if line[:1].strip()] == [*packaged_recipes()]
    place, *told = run(python, "-c", STEP, cwd=tmp_path).split()
    assert Path(place).is_relative_to(site)
    assert told == ["True", "True"]
