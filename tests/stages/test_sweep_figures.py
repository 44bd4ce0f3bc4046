"""The figures of whole studies: leaderboard, search and training."""

import math

import numpy as np
import pandas as pd
import pytest

from mad.stages import report


def leaderboard(aurocs):
    value = np.asarray(aurocs, dtype=float)
    return pd.DataFrame(
        {
            "detector": [f"detector_{n}" for n in range(len(value))],
            "auroc": value,
            "auroc_low": value - 0.5 * (1 - value),
            "auroc_high": value + 0.5 * (1 - value),
            "val_auroc": value,
            "ap": value,
            "fpr95": 1 - value,
        }
    )


@pytest.mark.parametrize(
    "aurocs", [[1.0, 0.9999, 0.99, 0.95], [1.0, 1.0], [0.95, 0.5, 0.3], [0.9992, 0.99921], [0.7, math.nan]]
)
@pytest.mark.parametrize("missing", [[], ["auroc_low", "auroc_high", "val_auroc", "ap"]])
@pytest.mark.filterwarnings("error")
def test_leaderboards(tmp_path, aurocs, missing):
    rows = leaderboard(aurocs)
    rows[missing] = math.nan
    report.save_figure(report.leaderboard_figure(rows), tmp_path / "figure", dpi=40)
    report.leaderboard_figure(rows.drop(columns=missing))


def test_leaderboard_axis_spreads_what_is_near_one():
    panel = report.leaderboard_figure(leaderboard([0.9999, 0.999, 0.99])).axes[0]
    x = panel.transData.transform([(v, 0) for v in (0.99, 0.999, 0.9999)])[:, 0]
    assert x[2] - x[1] == pytest.approx(x[1] - x[0])
    assert "log(1 − AUROC)" in panel.get_xlabel()
    assert report.leaderboard_figure(leaderboard([0.95, 0.6, 0.5])).axes[0].get_xlabel() == "AUROC"


@pytest.mark.filterwarnings("error")
def test_search_shows_every_setting_that_varies(tmp_path):
    trials = pd.DataFrame(
        {
            "detector": ["a", "a", "a", "b", "b", "b"],
            "val_auroc": [0.9, 0.95, math.nan, 0.97, 1.0, 0.99],
            "config.detector.rank": [1, 10, 100, None, None, None],
            "config.detector.shrinkage": [0.1, "ledoit_wolf", 0.5, None, None, None],
            "config.detect.layers": [["x"], ["x", "y"], [], ["x"], ["x"], ["x"]],
            "config.detect.standardize": [True, False, True, True, False, True],
            "config.seed": 0,
            "config.detector.name": ["a", "a", "a", "b", "b", "b"],
        }
    )
    figure = report.search_figure(trials)
    report.save_figure(figure, tmp_path / "figure", dpi=40)
    shown = {panel.get_xlabel() for panel in figure.axes[1:]}
    assert shown == {"detector.rank", "detector.shrinkage", "detect.layers", "detect.standardize"}
    assert len(report.search_figure(trials[["detector", "val_auroc"]]).axes) == 1
    report.save_figure(report.search_figure(trials.assign(val_auroc=math.nan)), tmp_path / "figure", dpi=40)


@pytest.mark.parametrize("rates", [[0.1, 0.5, 0.9], [math.nan] * 3, [None, 0.2, 0.3]])
@pytest.mark.filterwarnings("error")
def test_training_figure(tmp_path, rates):
    history = [{"loss": 0.1, "val_clean_accuracy": 0.5, "val_attack_success_rate": rate} for rate in rates]
    for epochs in (history, history[:1]):
        report.save_figure(report.training_figure(epochs), tmp_path / "figure", dpi=40)


def test_thousands_of_texts_are_not_all_named():
    values = [f"{k / 7:.6f}" for k in range(4000)] + ["ledoit_wolf"]
    trials = pd.DataFrame({"detector": "mahalanobis", "val_auroc": 0.9, "config.detector.shrinkage": values})
    (*_, panel) = report.search_figure(trials).axes
    assert 20 <= len(panel.get_xticks()) <= 41 and panel.lines[0].get_xdata().max() > 3900
