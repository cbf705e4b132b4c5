"""The tables, sentences and figures of docs/evidence.md, by one command:  python benchmarks/evidence/tables.py

From runs.jsonl a setting's arms against the better of its baselines, by the mean over seeds that all of these have, or
against the baseline that an arm is a line more than; paired differences with Student's 95 % interval, p-values by Holm
over all arms that were tuned or screened in the setting, and the difference that so many seeds would have found with a
power of 80 % at the corrected level of the least p-value.
From explained.jsonl (see explain.py) what may explain them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from arms import setting_of

from manyview.compare.corrected import detectable, holm
from manyview.compare.figure import INK, MEAN, POINT, save_svg
from manyview.compare.intervals import Difference, paired
from manyview.compare.ledger import read_lines
from manyview.evaluate.report import Table
from manyview.foundation.files import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "evidence.md"
BEGIN, END = "<!-- made by benchmarks/evidence/tables.py -->", "<!-- end -->"
EXPLAINED = "<!-- explained, by benchmarks/evidence/tables.py -->"
LEVEL = 0.05
BESIDE = {"loss": ("loss", ".3f"), "calibration_ece15": ("ECE", ".3f"), "knn": ("kNN", ".2f")}
"""What may explain a difference, where runs have it: measure -> column and form."""
COLUMNS = {
    "train_loss": ("training loss", ".3f"),
    "test_loss": ("test loss", ".3f"),
    "one_view_top1": ("top-1 of one drawn view", ".2f"),
    "averaged_top1": ("of two, averaged", ".2f"),
    "same_class": ("two drawn views agree, %", ".1f"),
    "symmetric_kl": ("their symmetric KL", ".3f"),
    "ece15": ("ECE", ".3f"),
    "gradient_within": ("gradient noise within images", ".1f"),
    "gradient_between": ("between images", ".1f"),
}
"""What explain.py measures -> its column and form."""
OVER = "both over the mean's squared norm"
NO_WORSE, AHEAD_IN, NO_WORSE_IN = -0.3, ("overfitted", "tiny20"), "underfitted"
"""An arm pays where its interval is above 0 in the first two settings and not below the first in the last."""


@dataclass(frozen=True)
class Row:
    """An arm of a setting. values: seed -> primary measure. found: against that baseline, None of the better itself.

    beside: means of BESIDE. power: the difference that would have been found in four of five cases.
    """

    arm: str
    baseline: bool
    values: Mapping[int, float]
    against: str | None
    found: Difference | None
    p_holm: float | None
    power: float | None
    beside: Mapping[str, float]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's, 95 %; None of the better baseline, and of a single seed."""
        return self.found.t if self.found else None

    @property
    def ahead(self) -> bool:
        """Whether its interval lies above 0."""
        return self.interval is not None and self.interval[0] > 0


