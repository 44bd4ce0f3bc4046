"""Runs side by side: what they have in common, what differs, their figures; as text and as LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from mad import terminal
from mad.config import describe
from mad.errors import MadError
from mad.runtime.tracking import text_of
from mad.stages._base import chain_config, upstream

FIRST = ("run", "id", "detector", "supervised")
"""Columns before parameters and figures."""
ALWAYS = ("task.dataset",)
"""Parameters that are told even at their default, beside the plug-ins chosen."""
NAMES = {"auroc": "AUROC", "ap": "AP", "fpr95": "FPR95", "flagged": "flagged"}
LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},  # other signs in LaTeX's first encoding
}


@dataclass(frozen=True)
class Table:
    """Runs side by side, the best first.

    Attributes:
        rows: one line per run: run, id, detector, supervised, parameters by dotted name, metrics.
        figures: columns of ``rows`` that are metrics; ``X_low`` and ``X_high`` hold the interval of X.
        same: parameters that are equal in all rows.
        varied: parameters that all rows have and that differ.
        partial: the others: parameters that some rows lack, such as options of a plug-in.
    """

    rows: pd.DataFrame
    figures: list[str]
    same: dict[str, str]
    varied: list[str]
    partial: list[str]

    @property
    def points(self) -> list[str]:
        """The figures without the ends of intervals."""
        ends = {f"{name}_{end}" for name in self.figures for end in ("low", "high")}
        return [name for name in self.figures if name not in ends]


def make_table(rows: list[dict[str, Any]], wanted: Iterable[str]) -> Table:
    """Lay runs side by side.

    Args:
        rows: run, id, detector, supervised, parameters as text, and ``metrics``.
        wanted: metrics, and (ending in _) beginnings of metrics; the first orders the rows.
    """
    figures: list[str] = []
    logged = {name for row in rows for name in row["metrics"]}
    for name in wanted:
        begun = sorted(n for n in logged if n.startswith(name)) if name.endswith("_") else [name]
        figures += [n for first in begun for n in (first, f"{first}_low", f"{first}_high") if n in logged]
    names = sorted({name for row in rows for name in row} - {*FIRST, "metrics"})
    frame = pd.DataFrame([{**row, **row["metrics"]} for row in rows], columns=[*FIRST, *names, *figures])
    if figures:
        frame = frame.sort_values(figures[0], ascending=False, kind="stable", na_position="last", ignore_index=True)
    whole = [name for name in names if frame[name].notna().all()]
    same = {name: str(frame[name].iloc[0]) for name in whole if frame[name].nunique() == 1}
    return Table(frame, figures, same, [n for n in whole if n not in same], [n for n in names if n not in whole])


def choices(params: dict[str, Any]) -> dict[str, str]:
    """The parameters that name a plug-in: those whose options are parameters too."""
    return {n: str(v) for n, v in params.items() if any(other.startswith(f"{n}.") for other in params)}


def defaults(params: dict[str, Any]) -> dict[str, str]:
    """What every option is by default, as MLflow shows it, given the plug-ins that are chosen."""
    return _defaults(tuple(sorted(choices(params).items())))


@cache
def _defaults(chosen: tuple[tuple[str, str], ...]) -> dict[str, str]:
    data: dict[str, Any] = {}
    for name, value in chosen:
        place = data
        for part in name.split("."):
            place = place.setdefault(part, {})
        place["name"] = value
    try:
        options = describe(chain_config(upstream("report")), data)
    except MadError:  # a plug-in that is not installed here
        return {}
    return {option.name: text_of(option.default) for option in options}


def in_common(table: Table) -> dict[str, str]:
    """Parameters equal in all rows: the plug-ins chosen, and what is not at its default."""
    kinds, known = choices(table.same), defaults(table.same)
    return {n: v for n, v in table.same.items() if n in kinds or n in ALWAYS or known.get(n) != v}


def configurations(table: Table) -> list[str]:
    """Per row, the parameters that not all rows have, such as the options of its detector.

    Left out is what is at its default in all rows of that detector.
    """
    found = []
    for row in table.rows.to_dict("records"):
        rivals = table.rows[table.rows["detector"] == row["detector"]]
        given = {name: row[name] for name in table.partial if not _missing(row[name])}
        params = {**table.same, **{n: row[n] for n in table.varied}, **given, "detector": row["detector"]}
        known = defaults({name: value for name, value in params.items() if value is not None})
        told = {n: v for n, v in given.items() if v != known.get(n) or rivals[n].nunique() > 1}
        found.append(" ".join(f"{name.partition('.')[2]}={value}" for name, value in told.items()))
    return found


def cells(
    table: Table, figures: list[str], settings: bool, intervals: bool, mark: str = " (supervised)"
) -> tuple[list[str], list[list[str]]]:
    """Column titles, and the lines as text.

    Args:
        table: the runs.
        figures: metrics that are shown.
        settings: show the parameters that differ.
        intervals: show intervals behind the figures.
        mark: behind the names of supervised detectors.
    """
    detectors = ["detector"] if table.rows["detector"].notna().any() else []
    facts = ["id", *detectors, *(table.varied if settings else [])]
    others = configurations(table) if settings else []
    configured = any(others)
    lines = []
    for number, row in enumerate(table.rows.to_dict("records")):
        line = ["-" if _missing(row[name]) else str(row[name]) for name in facts]
        if row["supervised"]:
            line[facts.index("detector")] += mark
        for name in figures:
            low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
            known = intervals and not (_missing(low) or _missing(high))
            line.append(shown(row[name]) + (f" [{shown(low)}, {shown(high)}]" if known else ""))
        lines.append([*line, others[number]] if configured else line)
    return [*_titles(facts), *figures, *(["settings"] if configured else [])], lines


def _titles(names: list[str]) -> list[str]:
    """Names without their section, where that leaves them apart."""
    ends = [name.partition(".")[2] or name for name in names]
    return [end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)]


def shown(value: Any, decimals: int = 4) -> str:
    """So many decimals, or digits above 1; never 1 for what is less."""
    if _missing(value):
        return "-"
    if abs(value) > 1:
        return f"{value:.{decimals}g}"
    text = f"{value:.{decimals}f}"
    return f">0.{'9' * decimals}" if value < 1 and float(text) == 1 else text


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def show(table: Table, title: str) -> None:
    """Print what all runs have in common, the table, and a second one of control rows."""
    count = len(table.rows)
    controls = [name for name in table.points if name.startswith("control_")]
    common = " ".join(f"{name}={value}" for name, value in in_common(table).items())
    if common and count > 1:
        terminal.out.print(f"the same in all: {common}; all else at its default", markup=False)
    titles, lines = cells(
        table, [n for n in table.points if n not in controls], settings=True, intervals=False, mark="*"
    )
    first = table.points[0] if table.points else ""
    if f"{first}_low" in table.figures:
        place = titles.index(first) + 1
        titles.insert(place, "95% interval")
        for line, row in zip(lines, table.rows.to_dict("records"), strict=True):
            low, high = shown(row[f"{first}_low"], 3), shown(row[f"{first}_high"], 3)
            line.insert(place, "-" if low == high == "-" else f"{low}–{high}")
    terminal.table(f"{title}, {count} run{'s' * (count > 1)}", titles, lines, right=table.figures)
    if controls:
        titles, lines = cells(table, controls, settings=False, intervals=False, mark="*")
        titles = [name.removeprefix("control_").replace("_", " ") for name in titles]
        note = "controls, unusual but benign: AUROC of anomalous rows against them, share of them flagged"
        terminal.table(f"\n{note}", titles, lines, right=titles[-len(controls) :])
    if table.rows["supervised"].any():
        terminal.out.print("* supervised: fitted on anomaly labels, a skyline, not a rival")


def to_latex(table: Table) -> str:
    """A ``tabular`` for booktabs; the best of each metric is bold, supervised detectors left out."""
    titles, lines = cells(table, table.points, settings=True, intervals=True)
    text = pd.DataFrame([[_escaped(cell) for cell in line] for line in lines], columns=titles)
    for name in table.points:
        values = table.rows[name].where(~table.rows["supervised"].astype(bool))
        best = values == (values.min() if name.endswith(("fpr95", "flagged")) else values.max())
        text.loc[best, name] = text.loc[best, name].map(lambda cell: rf"\textbf{{{cell}}}")
    text.columns = pd.Index([_heading(name) for name in titles])
    columns = "".join("r" if name in table.points else "l" for name in titles)
    head = "".join(f"% {name} = {value}\n" for name, value in table.same.items())
    return head + text.to_latex(index=False, escape=False, column_format=columns)


def _heading(name: str) -> str:
    return _escaped(" ".join(NAMES.get(word, word) for word in name.split("_")))


def _escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return re.sub(r"[\\~^&%$#_{}<>|]", lambda found: LATEX.get(found[0], f"\\{found[0]}"), text)
