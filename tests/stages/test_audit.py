"""audit: the stage says what the mathematics says, stops where it should, and keeps nothing else in its key."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from mad.artifacts import AuditTrace
from mad.config import parse
from mad.errors import ConfigError, DataError
from mad.stages import _audit_figures as figures
from mad.stages._sequential_audit import GRID, Options, make_units
from mad.stats import sequential_test as st
from mad.stats.bets._base import Pairs, pairs
from mad.stats.confidence_sequence import MeanDifference
from tests.stages.scores import simulated, write

FIELDS = {
    "verdict",
    "rejected",
    "rejected_at",
    "samples",
    "missing",
    "log_wealth",
    "alpha",
    "tolerance",
    "shift_lower_bound",
    "mean_difference",
    "mean_difference_interval",
    "bet",
    "seed",
}
THRESHOLD = math.log(20)


@pytest.fixture
def audit(tmp_path, engine, run):
    """Runs an audit of a table; the stage's artifact."""

    def audited(table, candidate="shifted", flags=None, **options) -> AuditTrace:
        path = write(table, tmp_path / "scores.csv")
        asked = {"pairs.file": path, "pairs.baseline": "base", "pairs.candidate": candidate, **(flags or {})}
        return run(engine, "audit", {**asked, **{f"audit.{k}": v for k, v in options.items()}})["audit"]

    return audited


def column(table, name) -> torch.Tensor:
    return torch.tensor(table[name].to_numpy())[None]


@pytest.mark.parametrize(("bet", "tolerance"), [("mixture", 0.0), ("ratio", 0.04)])
def test_the_stage_says_what_the_test_says(audit, bet, tolerance):
    table = simulated(400)
    made = audit(table, bet=bet, tolerance=tolerance, stop=False, range=[0, 1], batch_size=50)
    trace, found = made.table("trace.parquet"), made.verdict
    grid = tuple(sorted({*GRID, tolerance}))
    x, y = column(table, "base"), column(table, "shifted")
    settings = st.Settings(grid, batch_size=50)
    expected = st.run(pairs(x, y), bet, settings=settings)
    own = grid.index(tolerance)
    np.testing.assert_allclose(trace["log_wealth"], expected.log_wealth[0, own], rtol=1e-12, atol=1e-14)
    assert found["rejected_at"] == (int(expected.rejected_at[0, own]) or None)
    assert found["shift_lower_bound"] == float(expected.shift_lower_bound[0])
    mean = MeanDifference(0, 1)
    _, interval = mean.update(mean.start(1), y, x)
    np.testing.assert_array_equal(trace[["low", "high"]].to_numpy().T, torch.cat(interval).numpy())
    assert found["mean_difference_interval"] == [float(interval.low[0, -1]), float(interval.high[0, -1])]
    assert found["mean_difference"] == pytest.approx((table["shifted"] - table["base"]).mean(), rel=1e-12)
    assert found["samples"] == 400 and set(found) == FIELDS and found["bet"] == bet
    assert trace["pairs"].tolist() == list(range(1, 401))


def test_a_shift_is_found_and_the_test_stops_at_that_pair(audit):
    table = simulated(600)
    made = audit(table)
    trace, found = made.table("trace.parquet"), made.verdict
    assert isinstance(made, AuditTrace) and found["verdict"] == "shifted" and found["rejected"] is True
    assert found["samples"] == found["rejected_at"] == len(trace) < 600
    assert trace["log_wealth"].iloc[-1] == found["log_wealth"] >= THRESHOLD
    assert (trace["log_wealth"].iloc[:-1] < THRESHOLD).all()
    assert found["mean_difference_interval"] is None and trace[["low", "high"]].isna().all(axis=None)
    whole = audit(table, stop=False)
    assert whole.verdict["rejected_at"] == found["rejected_at"] and whole.verdict["samples"] == 600
    pd.testing.assert_frame_equal(whole.table("trace.parquet").iloc[: len(trace)], trace)


def test_equal_behaviour_is_undecided_until_a_mean_tolerance_certifies_it(audit):
    table = simulated(600)
    found = audit(table, "same").verdict
    assert (found["verdict"], found["rejected"], found["rejected_at"]) == ("undecided", False, None)
    assert found["samples"] == 600 and found["shift_lower_bound"] == 0
    certified = audit(table, "same", range=[0, 1], mean_tolerance=0.06)
    found, trace = certified.verdict, certified.table("trace.parquet")
    assert found["verdict"] == "within_mean_tolerance" and found["rejected_at"] is None
    assert found["samples"] == len(trace) < 600
    low, high = found["mean_difference_interval"]
    assert -0.06 <= low <= high <= 0.06
    before = trace.iloc[-2]
    assert before["low"] < -0.06 or before["high"] > 0.06
    assert audit(table, "same", range=[0, 1], mean_tolerance=0.001).verdict["verdict"] == "undecided"


def test_a_tolerated_shift_is_not_called_one(audit):
    assert audit(simulated(600), tolerance=0.5).verdict["verdict"] == "undecided"


