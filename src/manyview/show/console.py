"""Lines for a terminal of any width: what matters most is never cut, no word is broken, nothing stands in half."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.segment import Segment

LEAST_BAR, MOST_BAR = 8, 40
TIE = "\N{NO-BREAK SPACE}"  # between words that stay on one line


def wrapped(text: str, width: int, indent: int = 0) -> str:
    """Text in lines of at most `width`, all but the first indented; words longer than that stay whole."""
    lines = textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True, replace_whitespace=False,
    )  # fmt: skip
    return "\n".join(lines).replace(TIE, " ")


def tied(parts: Sequence[str]) -> str:
    """Parts side by side, each of which `wrapped` leaves whole."""
    return "  ".join(part.replace(" ", TIE) for part in parts)


class Row(ProgressColumn):
    """A task's whole row: name, bar, steps, time left, and its field `measures`, the most important first.

    Where the width does not take all, measures go first, from the end, then the bar and the name; never the steps and
    the time.
    """

    max_refresh = None

    def render(self, task: Task) -> _Line:
        """What is known of the task now; until there is a speed, how long it has taken."""
        total = None if task.total is None else int(task.total)
        steps = f"{int(task.completed):,}/{'?' if total is None else f'{total:,}'}"
        left, measures = task.time_remaining, tuple(task.fields.get("measures", ()))
        if left is not None:
            time = f"{timedelta(seconds=int(left))} left"
            rate = task.speed or 0.0
            waiting = f"{rate:,.0f} steps/s" if rate >= 10 else f"{rate:.2g} steps/s" if rate >= 1 else ""
            measures = measures or ((waiting or f"{1 / rate:.1f} s a step",) if rate else ())
        else:
            time = f"{timedelta(seconds=int(task.elapsed or 0))} so far"
            measures = measures or ("in the first step",)
        share = (task.completed, task.total or 1)
        return _Line(task.description, steps, time, measures, share)


class _Line:
    """One line of pieces, as many as the width takes."""

    def __init__(self, name: str, steps: str, time: str, measures: Sequence[str], share: tuple[float, float]) -> None:
        self._name, self._steps, self._time, self._measures, self._share = name, steps, time, measures, share

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width
        must = f"{self._steps}  {self._time}"
        if len(must) > room:
            yield Segment(self._steps[:room])
            return
        room -= len(must)
        name = f"{self._name}  " if len(self._name) + 2 <= room else ""
        room -= len(name)
        shown: list[str] = []
        for number, measure in enumerate(self._measures):
            # the first two are worth more than the bar
            if len(measure) + 2 > room - (LEAST_BAR + 2 if number > 1 else 0):
                break
            shown.append(f"  {measure}")
            room -= len(measure) + 2
        yield Segment(name)
        if room >= LEAST_BAR + 2:
            width = min(MOST_BAR, room - 2)
            bar = ProgressBar(total=self._share[1], completed=self._share[0], width=width)
            drawn = list(console.render(bar, options.update(width=width)))
            yield from drawn
            yield Segment(" " * (width + 2 - Segment.get_line_length(drawn)))  # without colours what is left is blank
        yield Segment(must + "".join(shown))