def settings(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings with runs that claim, in the order of the file; `SETTING/PHASE` chose."""
    return list(dict.fromkeys(line["setting"] for line in lines if line["split"] == "test"))


def arms_of(lines: Sequence[Mapping[str, Any]], setting: str) -> set[str]:
    """All arms that were tuned or screened in a setting, or claimed without."""
    own = (setting, f"{setting}/tune", f"{setting}/screen")
    return {line["recipe"].partition(".")[0] for line in lines if line["setting"] in own} - {
        *setting_of(setting).baselines
    }


def rows(lines: Sequence[Mapping[str, Any]], setting: str, split: str = "test") -> list[Row]:
    """The better baseline first, then the other, then arms by their difference. Empty without a baseline's runs.

    split: "val" for what was screened.
    """
    phase, of = setting if split == "test" else f"{setting}/screen", setting_of(setting)
    own = [line for line in lines if (line["setting"], line["split"]) == (phase, split)]
    values: dict[str, dict[int, float]] = {}
    for line in own:
        if (value := line["measures"].get(of.measure[0])) is not None:
            values.setdefault(line["recipe"], {})[line["seed"]] = value
    known = [name for name in of.baselines if name in values]
    if not known:
        return []
    common = set.intersection(*({*values[name]} for name in known))
    better = max(known, key=lambda name: np.mean([values[name][seed] for seed in common or values[name]]))
    against = {name: of.against.get(name, better) for name in values if name != better}
    pairs = {name: _pairs(values[name], values.get(baseline, {})) for name, baseline in against.items()}
    found = {name: paired(each) if len(each) else None for name, each in pairs.items()}
    tested = {name: each.p if each else None for name, each in found.items() if name not in of.baselines}
    family = max(len(arms_of(lines, setting)), len(tested))
    adjusted = holm(tested, family) if tested else {}
    made = [
        Row(
            name,
            name in of.baselines,
            each,
            against.get(name),
            found.get(name),
            adjusted.get(name),
            _power(pairs[name], family) if name in tested else None,
            _beside([line for line in own if line["recipe"] == name]),
        )
        for name, each in values.items()
    ]
    place = {better: -1, **{name: 0 for name in known if name != better}}
    return sorted(made, key=lambda row: (place.get(row.arm, 1), -(row.found.mean if row.found else 0.0)))


Floats = np.ndarray[Any, np.dtype[np.float64]]


def _pairs(values: Mapping[int, float], baseline: Mapping[int, float]) -> Floats:
    return np.array([values[seed] - baseline[seed] for seed in sorted(values) if seed in baseline])


def _power(pairs: Floats, family: int) -> float | None:
    return detectable(float(pairs.std(ddof=1)), len(pairs), LEVEL / max(1, family)) if len(pairs) > 1 else None


def _beside(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {key: [line["measures"].get(key) for line in lines] for key in BESIDE}
    return {key: float(np.mean(of)) for key, of in found.items() if of and None not in of}


def table(made: Sequence[Row], measure: str, split: str = "test") -> Table:
    """A row an arm. measure: what the primary one is called."""
    to = _to(made)
    beside = {key: name for key, name in BESIDE.items() if any(key in row.beside for row in made)}
    shown = []
    for row in made:
        values = np.array(list(row.values.values()))
        spread = f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")
        found = row.found
        interval = None if row.interval is None else "{:+.2f} to {:+.2f}".format(*row.interval)
        shown.append(
            (
                row.arm,
                len(values),
                spread,
                None if found is None else f"{found.mean:+.2f}" + ("" if to else f" to {row.against}"),
                interval,
                None if found is None else f"{found.higher} of {found.n}",
                _p(row.p_holm),
                None if row.power is None else f"{row.power:.2f}",
                *(format(row.beside[key], form) if key in row.beside else None for key, (_, form) in beside.items()),
            )
        )
    columns = (
        "arm",
        "seeds",
        f"{split} {measure}",
        f"difference to {to}" if to else "difference",
        "95 %",
        "higher on",
        "p (Holm)",
        "power at",
    )
    return Table((*columns, *(f"{split} {name}" for name, _ in beside.values())), tuple(shown))


def _to(made: Sequence[Row]) -> str | None:
    """The baseline that all are compared with; None where arms have their own."""
    found = {row.against for row in made if row.against}
    return made[0].arm if len(found) < 2 else None


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}" if value >= 0.0005 else "< 0.001"


def sentence(made: Sequence[Row], family: int) -> str:
    """What a table says, by rule: how many arms are ahead, how many behind, and what is refuted of the rest."""
    to, arms = _to(made), [row for row in made if not row.baseline and row.interval is not None]
    seeds = sorted({row.found.n for row in arms if row.found})
    ahead = [row for row in arms if row.ahead]
    behind = [row for row in arms if row.interval and row.interval[1] < 0]
    sure = [row for row in ahead if row.p_holm is not None and row.p_holm < LEVEL]
    rest = [row for row in arms if row not in (*ahead, *behind)]
    whom = f"`{to}`" if to else "their baselines"
    parts = [
        f"**{len(ahead)} of {len(arms)} arms {_are(ahead)} ahead of {whom}**{_names(ahead)}",
        f"{len(sure)} also with p (Holm, over {family} that were tried) below {LEVEL}{_names(sure)}",
        f"{len(behind)} {_are(behind)} behind{_names(behind)}",
    ]
    told = f"On {' or '.join(map(str, seeds))} seeds: {'; '.join(parts)}." if arms else "No arm has two seeds yet."
    if rest:
        most = max(row.interval[1] for row in rest if row.interval)
        told += (
            f" The intervals of the other {len(rest)} hold 0; they refute gains above {most:+.2f} and no smaller ones."
        )
    return told


def _are(found: Sequence[Row]) -> str:
    return "is" if len(found) == 1 else "are"


def _names(found: Sequence[Row]) -> str:
    return f" ({', '.join(row.arm for row in found)})" if found else ""


def edge(lines: Sequence[Mapping[str, Any]], setting: str) -> str | None:
    """What a rate beyond the largest that was tried changes on validation, of the arms that ran with it."""
    measure, told = setting_of(setting).measure[0], []
    for arm in dict.fromkeys(line["recipe"] for line in lines if line["setting"] == f"{setting}/edge"):
        at: dict[str, dict[int, float]] = {"screen": {}, "edge": {}}
        for phase, values in at.items():
            own = (line for line in lines if (line["setting"], line["recipe"]) == (f"{setting}/{phase}", arm))
            values |= {line["seed"]: line["measures"][measure] for line in own}
        pairs = _pairs(at["edge"], at["screen"])
        if len(pairs) and (found := paired(pairs)).t is not None:
            told.append(f"`{arm}` {found.mean:+.2f} ({found.t[0]:+.2f} to {found.t[1]:+.2f})")
    return f"At twice the largest rate that was tried, on the screening's seeds: {', '.join(told)}." if told else None


def verdict(lines: Sequence[Mapping[str, Any]]) -> str:
    """Which arms pay, of those that claimed in all settings that are asked."""
    found = {setting: {row.arm: row for row in rows(lines, setting)} for setting in (*AHEAD_IN, NO_WORSE_IN)}
    first = found[AHEAD_IN[0]]
    arms = [arm for arm, row in first.items() if not row.baseline and all(arm in of for of in found.values())]
    if not arms:
        return "No arm has claimed in all of " + ", ".join(f"`{setting}`" for setting in found) + " yet."
    least = {arm: found[NO_WORSE_IN][arm].interval or (-np.inf, np.inf) for arm in arms}
    pays = [arm for arm in arms if all(found[setting][arm].ahead for setting in AHEAD_IN) and least[arm][0] >= NO_WORSE]
    asked = f"{' and '.join(f'`{setting}`' for setting in AHEAD_IN)}, and not below {NO_WORSE} in `{NO_WORSE_IN}`"
    return f"Interval above 0 in {asked}: **{', '.join(pays) or 'none'}** of {', '.join(arms)}."


def explained(lines: Sequence[Mapping[str, Any]], explanations: Sequence[Mapping[str, Any]]) -> str:
    """A table a setting of what explain.py found, means over seeds, in the order of the setting's own table."""
    parts = []
    for setting in dict.fromkeys(each["setting"] for each in explanations):
        own = [each for each in explanations if each["setting"] == setting]
        known = [row.arm for row in rows(lines, setting)]
        arms = sorted(
            {each["arm"] for each in own}, key=lambda arm: (known.index(arm) if arm in known else len(known), arm)
        )
        shown = []
        for arm in arms:
            of = [each for each in own if each["arm"] == arm]
            means = {key: _mean([each.get(key) for each in of]) for key in COLUMNS}
            cells = (None if value is None else format(value, COLUMNS[key][1]) for key, value in means.items())
            shown.append((arm, len({each["seed"] for each in of}), *cells, _over(of)))
        table = Table(("arm", "seeds", *(name for name, _ in COLUMNS.values()), OVER), tuple(shown))
        parts += [f"### {setting}: what may explain it", table.markdown()]
    return "\n\n".join(parts) or "Nothing was looked into yet."


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if all(isinstance(value, int | float) for value in values) else None


def _over(of: Sequence[Mapping[str, Any]]) -> str | None:
    """Both noises over the squared norm; None unless that is above 0 by more than two standard errors of its seeds."""
    norms = np.array([each.get("gradient_norm2", np.nan) for each in of], dtype=np.float64)
    if len(norms) < 2 or not norms.mean() > 2 * norms.std(ddof=1) / np.sqrt(len(norms)):
        return None
    within, between = (np.mean([each[f"gradient_{where}"] for each in of]) for where in ("within", "between"))
    return f"{within / norms.mean():.0f}, {between / norms.mean():.0f}"


def _compared(made: Sequence[Row]) -> list[Row]:
    return [row for row in made if row.found is not None]


def draw(setting: str, made: Sequence[Row]) -> Figure:
    """Differences to the baseline with their intervals, a row an arm; other baselines are grey.

    Full points have a p below 0.05 by Holm; all else may be chance among so many arms.
    """
    from matplotlib.figure import Figure

    compared = _compared(made)
    figure = Figure(figsize=(7.5, 1.3 + 0.3 * len(compared)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(compared):
        assert row.found is not None
        color = POINT if row.baseline else MEAN
        full = row.baseline or (row.p_holm is not None and row.p_holm < LEVEL)
        if row.interval is not None:
            axes.plot(row.interval, [place, place], "-", color=color, lw=1.5)
        axes.plot([row.found.mean], [place], "o", color=color, ms=5.5, mfc=color if full else "white")
        told = f"{row.found.mean:+.2f}  (n {row.found.n})"
        axes.text(1.02, place, told, color=INK, fontsize=8, va="center", transform=axes.get_yaxis_transform())
    axes.axvline(0, color=INK, lw=0.8)
    names = [f"{row.arm} (baseline)" if row.baseline else row.arm for row in compared]
    axes.set_yticks(range(len(compared)), names, fontsize=9)
    axes.set_ylim(len(compared) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    measure, to = setting_of(setting).measure[1], _to(made) or "an arm's own baseline"
    axes.set_xlabel(f"points of test {measure} beyond {to}, 95 %; full: p (Holm) below {LEVEL}", fontsize=9)
    axes.set_title(setting, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def text(lines: Sequence[Mapping[str, Any]]) -> str:
    """What stands in the page between its marks."""
    parts = []
    for setting in settings(lines):
        made, measure = rows(lines, setting), setting_of(setting).measure[1]
        if made:
            arms = len(arms_of(lines, setting))
            parts += [f"### {setting}", sentence(made, arms), table(made, measure).markdown()]
            parts += [f"![Differences in {setting}](evidence_{setting}.svg)"] if _compared(made) else []
        if screening := rows(lines, setting, "val"):
            parts += [
                f"Screening, on validation, which chose the arms above and proves nothing ({setting}):",
                table(screening, measure, "val").markdown(),
            ]
        if beyond := edge(lines, setting):
            parts.append(beyond)
    return "\n\n".join([*parts, verdict(lines)]) if parts else "No run has claimed yet."


def read_explained(path: Path) -> list[dict[str, Any]]:
    """The lines of explain.py, the last of those of one run; none where there is no file."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []
    return [*{(line["setting"], line["arm"], line["seed"]): line for line in lines}.values()]


def main() -> None:
    """Writes the page's tables, and a figure a setting beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=HERE / "runs.jsonl")
    parser.add_argument("--explained", type=Path, default=HERE / "explained.jsonl")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    lines, page = read_lines(args.runs), args.page.read_text(encoding="utf-8")
    for begin, made in {BEGIN: text(lines), EXPLAINED: explained(lines, read_explained(args.explained))}.items():
        marked = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
        assert marked.search(page), f"{args.page} has no place for tables: {begin} … {END}"
        page = marked.sub(lambda _, begin=begin, made=made: f"{begin}\n\n{made}\n\n{END}", page)
    for setting in settings(lines):
        if _compared(found := rows(lines, setting)):
            figure = draw(setting, found)
            write_atomically(args.page.parent / f"evidence_{setting}.svg", lambda path, fig=figure: save_svg(fig, path))
    write_text(args.page, page)
    print(f"wrote {args.page}: {len(lines)} runs")


if __name__ == "__main__":
    main()
