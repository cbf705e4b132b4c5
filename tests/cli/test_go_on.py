"""Going on with a run by its folder alone, and what a person is told when it is stopped or ends."""

import contextlib
import errno
import io
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commands import contents, done, manyview, one_line
from manyview.cli.speech import ringing
from manyview.cli.train import again
from manyview.errors import Interrupted, RunError
from manyview.foundation.files import read_state
from manyview.show.display import Display
from manyview.training.interrupt import interruptible

TINY = ("train.steps=3", "train.batch_size=16", "train.schedule=cosine()", "data.limit=60", "train.log_every=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a run=1"
    done("train", "quickstart", *TINY, "--out", out)
    return out


@pytest.fixture
def unfinished(trained, tmp_path) -> Path:
    """As a run is left that was stopped behind its last step, before it was measured."""
    folder = Path(shutil.copytree(trained, tmp_path / "a run=1"))
    (folder / "result.json").unlink()
    return folder


def measured(folder):
    result = json.loads((folder / "result.json").read_text())
    return {key: result[key] for key in ("recipe", "steps", "eval", "val")}


@pytest.mark.parametrize(
    "words",
    [
        *("--resume RUN", "RUN --resume", "quickstart {TINY} --resume RUN", "RUN quickstart {TINY} --resume"),
        *("--resume RUN data.workers=1", "data.workers=1 --resume RUN", "--resume auto RUN"),
    ],
)
def test_a_run_goes_on_by_its_folder(trained, unfinished, words):
    said = [w for word in words.split() for w in (TINY if word == "{TINY}" else [word])]
    printed = done("train", *(unfinished if word == "RUN" else word for word in said))
    assert printed.startswith("resumed at step 3 of 3\n")
    assert measured(unfinished) == measured(trained)
    before = contents(unfinished)
    assert done("train", "--resume", unfinished) == f"{unfinished} is finished; nothing to do\n"
    assert done("train", "--resume", unfinished, "--quiet") == ""
    assert contents(unfinished) == before


def test_what_cannot_go_on_is_told(unfinished, tmp_path):
    refused = lambda *words: one_line(*manyview("train", *words))  # noqa: E731
    before = contents(tmp_path)
    assert refused("--resume", tmp_path / "no") == f"{tmp_path / 'no'} is no run: it has no recipe.yaml"
    assert refused("quickstart", "--resume", tmp_path / "no") == f"{tmp_path / 'no'} is no run: it has no recipe.yaml"
    hint = "quickstart is a recipe, not a run; write --resume RUN, or train quickstart --out RUN --resume"
    assert refused("quickstart", "--resume") == refused("--resume", "quickstart") == hint
    told = "override 'train.steps=9': a trained run is fixed; what may differ: "
    further = f"; a new run goes on from its weights with branches.net.backbone.init={unfinished}"
    line = refused("--resume", unfinished, "train.steps=9")
    assert line.startswith(told)
    assert line.endswith(further)
    other = f"{unfinished} was made by another recipe: train.steps: 3 -> 4{further}"
    assert refused("quickstart", *TINY[1:], "train.steps=4", "--resume", unfinished) == other
    many = "--resume takes one run, and no more than a recipe beside it; got"
    assert refused("a", "b", "c", "--resume") == f"{many} a, b, c"
    assert refused("train.steps=9", "--resume") == f"{many} none"
    assert contents(tmp_path) == before


# ------------------------------------------------------------------------------------------------------------ Ctrl-C


@pytest.mark.slow(reason="an interpreter of its own, on a terminal of its own")
def test_ctrl_c_says_how_to_go_on(tmp_path):
    folder = tmp_path / "it's a run"
    command = [
        sys.executable,
        "-m",
        "manyview",
        "train",
        "quickstart",
        *TINY[1:],
        "train.optimizer.lr=0.1",
        "train.epochs=2000",
    ]
    command += ["train.checkpoint_every=1000 epochs", "--out", str(folder)]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MANYVIEW_BELL": "0"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=environment, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    os.close(theirs)
    lines = [process.stdout.readline().decode()]
    while not lines[-1].startswith("epoch   2"):
        lines.append(process.stdout.readline().decode())
        assert lines[-1], lines
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read().decode()
    assert process.wait(60) == 130
    told = os.read(ours, 10_000).decode()
    os.close(ours)
    number = read_state(folder / "checkpoints" / "last.pt")["run"]["number"]
    how = f"manyview train --resume {shlex.quote(str(folder))}"
    assert told == f"manyview: stopped at step {number}; continue with: {how}\r\n", "and no bell: somebody is there"
    assert rest.count("stopping after this step; Ctrl-C again ends at once\n") == 1
    assert shlex.split(how)[-1] == str(folder)


def test_the_first_signal_is_noted_and_the_second_ends_at_once():
    noted = []
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has none
    before = signal.getsignal(signal.SIGINT)
    with interruptible(noted.append) as asked:
        assert asked() == 0
        signal.raise_signal(signal.SIGINT)
        assert (asked(), noted) == (signal.SIGINT, [signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert noted == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) == before
    signal.signal(signal.SIGINT, found)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("SIGINT", "; Ctrl-C again ends at once"),
        ("SIGTERM", "; SIGTERM once more, 5 s from now, ends at once"),
        ("SIGUSR1", ""),
    ],
)
def test_what_the_same_signal_would_do_is_said(name, ends, capsys):
    Display().stopping(getattr(signal, name))
    assert capsys.readouterr().out == f"stopping after this step{ends}\n"


