"""What a sweep leaves for people: tables and plots in one folder, a ranked table in the terminal."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mad import terminal
from mad.artifacts import AnomalyScores, Artifact, Features, Split
from mad.config import parse
from mad.runtime.sweep_plan import Plan
from mad.runtime.sweep_results import controls
from mad.runtime.trial import Row
from mad.stages import report as figures
from mad.stages._figures import save_figure
from mad.stages.detect import METRICS
from mad.stats.agreement import rank_correlation

SKYLINE = " (supervised)"
"""Follows the name of a detector that saw anomaly labels, in every table and figure."""


def named(row: Row) -> str:
    """A detector's name in tables and figures."""
    return row["detector"] + (SKYLINE if row.get("supervised") else "")


def write_report(
    folder: Path, plan: Plan, board: Sequence[Row], rows: Sequence[Row], shared: dict[str, dict[str, Artifact]]
) -> list[Path]:
    """Write leaderboard and trials as CSV, the sweep's plots, and the plots of the best detectors.

    A sweep over several subjects (tasks, models) gets a folder for each.

    Args:
        folder: created if absent.
        plan: of the sweep.
        board: chosen and tested rows, best first.
        rows: of all trials.
        shared: artifacts by stage, by key of the features.

    Returns:
        The files that belong to the whole sweep.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["val_auroc", *METRICS, "auroc_low", "auroc_high", "supervised"]
    leaderboard = pd.DataFrame(
        [{"subject": plan.groups[r["features"]].label, "detector": named(r), **_picked(r, columns)} for r in board]
    )
    left_out = ("config", "features")
    trials = pd.DataFrame([{**{k: v for k, v in r.items() if k not in left_out}, **_dotted(r)} for r in rows])
    leaderboard.to_csv(folder / "leaderboard.csv", index=False)
    trials.to_csv(folder / "trials.csv", index=False)
    plots = {"search": figures.search_figure(trials[trials["status"] == "done"])}
    if len(plan.groups) > 1:
        plots["subjects"] = figures.auroc_heatmap_figure(leaderboard, rows="detector", columns="subject")
    for key, group in plan.groups.items():
        mine = [row for row in board if row["features"] == key]
        target = folder / _slug(group.label) if len(plan.groups) > 1 else folder
        if mine:
            options = parse(figures.Options, plan.report)
            _write_subject(target, leaderboard[leaderboard["subject"] == group.label], mine, shared[key], options)
    _save(plots, folder)
    return sorted(path for path in folder.iterdir() if path.is_file())


def _write_subject(
    folder: Path, leaderboard: pd.DataFrame, board: list[Row], shared: dict[str, Artifact], options: figures.Options
) -> None:
    """Plots of one subject, and a folder for each detector whose plots were drawn."""
    folder.mkdir(exist_ok=True)
    split, features = shared["attack"], shared["extract"]
    assert isinstance(split, Split) and isinstance(features, Features)
    scores: dict[str, AnomalyScores] = {named(row): row["scores"] for row in board}
    plots = {
        "leaderboard": figures.leaderboard_figure(leaderboard),
        "training": figures.training_figure(shared["train"].json("history.json")),
        "layers": figures.auroc_heatmap_figure(figures.layer_aurocs(scores)),
    }
    against = [
        {"control": kind, "detector": named(row), "auroc": found["auroc_anomalous_against_control"]}
        for row in board
        for kind, found in controls(row).items()
    ]
    if against:
        table = pd.DataFrame(against)
        table.to_csv(folder / "controls.csv", index=False)
        plots["controls"] = figures.auroc_heatmap_figure(table, rows="control")
    plots |= figures.feature_figures(features, board[0]["scores"].table("scores.parquet"), options, 0)
    if options.trigger and len(figures.triggered_rows(split)):
        plots["trigger"] = figures.trigger_figure(split)
    if len(scores) > 1:
        agreement = rank_correlation(figures.joined_scores(scores))
        plots["agreement"] = figures.agreement_figure(agreement, list(scores))
    _save(plots, folder)
    for row in board:
        if row["report"] is not None:
            target = folder / row["detector"]
            target.mkdir(exist_ok=True)
            for name in row["report"].meta["files"]:
                shutil.copyfile(row["report"].folder / name, target / name)


def _save(plots: dict[str, Any], folder: Path) -> None:
    for name, figure in plots.items():
        save_figure(figure, folder / f"{name}.png")


def _picked(row: Row, columns: list[str]) -> dict[str, Any]:
    return {**{name: row[name] for name in columns}, **row["config"]}


def _dotted(row: Row) -> dict[str, object]:
    return {f"config.{name}": value for name, value in row["config"].items()}


def _slug(label: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", label)


def print_leaderboard(plan: Plan, result: dict[str, Any]) -> None:
    """The ranked table in the terminal: of one subject with what was searched, of several detector by subject.

    Args:
        plan: of the sweep.
        result: what ``--json`` writes.
    """
    for subject in result["subjects"]:
        known = {name: value for name, value in subject["model"].items() if value is not None}
        words = ", ".join(f"{name.replace('_', ' ')} {terminal.number(value)}" for name, value in known.items())
        terminal.out.print(" ".join(["model", subject["label"]]).strip() + f": {words}")
    if len(result["subjects"]) > 1:
        _print_subjects(plan, result)
        return
    searched = {name for space in plan.study.search for name in space}
    columns = ("rank", "detector", "val_auroc", *METRICS, "configuration")
    lines = []
    for i, row in enumerate(result["leaderboard"], start=1):
        chosen = {k: v for k, v in row["config"].items() if k in searched}
        lines.append((i, named(row), row["val_auroc"], *(row[m] for m in METRICS), _short(chosen)))
    ensemble = result["subjects"][0]["ensemble"]
    if ensemble:
        members = " + ".join(ensemble["detectors"])
        lines.append(("", "ensemble", ensemble["val_auroc"], *(ensemble[m] for m in METRICS), members))
    title = f"{plan.name}: best of each detector, chosen on validation rows, measured on test rows"
    terminal.table(title, columns, lines, right=("rank", "val_auroc", *METRICS))
    _print_controls(result)


def _print_controls(result: dict[str, Any]) -> None:
    """Mechanism or mere novelty: anomalous rows against rows that are unusual but benign."""
    found = result["subjects"][0]["controls"]
    kinds = list(next(iter(found.values()), {}))
    if not kinds:
        return
    columns = [f"{what} {kind}" for kind in kinds for what in ("auroc against", "flagged")]
    lines = []
    for row in result["leaderboard"]:
        of = found[row["detector"]]
        cells = [of[kind][name] for kind in kinds for name in ("auroc_anomalous_against_control", "flagged")]
        lines.append((named(row), *cells))
    title = "controls, unusual but benign: AUROC of anomalous rows against them, and the share of them flagged"
    terminal.table(title, ("detector", *columns), lines, right=columns)


def _print_subjects(plan: Plan, result: dict[str, Any]) -> None:
    labels = [subject["label"] for subject in result["subjects"]]
    lines = pd.DataFrame([{**r, "detector": named(r)} for r in result["leaderboard"]])
    grid = lines.pivot_table("auroc", "detector", "subject", sort=False).reindex(columns=labels)
    grid.loc["ensemble"] = [(subject["ensemble"] or {}).get("auroc", float("nan")) for subject in result["subjects"]]
    grid["mean"] = grid.mean(axis=1, skipna=False)  # a mean over fewer subjects is no rival of one over all
    grid = grid.sort_values("mean", ascending=False)
    skylines = [name for name in grid.index if str(name).endswith(SKYLINE)]
    grid = grid.loc[[name for name in grid.index if name not in skylines] + skylines]
    title = f"{plan.name}: test AUROC of the best of each detector, chosen on validation rows"
    rows = [(str(n), *("-" if pd.isna(v) else f"{v:.3f}" for v in values)) for n, *values in grid.itertuples()]
    terminal.table(title, ("detector", *grid.columns), rows, right=list(grid.columns))


def _short(config: dict[str, object]) -> str:
    return " ".join(f"{name.partition('.')[2]}={terminal.number(value)}" for name, value in config.items())
