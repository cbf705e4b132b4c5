"""The entry point: every command by its name, and how a command ends."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer

from manyview.cli.compare import compare
from manyview.cli.data import check, pack
from manyview.cli.embed import embed
from manyview.cli.export import export
from manyview.cli.importing import import_
from manyview.cli.judge import evaluate, predict
from manyview.cli.look import replay, views
from manyview.cli.new import new
from manyview.cli.recipes import plan, recipes
from manyview.cli.report import report, watch
from manyview.cli.runs import diff, runs
from manyview.cli.selftest import selftest
from manyview.cli.speech import tell
from manyview.cli.train import train
from manyview.errors import Interrupted, ManyviewError, ManyviewWarning, reason
from manyview.foundation.vocabulary import own_fault
from manyview.show.usage import USAGE, usage_line

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
GROUP = "manyview.foundation.group"
FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk
STOPPED = 130  # the exit code of a command that Ctrl-C ended: 128 and the number of the signal
COMMANDS: dict[str, tuple[Callable[..., None], Sequence[str]]] = {
    "recipes": (recipes, ["manyview recipes", "manyview recipes quickstart"]),
    "plan": (plan, ["manyview plan tied_cifar10 train.epochs=10", "manyview plan quickstart --svg plan.svg"]),
    "train": (
        train,
        [
            "manyview train quickstart --out runs/first",
            "manyview train quickstart data.source=cifar10 data.root=data --out runs/c10",
            "manyview train --resume runs/first",
        ],
    ),
    "eval": (
        evaluate,
        [
            "manyview eval runs/first linear 'knn(k=5)' --split test",
            "manyview eval resnet18 --checkpoint weights.pt data.source=digits",
        ],
    ),
    "predict": (predict, ["manyview predict runs/first cat.jpg photos --top 3 --out classes.csv"]),
    "embed": (
        embed,
        [
            "manyview embed runs/first photos cat.jpg --out features.npz",
            "manyview embed runs/first --split test --out test.parquet",
        ],
    ),
    "views": (
        views,
        ["manyview views quickstart --out views.png", "manyview views quickstart cat.jpg --out cat-views.png"],
    ),
    "replay": (replay, ["manyview replay runs/first --index 3 --epoch 0 --out seen.png"]),
    "runs": (runs, ["manyview runs", "manyview runs runs --sort best"]),
    "diff": (diff, ["manyview diff runs/first runs/second"]),
    "compare": (
        compare,
        ["manyview compare quickstart quickstart@b b:train.optimizer.lr=0.05 --out ab"],
    ),
    "report": (
        report,
        ["manyview report runs/first --out first.html", "manyview report runs/compared --out compared.html"],
    ),
    "watch": (watch, ["manyview watch runs/first", "manyview watch runs --port 0"]),
    "export": (
        export,
        ["manyview export runs/first exported", "manyview export runs/sla exported --to onnx --aggregate"],
    ),
    "import": (
        import_,
        [
            "manyview import moco_v2_800ep_pretrain.pth.tar imported",
            "manyview import model.pth imported --as timm --backbone 'convnext_tiny'",
        ],
    ),
    "selftest": (selftest, ["manyview selftest", "manyview selftest dino_imagenet --processes 4 --shard"]),
    "data pack": (
        pack,
        [
            "manyview data pack folder shards data.root=photos",
            "manyview data pack cifar10 shards data.root=data --shard-size 200MB",
        ],
    ),
    "data check": (check, ["manyview data check folder data.root=photos", "manyview data check digits --json"]),
    "new": (new, ["manyview new op speckle", "manyview new relation pull --out words.py"]),
}
"""Name -> what it does, and examples, which its --help shows, each short enough for a line of 80 characters."""
GROUPS = {"data": "Data sets themselves: packed into shards, looked through."}
"""First word of commands that have two -> what they are about."""
groups = {name: typer.Typer(no_args_is_help=True, help=said) for name, said in GROUPS.items()}
for name, (command, examples) in COMMANDS.items():
    said = "Example:" if len(examples) == 1 else "Examples:"
    group, _, own = name.rpartition(" ")
    (groups[group] if group else app).command(own, epilog="\n\n".join([said, *examples]))(command)
for name, inner in groups.items():
    app.add_typer(inner, name=name)


def main() -> None:
    """Entry point: see `_run`. A process of a group ends as one of a group has to."""
    try:
        code = _run()
    except Exception:
        if (group := sys.modules.get(GROUP)) is None or group.alone():
            raise
        sys.excepthook(*sys.exc_info())  # a fault of ours, as Python would tell it
        code = 1
    if (group := sys.modules.get(GROUP)) is not None:  # else there is none, nor torch
        group.end(code)
    sys.exit(code)


def _run() -> int:
    """The exit code of the command: users' mistakes are one line on stderr and code 2, and doubts one line each."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # what its encoding lacks must not end a run; typer.echo would write UTF-8 where ASCII was asked for
            stream.reconfigure(errors="backslashreplace")
    atexit.register(gc.freeze)  # Python's last search for circles would take a third of a second through torch
    usual = warnings.showwarning
    told_once: set[str] = set()  # a recipe may be read twice on the way

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, ManyviewWarning):
            if str(message) not in told_once and os.environ.get("RANK", "0") == "0":  # the first of a group tells
                tell(f"warning: {message}")
            told_once.add(str(message))
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            code = app(prog_name="manyview", standalone_mode=False) or 0
        except Interrupted as error:
            told, code = str(error) if error.tells else "", error.code
        except ManyviewError as error:
            told, code = str(error) if error.tells else "", 2
        except USAGE as error:
            told, code = usage_line(error, _as_override), 2
        except OSError as error:
            if error.errno not in FULL:
                raise
            told, code = f"cannot write: {reason(error)}", 2
        except Exception as error:  # of a words file: its author wants the line, not our frames around it
            if (own := own_fault(error)) is None:
                raise
            told, code = own, 2
        else:
            told = "stopped" if code == STOPPED else ""
    if told:
        tell(told)
    return code


def _as_override(key: str, value: str) -> str:
    from manyview.load import as_override

    return as_override(key, value)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"manyview {version('manyview')}")
        raise typer.Exit


@app.callback()
def options(
    asked: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train vision models on several augmented views of each image."""
