"""What a result depends on beside the recipe: the code's commit and the libraries' versions."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGE = Path(__file__).parent.parent  # all of manyview, not this room alone
LIBRARIES = ("manyview", "torch", "torchvision", "timm", "accelerate", "numpy")


def git_commit() -> str | None:
    """The commit of manyview's checkout, `-dirty` where files differ; None where it was installed without one."""
    here = PACKAGE / "__init__.py"
    try:
        # a repository around the place of installation is somebody else's
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        commit, changed = _git(here.parent, "rev-parse", "HEAD"), _git(here.parent, "status", "--porcelain", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def best_device() -> str:
    """Where to evaluate: a GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache
def code() -> str:
    """A digest of manyview's own source files, whose version stays the same from commit to commit."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def versions(*more: str) -> dict[str, str]:
    """Library -> version, Python included; more: names of other libraries."""
    found = {"python": platform.python_version()}
    for library in (*LIBRARIES, *more):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found