def test_rows_of_one_prompt_are_one_factor(audit):
    """Twenty copies of every prompt add no evidence: the wealth is that of the prompts alone."""
    table = simulated(60)
    copied = table.loc[table.index.repeat(20)].sample(frac=1, random_state=0)
    order = copied["prompt_id"].drop_duplicates()
    alone = table.set_index("prompt_id").loc[order].reset_index()
    # The bet learns from a cluster by another path, exact to rounding.
    one = audit(alone, stop=False, bet="ons")
    many = audit(copied, stop=False, bet="ons", flags={"pairs.cluster": "prompt_id"})
    ours, theirs = one.table("trace.parquet"), many.table("trace.parquet")
    np.testing.assert_allclose(theirs["log_wealth"], ours["log_wealth"], rtol=1e-6, atol=1e-9)
    assert theirs["cluster"].tolist() == order.tolist()
    assert theirs["pairs"].tolist() == list(range(20, 1201, 20)) and many.verdict["samples"] == 1200
    naive = audit(copied, stop=False, bet="ons")
    assert naive.verdict["log_wealth"] > many.verdict["log_wealth"] + 3


def test_a_verdict_over_clusters_counts_pairs(audit):
    table = simulated(600)
    table["prompt"] = [f"q{i // 2}" for i in range(600)]
    found = audit(table, flags={"pairs.cluster": "prompt"}).verdict
    assert found["verdict"] == "shifted" and found["rejected_at"] % 2 == 0 and found["samples"] == found["rejected_at"]


def test_missing_scores_are_left_out_and_counted(audit):
    table = simulated(300)
    gaps = table.copy()
    gaps.loc[::10, "shifted"] = np.nan
    gaps.loc[5, "base"] = np.nan
    made = audit(gaps, stop=False)
    assert made.verdict["missing"] == 31 and made.verdict["samples"] == 269
    assert made.summary["missing_baseline"] == 1 and made.summary["missing_candidate"] == 30
    kept = audit(gaps.dropna(), stop=False)
    assert kept.verdict == {**made.verdict, "missing": 0}


def test_the_default_order_is_the_files_and_shuffling_follows_the_seed(audit):
    table = simulated(80).sort_values("base")
    made = [
        audit(table, stop=False, shuffle=shuffle, flags={"seed": seed, "pairs.id": "prompt_id"})
        for shuffle, seed in ((False, 0), (True, 0), (True, 0), (True, 1))
    ]
    orders = [artifact.table("trace.parquet")["cluster"].tolist() for artifact in made]
    assert orders[0] == table["prompt_id"].tolist()
    assert made[1].key == made[2].key and orders[1] != orders[0] and orders[3] != orders[1]
    assert sorted(orders[1]) == sorted(orders[0])
    assert made[3].verdict["seed"] == 1 and made[3].verdict["mean_difference"] == pytest.approx(
        made[0].verdict["mean_difference"]
    )


def test_shuffled_units_keep_their_scores_together():
    rows = pd.DataFrame(
        {"id": list("abcdef"), "cluster": list("uuvwwx"), "baseline": range(6), "candidate": range(10, 16)}
    ).astype({"baseline": float, "candidate": float})
    units = make_units(rows, Options(shuffle=True, batch_size=2), seed=3)
    assert units.names.tolist() != ["u", "v", "w", "x"]
    sizes, sums = dict(u=2, v=1, w=2, x=1), dict(u=0.5, v=2.0, w=3.5, x=5.0)
    assert units.sizes.tolist() == [sizes[name] for name in units.names]
    for (scores, weights), shift in zip(units.scores.sides, (0, 10), strict=True):
        assert (scores[0, :, :, 0] * weights[0]).sum(1).tolist() == [sums[name] + shift for name in units.names]


