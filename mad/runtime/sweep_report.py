"""What a sweep leaves for people: tables and plots in one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from mad import terminal
from mad.artifacts import Artifact, Split
from mad.runtime.sweep_plan import Plan
from mad.runtime.trial import Row
from mad.stages import report as figures
from mad.stages._figures import save_figure
from mad.stages.detect import METRICS


def write_report(
    folder: Path, plan: Plan, board: list[Row], rows: list[Row], shared: dict[str, Artifact]
) -> list[Path]:
    """Write leaderboard and trials as CSV, the sweep's plots, and the plots of the best detectors.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["detector", "val_auroc", *METRICS, "auroc_low", "auroc_high"]
    leaderboard = pd.DataFrame([{**{c: row[c] for c in columns}, **row["config"]} for row in board])
    left_out = ("config", "error", "features")
    trials = pd.DataFrame([{**{k: v for k, v in r.items() if k not in left_out}, **_dotted(r)} for r in rows])
    leaderboard.to_csv(folder / "leaderboard.csv", index=False)
    trials.to_csv(folder / "trials.csv", index=False)
    split = shared["prepare"]
    assert isinstance(split, Split)
    plots = {
        "leaderboard.png": figures.leaderboard_figure(leaderboard),
        "search.png": figures.search_figure(trials[trials["status"] == "done"]),
        "training.png": figures.training_figure(shared["train"].json("history.json")),
        "trigger.png": figures.trigger_figure(split),
    }
    for name, figure in plots.items():
        save_figure(figure, folder / name)
    for row in board:
        target = folder / row["detector"]
        target.mkdir(exist_ok=True)
        for name in row["report"].meta["files"]:
            shutil.copyfile(row["report"].folder / name, target / name)
    return sorted(path for path in folder.iterdir() if path.is_file())


def _dotted(row: Row) -> dict[str, object]:
    return {f"config.{name}": value for name, value in row["config"].items()}


def print_leaderboard(plan: Plan, board: list[Row], model: dict[str, float]) -> None:
    """The ranked table in the terminal, with the settings that were searched."""
    searched = {name for space in plan.study.search for name in space}
    terminal.out.print(
        f"model: clean accuracy {terminal.number(model['clean_accuracy'])}, "
        f"attack success rate {terminal.number(model['attack_success_rate'])}"
    )
    columns = ("rank", "detector", "val_auroc", *METRICS, "configuration")
    lines = [
        (
            i,
            row["detector"],
            row["val_auroc"],
            *(row[m] for m in METRICS),
            _short({k: v for k, v in row["config"].items() if k in searched}),
        )
        for i, row in enumerate(board, start=1)
    ]
    title = f"{plan.name}: best of each detector, chosen on validation rows, measured on test rows"
    terminal.table(title, columns, lines, right=("rank", "val_auroc", *METRICS))


def _short(config: dict[str, object]) -> str:
    return " ".join(f"{name.partition('.')[2]}={terminal.number(value)}" for name, value in config.items())
