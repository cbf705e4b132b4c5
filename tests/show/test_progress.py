"""What a terminal of any width shows: steps and time left always, nothing cut in half, no word broken."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from manyview.show import display as shown_by
from manyview.show.display import Display

TERMS = {"cross_entropy": 1.1, "similarity": 0.12, "augself": 0.3, "joint_cross_entropy": 3.2}
RESULT = {
    "val": {"top1": 90.123, "robustness(severities=(1, 3, 5), by='classifier')": 3.0},
    "eval": {"top1": 91.2},
    "eval_split": "test",
    "seconds": 8.2,
    "images_per_second": 481.2,
    "waiting": 0.8,
    "selected_by": "validation top1",
    "skipped_images": ["photos/cat/1.jpg: the file is empty"],
}


def terminal(width: int) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False, markup=False,
        _environ={},
    )  # fmt: skip


def bars(display: Display, width: int) -> list[str]:
    """The bars as they stand on the screen, a line a task."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, markup=False, _environ={})
    console.print(display._bar.get_renderable())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def begun(width: int) -> Display:
    display = Display(console=terminal(width))
    display._total = 45_000
    return display


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
def test_steps_and_time_survive_at_every_width(width):
    display = begun(width)
    with display.training():
        (line,) = bars(display, width)
        assert "0/45,000  0:00:00 so far" in line
        display.advance(1)
        display.advance(20)
        (line,) = bars(display, width)
        assert re.search(r"20/45,000  \d+:\d\d:\d\d left", line)
        display.advance(1200, 481.3, 1.2345, TERMS)
        (line,) = bars(display, width)
        assert re.search(r"1,200/45,000  \d+:\d\d:\d\d left", line)
        assert len(line) <= width
        with display.evaluating("robustness(severities=(1, 3, 5)) of test", 5000) as tick:
            tick(300, 5000)
            train, evaluation = bars(display, width)
            assert "1,200/45,000" in train
            assert re.search(r"300/5,000  \d+:\d\d:\d\d (left|so far)", evaluation)


def test_long_work_is_told_once_where_there_is_no_bar(monkeypatch, capsys):
    monkeypatch.setattr(shown_by, "TOLD_AFTER", -1)
    for quiet in (False, True):
        with Display(quiet).evaluating("knn of val", 5000) as tick:
            tick(250, 5000)
            tick(500, 5000)
        out, err = capsys.readouterr()
        assert out == ""
        line = r"manyview: knn of val: 250 of 5,000 images, [\d,]+ images/s, .+ to go\n"
        assert re.fullmatch("" if quiet else line, err)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_measures_stand_whole_or_not_at_all(width):
    display = begun(width)
    pieces = ["loss 1.234", "481 images/s", *(f"{name} {value:.3f}" for name, value in TERMS.items())]
    with display.training():
        display.advance(1)
        display.advance(1200, 481.3, 1.2345, TERMS)
        (line,) = bars(display, width)
    shown = re.split(r" {2,}", line)
    assert [piece for piece in shown if piece in pieces] == pieces[: sum(piece in pieces for piece in shown)]
    assert {"loss 1.234", "481 images/s"} <= set(shown)
    told = [piece for piece in shown if not re.fullmatch(r"[━╸╺ ]*", piece)]
    assert all(piece in pieces or piece == "train" or re.match(r"1,200/|\d+:\d\d:\d\d left", piece) for piece in told)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_something_is_told_before_the_first_loss(width):
    display = begun(width)
    with display.training():
        (line,) = bars(display, width)
        assert "-:--:--" not in line
        assert line.endswith("in the first step")
        display.advance(1)
        display.advance(5)
        (line,) = bars(display, width)
        assert re.search(r"left  [\d.,]+ (steps/s|s a step)$", line)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_word_of_the_lines_is_broken(width):
    display = begun(width)
    folder = Path("runs/a-long-folder-name/that-goes-on-and-on/and-on-until-it-is-longer-than-the-line/photos")
    display.epoch(3, {"top1": 88.12}, TERMS)
    display.summary(folder, RESULT)
    printed = display._console.file.getvalue()
    for whole in ("val top-1 88.12", *(f"{name} {value:.3f}" for name, value in TERMS.items())):
        assert whole in printed
    assert str(folder / "result.json") in printed
    assert all(len(line) <= width for line in printed.splitlines() if str(folder) not in line)
    words = set(printed.split())
    assert {"481", "images/s,", "waiting", "data;", "weights", "validation", "top1;", "results"} <= words
    assert "1 image could not be read and was skipped:" in printed


def test_away_from_a_terminal_a_line_is_a_line():
    console = Console(file=io.StringIO(), width=40, highlight=False, markup=False)
    Display(console=console).epoch(3, {"top1": 88.12}, TERMS)
    expected = (
        "epoch   3  cross_entropy 1.100  similarity 0.120  augself 0.300  joint_cross_entropy 3.200  val top-1 88.12"
    )
    assert console.file.getvalue() == expected + "\n"
