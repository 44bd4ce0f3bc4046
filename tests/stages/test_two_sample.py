"""two_sample: rates and stops are those of the tests themselves, levels hold under the null, mistakes are told."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from mad import registry
from mad.config import parse
from mad.context import Context
from mad.errors import ConfigError, DataError
from mad.stages import two_sample as stage
from mad.stats import sequential_test as st
from mad.stats.baselines import _base as baselines

BETS = registry.names("bets")
STREAMS = registry.names("streams")


def config(stream: str = "rotated_digits", null: bool = False, seed: int = 0, **options) -> stage.Config:
    of_stream = {key.removeprefix("stream_"): options.pop(key) for key in [*options] if key.startswith("stream_")}
    small = {"pairs": 200, "streams": 30, "batch_size": 50, **options}
    return parse(
        stage.Config, {"stream": {"name": stream, "null": null, **of_stream}, "two_sample": small, "seed": seed}
    )


def crossings(asked: stage.Config) -> tuple[torch.Tensor, torch.Tensor]:
    return stage.crossings(asked, stage.draw_pairs(asked), Context(None, None))


@pytest.fixture
def two_sample(engine, run):
    def made(**flags):
        return run(engine, "two_sample", {name.replace("__", "."): value for name, value in flags.items()})[
            "two_sample"
        ]

    return made


def test_the_artifact_holds_rates_stops_and_figures(two_sample):
    small = {"two_sample__pairs": 200, "two_sample__streams": 20, "two_sample__bet": "kernel"}
    shifted = two_sample(stream="rotated_digits", **small)
    null = two_sample(stream="rotated_digits", stream__null=True, **small)
    table, stops = (shifted.table(f"{name}.parquet") for name in ("rejections", "stops"))
    assert table["samples"].tolist() == [50, 100, 150, 200]
    assert table["rejected"].is_monotonic_increasing and table["rejected"].iloc[0] == 0  # the first batch is no bet
    assert shifted.summary["power"] == table["rejected"].iloc[-1] == (stops["rejected_at"] > 0).mean() > 0.8
    assert shifted.summary["median_stop"] <= 200 and shifted.summary["false_alarms"] is None
    assert null.summary["false_alarms"] <= 0.1 and null.summary["power"] is None
    assert shifted.summary["dimensions"] == 64 and shifted.summary["test"] == "kernel"
    for made, names in ((shifted, {"power.png", "stops.png"}), (null, {"false_alarms.png"})):
        drawn = {name for name in made.meta["files"] if name.endswith(".png")}
        assert drawn == names and all((made.folder / name).stat().st_size > 5000 for name in names)


def test_a_bet_is_run_as_the_sequential_test_runs_it():
    asked = config("gaussian_cit", bet="kernel", pairs=300, stream_a=6.0)
    rejected_at, at_look = crossings(asked)
    settings = st.Settings((0.0,), 0.05, 50, seed=0)
    found = st.run(stage.draw_pairs(asked), "kernel", settings=settings)
    assert torch.equal(rejected_at, found.rejected_at[:, 0]) and bool((rejected_at > 0).any())
    assert torch.equal(
        at_look.sum(dim=0),
        torch.tensor([int(((rejected_at > 0) & (rejected_at <= n)).sum()) for n in asked.two_sample.looks]),
    )


def test_a_baseline_is_asked_at_every_look_and_once():
    asked = config(
        "gaussian_cit",
        by="baseline",
        baseline="ks",
        tau1={"name": "compose", "first": "projection"},
        tau2={"name": "compose", "first": {"name": "projection", "d": 1}, "second": "projection"},
        null=True,
        streams=200,
    )
    units = stage.draw_pairs(asked)
    assert units.dimensions == 1
    rejected_at, at_look = crossings(asked)
    outcome = baselines.run("ks", units.x[:, :, 0, 0], units.y[:, :, 0, 0], asked.two_sample.looks)
    table = stage.make_table(asked, rejected_at, at_look)
    assert table["rejected"].tolist() == outcome.rejected(0.05, peeking=True).double().mean(dim=0).tolist()
    assert table["rejected_once"].tolist() == outcome.rejected(0.05, peeking=False).double().mean(dim=0).tolist()
    assert table["rejected"].iloc[-1] > table["rejected_once"].iloc[-1]  # peeking raises more false alarms
    assert stage.summarise(asked, table, rejected_at)["test"] == "ks"


@pytest.mark.parametrize("bet", [bet for bet in BETS if bet != "network"])
@pytest.mark.parametrize("stream", STREAMS)
def test_false_alarms_stay_below_the_level(stream, bet):
    options = {"bet": {"name": bet, "thresholds": 3}} if bet in ("kelly", "ratio", "ons") else {"bet": bet}
    if bet == "mixture":
        options = {"bet": {"name": bet, **{part: {"thresholds": 3} for part in ("first", "second")}}}
    rejected_at, _ = crossings(config(stream, null=True, **options))
    assert int((rejected_at > 0).sum()) <= 5  # of 30 at level 0.05: above with probability 0.003


@pytest.mark.parametrize(("stream", "bet"), [("rotated_digits", "network"), ("fgsm_images", "kernel")])
def test_what_differs_is_found(stream, bet):
    shifted, _ = crossings(config(stream, bet=bet, streams=12))
    assert int((shifted > 0).sum()) >= 10


def test_steps_of_single_coordinates_are_blind_to_blobs_and_fine_kernels_are_not():
    seen = {}
    for bet in ({"name": "kelly"}, {"name": "kernel", "bandwidths": [0.1, 0.2]}):
        rejected_at, _ = crossings(config("blobs", bet=bet, pairs=700, streams=20))
        seen[bet["name"]] = int((rejected_at > 0).sum())
    assert seen["kelly"] <= 4 and seen["kernel"] >= 15


def test_invariance_is_tested_by_operators_on_one_side():
    side = {"name": "projection"}
    turned = {"name": "compose", "first": side, "second": {"name": "rotation", "theta": 90.0}}
    rejected_at, _ = crossings(config(null=True, tau1=side, tau2=turned, bet="kernel", streams=10))
    assert int((rejected_at > 0).sum()) == 10  # upright digits are not invariant to a quarter turn
    sides = {
        "tau1": {
            "name": "compose",
            "first": side,
            "second": {"name": "random_rotation", "thetas": [0.0, 90.0, 180.0, 270.0]},
        }
    }
    both = {**sides, "tau2": {"name": "compose", "first": sides["tau1"], "second": {"name": "rotation", "theta": 90.0}}}
    rejected_at, _ = crossings(config(null=True, bet="kernel", streams=30, **both))
    assert int((rejected_at > 0).sum()) <= 5  # those turned at random are


def test_exchangeability_is_tested_by_swap_alone():
    swap = {"tau1": "identity", "tau2": "swap"}
    rejected_at, _ = crossings(config(bet="kernel", streams=10, **swap))
    assert int((rejected_at > 0).sum()) >= 8
    assert stage.draw_pairs(config(**swap)).dimensions == 128


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"tau2": "projection"}, ConfigError, "tau1 and tau2 are the same operator"),
        ({"pairs": 99}, ConfigError, r"pairs must be at least two batches \(100\), got 99"),
        ({"streams": 1}, ConfigError, "streams must be at least 2"),
        ({"alpha": 1.0}, ConfigError, "alpha must lie between 0 and 1"),
        ({"tau1": "identity"}, DataError, "tau1 makes 128 numbers of a sample, tau2 64"),
        ({"tau1": {"name": "projection", "d": 2}}, DataError, "has 2 entries, not 3"),
        ({"pairs": 5000}, DataError, "images: 5000 pairs need 10000"),
    ],
)
def test_mistakes_are_told(options, error, said):
    with pytest.raises(error, match=said):
        stage.draw_pairs(config(**options))


def test_the_median_counts_streams_that_never_stop():
    asked = config(streams=5)
    table = pd.DataFrame({"samples": [200], "rejected": [0.6], "rejected_once": [0.6]})
    found = stage.summarise(asked, table, torch.tensor([0, 0, 70, 90, 110]))
    assert found["median_stop"] == 110 and found["power"] == 0.6
    assert stage.summarise(asked, table, torch.tensor([0, 0, 0, 90, 110]))["median_stop"] is None


def test_several_draws_of_a_random_operator_are_one_unit():
    """The first draw is that of one; a unit is paid the mean, which is less noisy than a draw."""
    turn = {"name": "random_rotation"}
    side = {"name": "compose", "first": "projection", "second": turn}
    how = {"bet": "kernel", "tau1": "projection", "tau2": side, "streams": 10}
    one, four = (stage.draw_pairs(config(draws=draws, **how)) for draws in (1, 4))
    assert one.x.shape[2] == 1 and four.x.shape[2] == four.y.shape[2] == 4
    assert torch.equal(four.y[:, :, :1], one.y) and torch.equal(four.x, one.x.expand_as(four.x))
    assert not torch.equal(four.y[:, :, 1], four.y[:, :, 0])
    assert float(four.y_weights.sum(dim=2).sub(1).abs().max()) < 1e-12
    bet = registry.load("bets", "kernel")
    bet = bet.Bet(bet.Config())
    state = bet.learn(bet.start(torch.arange(10), four.dimensions, 0), four, four.units)
    alone = [bet.payoffs(state, one._replace(x=four.x[:, :, k : k + 1], y=four.y[:, :, k : k + 1])) for k in range(4)]
    torch.testing.assert_close(bet.payoffs(state, four), torch.stack(alone).mean(dim=0))
    with pytest.raises(ConfigError, match="draws 2 is for bets"):
        config(draws=2, by="baseline")
