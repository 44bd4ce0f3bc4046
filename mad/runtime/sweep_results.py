"""What a sweep chose on validation rows, and the test figures of that: computed once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mad.artifacts import Artifact
from mad.errors import FitError
from mad.runtime import chain as chains
from mad.runtime.engine import Engine
from mad.runtime.local import one_thread
from mad.runtime.sweep_plan import SHARED, WHOLE, Group, Plan
from mad.runtime.trial import Row, run_trial
from mad.stages.detect import METRICS
from mad.stages.detect import Options as DetectOptions
from mad.stats import roc
from mad.stats.ensemble import combine, forward_selection

GIVEN = ("prepare", "attack", SHARED)
"""Shared stages whose artifacts the chosen configurations are tested on."""
OF_THE_SUBJECT = ("pca", "variance", "trigger")
"""Figures of a report that are the same for every detector: drawn once."""
COLUMNS = ("detector", "config", "val_auroc", *METRICS)
"""Fields of a line of the leaderboard for other programs."""


def choose(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """The best configuration of each detector on each subject, by validation rows: best first.

    Skylines that saw anomaly labels come after all others.

    Raises:
        FitError: every configuration failed.
    """
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        errors = [row["error"] for row in rows if "error" in row]
        raise FitError(f"every configuration failed; the first: {errors[0] if errors else 'no trial ran'}")
    sign = -1 if plan.study.mode == "max" else 1

    def order(row: Row) -> tuple[bool, float, str]:
        return row["supervised"], sign * row[plan.study.metric], json.dumps(row["config"], sort_keys=True)

    best: dict[tuple[str, str], Row] = {}
    for row in sorted(done, key=order):
        best.setdefault((row["features"], row["detector"]), row)
    return list(best.values())


def ordered(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """Rows as the plan lists them, in whatever order they came; then what gave no figures, by settings."""
    keys = [key for group in plan.groups.values() for key in group.trials]
    if not keys:  # of Optuna, as it chose them
        return list(rows)
    place = {key: number for number, key in enumerate(keys)}

    def order(row: Row) -> tuple[int, str]:
        return place.get(row.get("detect", ""), len(keys)), json.dumps([row["detector"], row["config"]], sort_keys=True)

    return sorted(rows, key=order)


def make(engine: Engine, plan: Plan, row: Row) -> None:
    """Fit and score a chosen configuration once more if its artifacts were not kept.

    Raises:
        FitError: it fails, or does not give what it gave.
    """
    if engine.store.has(row["fit"]) and engine.store.has(row["detect"]):
        return
    group = plan.groups[row["features"]]
    trial = group.trials.get(row["detect"])
    if trial is None:
        raise FitError(f"{row['detect']} is not in the store any more: give the command again")
    with one_thread():
        made = run_trial(group.job, trial.overrides)
    for name in ("detect", plan.study.metric):
        if made.get(name) != row[name]:
            told = made.get("error") or f"{name} was {row[name]} in a trial, and is {made.get(name)} in the driver"
            raise FitError(f"{row['detector']}: {told}")


def test(engine: Engine, plan: Plan, row: Row, last: str = WHOLE) -> Row:
    """Test figures of a chosen configuration, and its plots where ``last`` is the report stage."""
    store, group = engine.store, plan.groups[row["features"]]
    given = {stage: store.open(key) for stage, key in group.keys.items() if stage in GIVEN}
    given["fit"] = store.open(row["fit"])
    chosen = store.open(row["detect"]).meta["config"]["detect"]
    resamples = group.job.base.get("detect", {}).get("bootstrap", DetectOptions.bootstrap)
    base = {"detect": {**chosen, "part": "test", "bootstrap": resamples}, "seed": group.job.base["seed"]}
    base |= {"report": {**plan.report, **dict.fromkeys(OF_THE_SUBJECT, False)}} if last == WHOLE else {}
    artifacts = chains.run(engine, chains.resolve(last, base, {}, given, store))
    scores = artifacts["detect"]
    low, high = scores.json("metrics.json")["intervals"].get("score", {}).get("auroc", (None, None))
    figures = {name: scores.summary[name] for name in METRICS}
    return {**row, **figures, "auroc_low": low, "auroc_high": high, "scores": scores, "report": artifacts.get(WHOLE)}


def line(plan: Plan, row: Row) -> dict[str, Any]:
    """A row of the leaderboard for other programs; a skyline is marked, of several subjects the row's is named."""
    marks: dict[str, Any] = {"supervised": True} if row["supervised"] else {}
    if len(plan.groups) > 1:
        marks["subject"] = plan.groups[row["features"]].label
    return {**{name: row[name] for name in COLUMNS}, **marks}


def subject(engine: Engine, plan: Plan, group: Group, shared: dict[str, Artifact], board: Sequence[Row]) -> Row:
    """One subject for other programs: what was searched in it, how good its model is, the best ensemble on it."""
    model = {name: shared["train"].summary[name] for name in ("clean_accuracy", "attack_success_rate")}
    attacked = shared["attack"].summary.get("robust_accuracy")
    return {
        "label": group.label,
        "config": group.shared,
        "model": model if attacked is None else {**model, "robust_accuracy": attacked},
        "ensemble": ensemble(engine, plan, group, board),
        "controls": {row["detector"]: controls(row) for row in board if row["features"] == group.keys[SHARED]},
    }


def controls(row: Row) -> dict[str, dict[str, float]]:
    """How a tested row's detector treats benign novelty, by kind; empty where the task has no controls."""
    return row["scores"].json("metrics.json").get("controls", {})


def ensemble(engine: Engine, plan: Plan, group: Group, board: Sequence[Row]) -> dict[str, Any] | None:
    """The mean of several detectors' standardised scores: members chosen on validation rows, measured on test rows.

    Returns:
        ``detectors``, ``val_auroc``, ``auroc``, ``ap``, ``fpr95``; None where fewer than two unsupervised
        detectors were tried.
    """
    rows = [row for row in board if row["features"] == group.keys[SHARED] and not row["supervised"]]
    if len(rows) < 2:
        return None
    validation = {row["detector"]: engine.store.open(row["detect"]) for row in rows}
    tested = {row["detector"]: row["scores"] for row in rows}
    (scores, held_out, labels), (test_scores, test_held_out, test_labels) = map(_tables, (validation, tested))
    place = METRICS.index(plan.study.metric.removeprefix("val_"))
    sign = 1 if plan.study.mode == "max" else -1
    members = forward_selection(scores, held_out, lambda joint: sign * roc.metrics(joint, labels)[place])
    figures = roc.metrics(combine(test_scores, test_held_out, members), test_labels)
    return {
        "detectors": members,
        "val_auroc": roc.auroc(combine(scores, held_out, members), labels),
        **dict(zip(METRICS, figures, strict=True)),
    }


def _tables(found: dict[str, Artifact]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Scores of the part that was scored, those of held-out trusted rows, and the part's labels."""
    scores, held_out = {}, {}
    for name, artifact in found.items():
        table = artifact.table("scores.parquet")
        rows = table[table["part"] == artifact.summary["part"]]
        scores[name] = torch.from_numpy(rows["score"].to_numpy(copy=True))
        held_out[name] = torch.from_numpy(table.loc[table["part"] == "calibration", "score"].to_numpy(copy=True))
    return scores, held_out, torch.from_numpy(rows["is_anomalous"].to_numpy(copy=True))
