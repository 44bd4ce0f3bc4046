"""audit_study and power: folds are the single test, noise is seeded, plans say what a simulation says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mad import registry
from mad.config import parse
from mad.errors import ConfigError, DataError
from mad.stages import audit_study, power
from mad.stages._fold_figures import detection_figure, paths_figure
from mad.stages._power_curves import at_the_end, power_table, sample_sizes
from mad.stages._power_figures import samples_figure, tolerance_figure
from mad.stats import planning
from mad.stats.baselines._base import run as run_baseline
from mad.stats.bets._base import pairs
from mad.stats.sequential_test import Settings
from mad.stats.sequential_test import run as run_test
from tests.stages.scores import simulated, write


@pytest.fixture
def study(tmp_path, engine, run):
    """Runs a study of a table; its artifact."""

    def studied(table, candidate="shifted", flags=None, **options):
        asked = {"pairs.file": write(table, tmp_path / "s.csv"), "pairs.baseline": "base", "pairs.candidate": candidate}
        options = {f"study.{k}": v for k, v in options.items()}
        return run(engine, "audit_study", {**asked, **(flags or {}), **options})["audit_study"]

    return studied


def test_every_fold_is_a_test_of_its_own(study):
    table = simulated(1003)
    made = study(table, folds=5, flags={"audit.tolerances": [0.0, 0.05], "audit.batch_size": 50})
    found, curves = made.json("study.json"), made.table("power.parquet")
    assert (found["fold_size"], found["left_over"], found["folds"]) == (200, 3, 5)
    x, y = (torch.tensor(table[name].to_numpy()[:1000].reshape(5, 200)) for name in ("base", "shifted"))
    expected = run_test(pairs(x, y), settings=Settings((0.0, 0.05), batch_size=50)).rejected_at
    for k, row in enumerate(found["rates"]):
        assert row["rate"] == float((expected[:, k] > 0).double().mean()) and row["noise"] == 0
    for (tolerance, samples), rate in curves.set_index(["tolerance", "samples"])["rate"].items():
        at = expected[:, [0.0, 0.05].index(tolerance)]
        assert rate == float(((at > 0) & (at <= samples)).double().mean())
    assert curves["samples"].unique().tolist() == [50, 100, 150, 200]
    assert made.summary["rates"][0]["tolerance"] == 0


def test_the_false_alarms_of_equal_behaviour_stay_below_alpha(study):
    made = study(simulated(6000, seed=3), "same", folds=40, flags={"audit.alpha": 0.1})
    curves = made.table("power.parquet")
    assert curves["rate"].max() <= 0.1 + 3 * (0.1 * 0.9 / 40) ** 0.5


def test_noise_is_seeded_clipped_and_costs_power(study):
    table = simulated(1600)
    flags = {"audit.range": [0, 1], "audit.tolerances": [0.0], "audit.shuffle": True}
    made = study(table, folds=8, noise=[0.0, 0.3], flags=flags)
    clean, noisy = made.json("study.json")["rates"]
    assert clean["noise"] == 0 and noisy["noise"] == 0.3 and noisy["rate"] < clean["rate"]
    again = study(table, folds=8, noise=[0.3], flags=flags)
    assert again.json("study.json")["rates"] == [noisy]
    units = pairs(torch.rand(1, 500, dtype=torch.float64), torch.rand(1, 500, dtype=torch.float64))
    small, large = (audit_study.with_noise(units, s, [-50, 50], 4) for s in (0.1, 0.2))
    torch.testing.assert_close(2 * (small.x - units.x), large.x - units.x)
    assert float((small.x - units.x).std()) == pytest.approx(0.1, rel=0.15)
    assert (
        abs(float(torch.corrcoef(torch.stack([(s - u).flatten() for s, u in zip(small[:2], units[:2])]))[0, 1])) < 0.2
    )
    clipped = audit_study.with_noise(units, 5.0, [0, 1], 4)
    assert float(clipped.x.min()) == 0 and float(clipped.y.max()) == 1
    assert audit_study.with_noise(units, 0.0, [0, 1], 4) is units


def test_other_tests_see_the_same_folds(study):
    """Equal behaviour: who asks the Kolmogorov-Smirnov test at every look rejects more often than who asks once."""
    table = simulated(6000, seed=3)
    flags = {"audit.tolerances": [0.0]}
    rows = study(table, "same", folds=60, tests=["ks", "c2st"], flags=flags).json("study.json")["tests"]
    ks, c2st = rows
    x, y = (torch.tensor(table[name].to_numpy().reshape(60, 100)) for name in ("base", "same"))
    values = run_baseline("ks", x, y, [25, 50, 75, 100]).values
    assert ks["rate"] == float((values[:, -1] <= 0.05).double().mean()) < ks["peeking_rate"]
    assert ks["peeking_rate"] == float((values <= 0.05).any(dim=1).double().mean())
    assert c2st["rate"] == c2st["peeking_rate"] <= 0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5
    assert (c2st["null"], ks["kind"]) == ("equal marginals", "p-value")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"study": {"tests": ["kss"]}}, "unknown baseline 'kss'"),
        ({"study": {"folds": 1}}, "folds must be at least 2"),
        ({"study": {"noise": [-0.1]}}, "noise takes different standard deviations of 0 or more"),
        ({"study": {"noise": [0.1]}}, "noise needs the range that scores are clipped to"),
        ({"study": {"power": 0}}, "power must lie in"),
        ({"seed": -1}, "--seed must be 0 or more"),
    ],
)
def test_impossible_studies_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        parse(audit_study.Config, options)


def test_folds_smaller_than_a_batch_are_refused(study):
    with pytest.raises(DataError, match="200 prompts in 10 folds are 20 each, fewer than a batch of 25"):
        study(simulated(200), folds=10)


def test_a_plan_says_what_a_simulation_says(engine, run):
    flags = {"plan.streams": 40, "plan.samples": 300, "audit.batch_size": 50, "audit.tolerances": [0.0, 0.1]}
    made = run(engine, "power", flags)["power"]
    found, curves = made.json("plan.json"), made.table("power.parquet")
    bet = registry.load("bets", "mixture")
    source = planning.beta_source((2, 8), (2.5, 7))
    expected = planning.rejections(source, 40, 300, bet.Bet(bet.Config()), Settings((0.0, 0.1), batch_size=50))
    rows = at_the_end(expected, (0.0, 0.1), 300, 0.8)
    for ours, row in zip(found["rates"], rows, strict=True):
        assert {k: ours[k] for k in row} == row
        assert 20 < ours["samples_by_growth"] < 1000
    assert found["source"] == "assumed" and curves["rate"].max() == found["rates"][0]["rate"] > 0.5
    null = run(engine, "power", {**flags, "plan.assumed_candidate": [2, 8]})["power"].json("plan.json")
    assert null["rates"][0]["rate"] < 0.2 and null["rates"][1]["samples_by_growth"] is None


def test_a_pilot_takes_the_place_of_an_assumption(engine, run, tmp_path):
    table = simulated(800)
    table.loc[3, "shifted"] = np.nan
    flags = {"plan.streams": 30, "plan.samples": 300, "audit.batch_size": 50, "audit.tolerances": [0.0]}
    pilot = {"plan.pilot": write(table, tmp_path / "pilot.csv"), "plan.baseline": "base", "plan.candidate": "shifted"}
    made = run(engine, "power", {**flags, **pilot})["power"]
    found = made.json("plan.json")
    assert found["source"] == "pilot" and found["pilot_prompts"] == 799 and 0.6 < found["share"] < 1
    assert found["rates"][0]["rate"] > 0.4
    write(simulated(800, seed=1), tmp_path / "pilot.csv")
    other = run(engine, "power", {**flags, **pilot})["power"]
    assert other.key != made.key  # what the file holds is in the key
    with pytest.raises(DataError, match=r"has no column 'sifted' \(--candidate\)"):
        run(engine, "power", {**flags, **pilot, "plan.candidate": "sifted"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"plan": {"samples": 20}}, "samples 20 is less than a batch of 25"),
        ({"plan": {"streams": 1}}, "streams must be at least 2"),
        ({"plan": {"assumed_baseline": [2, -1]}}, "assumed_baseline takes two shapes above 0"),
    ],
)
def test_impossible_plans_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        parse(power.Config, options)


def test_curves_end_with_all_units_and_stay_few():
    assert sample_sizes(120, 50).tolist() == [50, 100, 120] and sample_sizes(40, 50).tolist() == [40]
    many = sample_sizes(100_000, 25)
    assert len(many) <= 61 and many[-1] == 100_000


def test_figures_hold_the_rates_and_alpha():
    rejected_at = torch.tensor([[10, 0], [60, 60]])
    table = power_table(rejected_at, (0.0, 0.1), torch.tensor([50, 100]), noise=0.0)
    (panel,) = samples_figure(table, "tolerance", 0.05).axes
    assert [line.get_ydata()[:2].tolist() for line in panel.get_lines()[:2]] == [[0.5, 1], [0, 0.5]]
    assert panel.get_lines()[2].get_label() == "α = 0.05"
    (panel,) = tolerance_figure(table, "samples", 0.05).axes
    assert [line.get_ydata()[:2].tolist() for line in panel.get_lines()[:2]] == [[0.5, 0], [1, 0.5]]


def test_figures_leave_out_tolerances_far_beyond_the_shift():
    rejected_at = torch.tensor([[10, 0, 0], [60, 0, 0]])
    table = power_table(rejected_at, (0.0, 0.1, 0.9), torch.tensor([50, 100]), noise=0.0)
    (panel,) = tolerance_figure(table, "samples", 0.05).axes
    assert panel.get_lines()[0].get_xdata().tolist() == [0, 0.1]


def test_the_rate_of_detection_stands_beside_the_measured_distance(study):
    """Total variation 0.197 between the two sides, of which a bet on single scores sees about as much."""
    made = study(simulated(2000), folds=5, flags={"audit.tolerance": 0.05})
    found = made.json("study.json")
    shift = found["shift"]
    assert shift["lower"] < shift["estimate"] < shift["upper"] and 0.1 < shift["estimate"] < 0.23
    assert shift["upper"] - shift["lower"] < 0.2 and made.summary["shift"] == shift["estimate"]
    own = next(row for row in found["rates"] if row["tolerance"] == 0.05)
    assert made.summary["rejection_rate"] == own["rate"] > 0.5
    same = study(simulated(2000), "same", folds=5).json("study.json")["shift"]
    assert same["lower"] < 0 and abs(same["estimate"]) < 0.05
    assert study(simulated(150), folds=2).json("study.json")["shift"] is None


def test_wealth_paths_end_where_they_reject():
    rising, falling = torch.arange(20.0).double() * 0.5, -torch.arange(20.0).double() * 0.1
    figure = paths_figure(torch.stack([rising, falling]), 0.05)
    (panel,) = figure.axes
    paths = [line for line in panel.lines if len(line.get_xdata()) > 2]
    # log 20 = 2.996 is reached by the seventh step of the first; the start is drawn too.
    assert [len(line.get_xdata()) for line in paths] == [8, 21]
    assert paths[0].get_ydata()[-1] == pytest.approx(3.0 / np.log(10))
    (level,) = [line for line in panel.lines if str(line.get_label()).startswith("1/α")]
    assert level.get_ydata()[0] == pytest.approx(np.log10(20)) and "1 of 2 reject" in level.get_label()
    many = paths_figure(torch.zeros(500, 10).double(), 0.05)
    assert len(many.axes[0].lines) == 51


def test_a_detection_figure_shows_tolerance_and_distance():
    rates = [{"tolerance": t, "rate": r, "low": r, "high": r} for t, r in [(0.0, 1.0), (0.1, 0.4), (0.3, 0.0)]]
    figure = detection_figure(rates, 0.1, {"estimate": 0.2, "lower": 0.15, "upper": 0.25})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["rejected", "tolerance 0.1", "measured distance 0.2"]
    assert detection_figure(rates, 0.0, None).axes[0].get_xlim()[1] == pytest.approx(0.3)


def test_a_shift_that_grows_is_found_later(study):
    table, flags = simulated(3000), {"audit.tolerances": [0.0]}
    ends = [study(table, folds=6, drift=drift, flags=flags).json("study.json")["rates"][0] for drift in (0.0, 1.0)]
    assert ends[0]["rate"] == 1 and ends[0]["median_samples"] < (ends[1]["median_samples"] or 501)


def test_drift_grows_linearly_and_is_seeded():
    zeros, ones = torch.zeros(400, 200).double(), torch.ones(400, 200).double()
    whole = pairs(zeros, ones)
    assert audit_study.with_drift(whole, 0.0, 1) is whole
    grown = audit_study.with_drift(whole, 0.5, 1)
    torch.testing.assert_close(grown.x + grown.y, whole.y)
    difference = (grown.y - grown.x)[:, :, 0, 0].mean(dim=0)
    expected = (torch.arange(200) / 100).clamp(max=1).double()
    assert float((difference - expected).abs().max()) < 0.25 and float((difference - expected).abs().mean()) < 0.05
    assert (difference[100:] == 1).all()
    assert torch.equal(audit_study.with_drift(whole, 0.5, 1).x, grown.x)
    assert not torch.equal(audit_study.with_drift(whole, 0.5, 2).x, grown.x)


def test_a_shift_that_never_grows_raises_no_alarm(study):
    """Sides that change places have one distribution, however far apart they were."""
    made = study(simulated(6000), folds=40, drift=1e9, flags={"audit.tolerances": [0.0]})
    assert made.json("study.json")["rates"][0]["rate"] <= 0.05 + 3 * (0.05 * 0.95 / 40) ** 0.5
    with pytest.raises(ConfigError, match="drift must be a share of 0 or more, got -1"):
        study(simulated(60), drift=-1.0)


def test_seeds_are_the_audits_of_their_orders_and_their_spread_is_told(study, engine, run, tmp_path):
    table = simulated(600, seed=5)
    made = study(table, seeds=6, flags={"seed": 3, "audit.tolerance": 0.01, "audit.batch_size": 50})
    found = made.json("study.json")
    assert (found["folds"], found["fold_size"], found["left_over"], found["seeds"]) == (6, 600, 0, 6)
    scores = {"pairs.file": write(table, tmp_path / "s.csv"), "pairs.baseline": "base", "pairs.candidate": "shifted"}
    how = {"audit.tolerance": 0.01, "audit.batch_size": 50, "audit.shuffle": True, "audit.stop": False}
    alone = [run(engine, "audit", {**scores, **how, "seed": seed})["audit"].verdict for seed in range(3, 9)]
    at = [one["rejected_at"] for one in alone if one["rejected"]]
    own = next(row for row in found["rates"] if row["tolerance"] == 0.01)
    assert own["rate"] == len(at) / 6 and len({*at}) > 1
    (told,) = found["spread"]
    assert told["rejected_at"] == np.quantile(at, [0, 0.25, 0.5, 0.75, 1]).tolist()
    for name in ("log_wealth", "shift_lower_bound"):
        assert told[name] == pytest.approx(np.quantile([one[name] for one in alone], [0, 0.25, 0.5, 0.75, 1]))
    assert (
        study(table, seeds=6, folds=4, flags={"seed": 3, **how}).key
        == study(table, seeds=6, flags={"seed": 3, **how}).key
    )


def test_a_family_of_seeds_needs_two():
    with pytest.raises(ConfigError, match="seeds must be at least 2, got 1"):
        parse(audit_study.Config, {"study": {"seeds": 1}})