def test_asking_again_finds_it_done_and_every_option_that_matters_changes_the_key(audit, engine, tmp_path):
    table = simulated(120)
    base = audit(table, "same")
    assert audit(table, "same").key == base.key and engine.hits == ["pairs", "audit"]
    changes = [
        {"alpha": 0.01},
        {"tolerance": 0.1},
        {"bet": "kelly"},
        {"bet.first.ridge": 10},
        {"batch_size": 30},
        {"stop": False},
        {"range": [0, 1]},
        {"flags": {"seed": 1}},
    ]
    assert len({base.key, *(audit(table, "same", **change).key for change in changes)}) == len(changes) + 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 0}, "alpha must lie between 0 and 1, got 0"),
        ({"alpha": 1}, "alpha must lie between 0 and 1, got 1"),
        ({"tolerance": 1}, r"a tolerance is a total variation in \[0, 1\), got \[1"),
        ({"tolerance": -0.1}, r"a tolerance is a total variation in \[0, 1\), got \[-0.1\]"),
        ({"mean_tolerance": 0.1}, "mean_tolerance 0.1 needs the range that the scores lie in: give --range"),
        ({"mean_tolerance": -1, "range": [0, 1]}, "mean_tolerance must be above 0, got -1"),
        ({"range": [1, 0]}, "range takes the smallest and the largest score"),
        ({"range": [0, 1, 2]}, "range takes the smallest and the largest score"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"tolerances": [0.2, 0.1]}, "tolerances must increase"),
        ({"bet": "kely"}, r"unknown bet 'kely' \(did you mean kelly or kernel\?\)"),
        ({"penalty": "none"}, r"expected 'fraction' \| 'exp' \| 'all_in', got 'none'"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        parse(Options, options)


def test_too_few_pairs_and_scores_out_of_range_are_refused(audit, engine):
    with pytest.raises(DataError, match=r"24 prompts have both scores \(24 pairs were given\), fewer than a batch"):
        audit(simulated(24))
    table = simulated(40)
    table.loc[7, "shifted"] = 1.5
    told = r"1 scores of the candidate lie outside the declared range \[0, 1\] \(first: 1.5, id '8'\)"
    with pytest.raises(DataError, match=told):
        audit(table, range=[0, 1])
    assert not any(key.startswith("audit") for key in list(engine.store.keys()))
    assert audit(table).verdict["samples"] == 40
    table["shifted"] = np.nan
    with pytest.raises(DataError, match="0 prompts have both scores"):
        audit(table)


def test_the_tracker_gets_the_test_after_every_batch_and_the_plots(engine, run, tmp_path):
    seen = []
    engine.tracker.finish = lambda record, status: seen.append(record)
    path = write(simulated(110), tmp_path / "s.csv")
    flags = {"pairs.file": path, "pairs.baseline": "base", "pairs.candidate": "same", "audit.range": [0, 1]}
    made = run(engine, "audit", flags)["audit"]
    record = seen[-1]
    trace = made.table("trace.parquet")
    ends = [25, 50, 75, 100, 110]
    for metric, name in (("log_wealth", "log_wealth"), ("mean_difference_low", "low")):
        logged = {step: value for key, value, step in record.metrics if key == metric}
        assert logged == {i: trace[name][end - 1] for i, end in enumerate(ends, start=1)}
    names = {path.rpartition("/")[2] for path, folder in record.files if folder == "plots"}
    assert names == {"wealth.png", "scores.png", "interval.png"}
    assert all((made.folder / name).read_bytes().startswith(b"\x89PNG") for name in names)


TRACE = pd.DataFrame(
    {
        "pairs": [1, 2, 3, 5],
        "baseline": [0.0, 0.5, 0.5, 1.0],
        "candidate": [1.0, 1.0, 0.5, 1.0],
        "log_wealth": [0.0, math.log(10), math.log(1000), 1e4],
        "mean_difference": [1.0, 0.75, 0.5, 0.375],
        "low": [-1.0, -0.5, 0.0, 0.1],
        "high": [1.0, 1.0, 0.9, 0.8],
    }
)


def test_the_wealth_figure_holds_the_path_in_powers_of_ten_and_the_threshold():
    (panel,) = figures.wealth_figure(TRACE, 0.01).axes
    path, threshold = panel.get_lines()[:2]
    np.testing.assert_array_equal(path.get_xdata(), [0, 1, 2, 3, 5])
    np.testing.assert_allclose(path.get_ydata(), [0, 0, 1, 3, 1e4 / math.log(10)])
    assert set(threshold.get_ydata()) == {2.0} and "1/α = 100" in threshold.get_label()


def test_the_interval_figure_holds_the_mean_its_interval_and_what_is_tolerated():
    (panel,) = figures.interval_figure(TRACE, 0.25, 0.05).axes
    np.testing.assert_array_equal(panel.get_lines()[0].get_ydata(), TRACE["mean_difference"])
    assert [line.get_ydata()[0] for line in panel.get_lines()[1:]] == [0, 0.25, -0.25]
    band = panel.collections[0].get_paths()[0].vertices
    assert {(1.0, -1.0), (5.0, 0.1), (5.0, 0.8)} <= {(float(x), float(y)) for x, y in band}
    (plain,) = figures.interval_figure(TRACE, None, 0.05).axes
    assert len(plain.get_lines()) == 2


@pytest.mark.parametrize("constant", [False, True])
def test_the_score_figure_counts_every_score_of_both_sides(constant):
    trace = TRACE.assign(baseline=0.5, candidate=0.5) if constant else TRACE
    (panel,) = figures.scores_figure(trace).axes
    assert [patch.get_data().values.sum() for patch in panel.patches] == [4, 4]
    means = [line.get_xdata()[0] for line in panel.get_lines()]
    assert means == [trace["baseline"].mean(), trace["candidate"].mean()]


def test_a_walk_is_a_run_that_can_stop():
    units: Pairs = pairs(torch.rand(2, 90, dtype=torch.float64), torch.rand(2, 90, dtype=torch.float64) ** 2)
    whole = st.run(units, "ons", settings=st.Settings(batch_size=40))
    from mad.stats.bets import ons

    test = st.SequentialTest(ons.Bet(ons.Config()), st.Settings(batch_size=40))
    first, second, third = test.walk(units)
    assert torch.equal(torch.cat([first, second, third], dim=2), whole.log_wealth) and test.units == 90
    stopped = st.SequentialTest(ons.Bet(ons.Config()), st.Settings(batch_size=40))
    assert torch.equal(next(stopped.walk(units)), first) and stopped.units == 40
    assert torch.equal(stopped.update(units.cut(40, 80)), second)