def test_a_scheduler_s_signal_that_a_launcher_passes_on_too_is_one():
    with interruptible() as asked:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert asked() == signal.SIGTERM


def test_a_signal_that_comes_before_anything_is_begun_requeues_too(tmp_path, monkeypatch):
    monkeypatch.setattr("manyview.cli.train.load", lambda *given: signal.raise_signal(signal.SIGUSR1))
    before = signal.getsignal(signal.SIGUSR1)
    code, out, err = manyview("train", "quickstart", "--out", tmp_path / "run")
    assert (code, out, err) == (75, "", "manyview: stopped\n")
    assert signal.getsignal(signal.SIGUSR1) == before
    assert not (tmp_path / "run").exists()


def test_what_is_to_be_typed_next(monkeypatch):
    folder, words = Path("it's a run"), Path("my words.py")
    line = again(folder, [words])
    assert shlex.split(line.removeprefix("continue with: ")) == [
        "manyview", "train", "--resume", "it's a run", "--use", "my words.py"
    ]  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert again(Path("runs/a"), []) == "continue under the same launcher with: manyview train --resume runs/a"


class Closed(io.StringIO):
    """A pipe whose reader has gone after the first line."""

    def write(self, text: str) -> int:
        if self.getvalue().count("\n"):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        return super().write(text)

    def fileno(self) -> int:
        """What rich points elsewhere then."""
        return self.elsewhere


def test_a_closed_pipe_ends_training_with_a_word(tmp_path):
    stream = Closed()
    stream.elsewhere = os.open(os.devnull, os.O_WRONLY)
    code, out, err = manyview("train", "quickstart", *TINY, "--out", tmp_path / "run", stdout=stream)
    os.close(stream.elsewhere)
    assert (code, out.count("\n")) == (141, 1)
    told = "stopped, since nobody reads any more what it prints; continue with: manyview train --resume"
    assert err == f"manyview: {told} {tmp_path / 'run'}\n"


class Full(io.StringIO):
    """A file on a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_a_line():
    assert one_line(*manyview("recipes", stdout=Full())) == "cannot write: No space left on device"


@pytest.mark.parametrize("words", [["recipes"], ["plan", "quickstart"], ["train", "--help"]])
def test_no_colours_where_there_is_no_terminal(words):
    assert "\x1b" not in done(*words)


# ----------------------------------------------------------------------------------------------------- the bell


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


def rung(stream: io.StringIO, error: BaseException | None = None, quiet: bool = False) -> str:
    ended = contextlib.suppress(type(error or ValueError()))
    with contextlib.redirect_stderr(stream), ended, ringing("training", quiet):
        if error is not None:
            raise error
    return stream.getvalue()


def test_the_bell_rings_on_a_terminal_behind_long_work(monkeypatch):
    assert rung(Terminal()) == "", "no minute has passed"
    monkeypatch.setenv("MANYVIEW_BELL", "0")
    assert rung(Terminal()) == "\amanyview: training finished after 0 s\n"
    assert rung(Terminal(), RunError("no")) == "\amanyview: training failed after 0 s\n"
    assert rung(Terminal(), Interrupted("asked")) == rung(Terminal(), KeyboardInterrupt()) == ""
    assert rung(Terminal(), quiet=True) == rung(io.StringIO()) == ""
    monkeypatch.setenv("MANYVIEW_BELL", "never")
    assert rung(Terminal()) == ""


def test_a_bell_that_cannot_be_meant_is_told_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYVIEW_BELL", "loud")
    message = one_line(*manyview("train", "quickstart", *TINY, "--out", tmp_path / "run"))
    assert message == "MANYVIEW_BELL=loud: seconds after which the bell rings, or never"
    assert contents(tmp_path) == {}
