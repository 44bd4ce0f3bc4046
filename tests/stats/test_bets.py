"""Every bet keeps its bounds, learns from the past only, and finds the optimum it claims to find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from mad import registry
from mad.config import canonical, parse
from mad.errors import ConfigError, DataError
from mad.stats.bets import _steps, kelly, ratio
from mad.stats.bets._base import Pairs, pairs

BETS = registry.names("bets")
QUICK = {"network": {"epochs": 3}, "kernel": {"features": 24}}
SHAPES = {"scalar": (3, 60, 1, 1), "vector": (3, 60, 1, 4), "cluster": (3, 60, 3, 1), "vector cluster": (3, 60, 2, 3)}


def make(name, **options):
    module = registry.load("bets", name)
    return module.Bet(module.Config(**{**QUICK.get(name, {}), **options}))


def units(shape=(3, 60, 1, 1), shift=0.5, seed=0) -> Pairs:
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.normal(size=shape)) for _ in range(2))
    weights = torch.from_numpy(rng.random(shape[:3]))
    weights = weights / weights.sum(dim=2, keepdim=True)
    return Pairs(x, y + shift, weights, weights.flip(2))


def fitted(bet, given: Pairs, batch=20, streams=None):
    streams = torch.arange(given.streams) if streams is None else streams
    state = bet.start(streams, given.dimensions, 7)
    for stop in range(batch, given.units + 1, batch):
        state = bet.learn(state, given.cut(0, stop), batch)
    return state


@pytest.mark.parametrize("name", BETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bounds_shapes_and_tensors(name, shape):
    bet, given = make(name), units(SHAPES[shape])
    before = bet.start(torch.arange(3), given.dimensions, 7)
    assert len(bet.groups) == bet.candidates
    assert (bet.payoffs(before, given) == 0).all()  # untrained, it does not bet
    state = fitted(bet, given)
    assert all(isinstance(v, torch.Tensor) for v in state.values())
    z = torch.cat([given.x.flatten(1, 2), torch.full((3, 2, given.dimensions), 1e12), -given.y.flatten(1, 2)], dim=1)
    g = bet.values(state, z)
    assert g.shape == (3, bet.candidates, z.shape[1]) and g.dtype == torch.float64
    assert float(g.abs().max()) <= 0.5 + 1e-12
    assert bet.payoffs(state, given).shape == (3, bet.candidates, 60)
    assert float(bet.payoffs(state, given).mean()) > 0.02  # and it has learnt which side is larger


@pytest.mark.parametrize("name", BETS)
@pytest.mark.parametrize("kind", ["constant", "two points", "mass at 0", "separated", "one apart"])
def test_degenerate_scores_give_numbers(name, kind):
    rng, shape = np.random.default_rng(0), (2, 40)
    x, y = {
        "constant": (np.zeros(shape), np.zeros(shape)),
        "two points": (rng.integers(0, 2, shape), rng.integers(0, 2, shape)),
        "mass at 0": (rng.random(shape) * (rng.random(shape) < 0.1), rng.random(shape) * (rng.random(shape) < 0.4)),
        "separated": (np.zeros(shape), np.ones(shape)),
        "one apart": (np.zeros(shape), np.where(np.arange(40) == 39, 1e9, 0.0) * np.ones(shape)),
    }[kind]
    bet, given = make(name), pairs(torch.from_numpy(x), torch.from_numpy(y))
    payoffs = bet.payoffs(fitted(bet, given), given)
    assert torch.isfinite(payoffs).all() and float(payoffs.abs().max()) <= 1
    if kind == "separated":
        assert float(payoffs.amax(dim=1).min()) > 0.9
    if kind == "constant":
        assert float(payoffs.abs().max()) == 0


@pytest.mark.parametrize("name", BETS)
def test_learning_changes_nothing_given(name):
    bet, given = make(name), units()
    state = fitted(bet, given.cut(0, 40))
    copies = {k: v.clone() for k, v in state.items()}
    bet.learn(state, given, 20)
    assert all(torch.equal(state[k], v) for k, v in copies.items())


@pytest.mark.parametrize("name", BETS)
def test_a_stream_does_not_depend_on_its_neighbours(name):
    bet, given = make(name), units()
    alone = Pairs(*(part[1:2] for part in given))
    together = bet.payoffs(fitted(bet, given), given)[1:2]
    by_itself = bet.payoffs(fitted(bet, alone, streams=torch.tensor([1])), alone)
    # Single precision inside the network.
    torch.testing.assert_close(by_itself, together, rtol=0, atol=1e-4 if name == "network" else 1e-9)


@pytest.mark.parametrize("name", BETS)
def test_order_inside_a_cluster_does_not_matter(name):
    bet, given = make(name), units(SHAPES["cluster"])
    turned = Pairs(*(part.flip(2) for part in given))
    one, other = (bet.payoffs(fitted(bet, u), u) for u in (given, turned))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3 if name == "network" else 1e-8)


@pytest.mark.parametrize("name", BETS)
def test_padding_of_clusters_does_not_matter(name):
    bet, given = make(name), units(SHAPES["cluster"])
    x = torch.cat([given.x, torch.full_like(given.x[:, :, :1], -50.0)], dim=2)
    padded = given._replace(x=x, x_weights=torch.cat([given.x_weights, given.x_weights[:, :, :1] * 0], dim=2))
    one, other = (bet.payoffs(fitted(bet, u), u) for u in (given, padded))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3 if name == "network" else 1e-8)


def test_bad_pairs_are_errors():
    with pytest.raises(DataError, match="2 scores are NaN"):
        pairs(torch.zeros(1, 3), torch.tensor([[0.0, float("nan"), float("inf")]]))
    with pytest.raises(DataError, match="do not pair"):
        pairs(torch.zeros(1, 3), torch.zeros(1, 4))
    with pytest.raises(DataError, match="do not pair"):
        pairs(torch.zeros(1, 0), torch.zeros(1, 0))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("kelly", {"ridge": 0.0}, "ridge"),
        ("kelly", {"thresholds": 0}, "thresholds"),
        ("ratio", {"temperatures": ()}, "temperatures"),
        ("ons", {"rate": -1.0}, "rate"),
        ("network", {"epochs": 0}, "epochs"),
        ("network", {"layers": 0}, "layers"),
        ("network", {"l2": -1.0}, "l2"),
        ("kernel", {"features": 0}, "features"),
        ("kernel", {"bandwidths": (1.0, 0.0)}, "bandwidths"),
        ("mixture", {"first": registry.load("bets", "mixture").Config()}, "not of mixtures"),
    ],
)
def test_bad_options_are_errors(name, options, match):
    with pytest.raises(ConfigError, match=match):
        make(name, **options)


def test_thresholds_are_scores_that_occurred_each_once():
    scores = torch.tensor([[0.0] * 6 + [1.0, 2.0, 3.0, 9.0]], dtype=torch.float64)[:, :, None]
    placed = _steps.place(scores, torch.ones(1, 10), 4)
    assert placed.tolist() == [[[0.0, 1.0, 3.0, torch.inf]]]  # levels 2, 4, 6, 8 of 10: 0, 0, 1, 3
    without = _steps.place(scores, torch.tensor([[0.0] * 6 + [1.0] * 4]), 1)
    assert without.tolist() == [[[3.0]]]


def test_features_are_mid_indicators():
    thresholds = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
    scores = torch.tensor([[-1.0, 0.0, 0.5, 1.0, 7.0]], dtype=torch.float64)[:, :, None, None]
    found = _steps.features(thresholds, scores, torch.ones(1, 5, 1, dtype=torch.float64))
    assert found.tolist() == [[[-0.5, -0.5], [0.0, -0.5], [0.5, -0.5], [0.5, 0.0], [0.5, 0.5]]]
    assert _steps.codes(thresholds, scores[:, :, 0]).tolist() == [[[0, 1, 2, 3, 4]]]
    cluster = scores.reshape(1, 1, 5, 1)
    mean = _steps.features(thresholds, cluster, torch.full((1, 1, 5), 0.2, dtype=torch.float64))
    torch.testing.assert_close(mean[0, 0], found[0].mean(dim=0))


def test_kelly_finds_the_maximum_of_the_past_log_wealth():
    given = units((1, 200, 1, 1), shift=0.3)
    bet = make("kelly", thresholds=5, ridge=20.0, newton_steps=50)
    state = bet.learn(bet.start(torch.arange(1), 1, 0), given, 200)
    sides = [_steps.features(state["thresholds"], *side)[0].numpy() for side in given.sides]
    rows = sides[0] - sides[1]

    def loss(w):
        return -np.log(np.maximum(1 + rows @ w, 1e-300)).sum() + 10 * w @ w

    best = minimize(loss, np.zeros(5), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxfev": 20_000})
    assert np.abs(best.x).sum() < kelly.LARGEST_NORM  # the norm does not bind here
    np.testing.assert_allclose(state["weights"][0], best.x, atol=1e-5)


def test_kelly_on_counts_equals_kelly_on_rows():
    given = units((2, 120, 1, 1))
    doubled = Pairs(*(torch.cat([part, part], dim=2) for part in given))
    doubled = doubled._replace(x_weights=doubled.x_weights / 2, y_weights=doubled.y_weights / 2)
    bet = make("kelly")
    by_counts, by_rows = (fitted(bet, u)["weights"] for u in (given, doubled))
    torch.testing.assert_close(by_counts, by_rows)


def test_kelly_counts_follow_the_past_and_weights_stay_below_1():
    given = units((2, 130, 1, 1), shift=50.0)
    bet = make("kelly", ridge=1e-3)
    state = bet.start(torch.arange(2), 1, 0)
    for stop in range(10, 131, 10):
        state = bet.learn(state, given.cut(0, stop), 10)
        whole = _steps.joint_counts(state["thresholds"], given.cut(0, stop))
        assert torch.equal(state["counts"], whole)
        assert float(state["weights"].abs().sum(dim=1).max()) <= kelly.LARGEST_NORM + 1e-12
    assert int(state["placed"]) == 80  # 10, 20, 40, 80: placed anew at each doubling


@pytest.mark.parametrize("d", [1, 3])
def test_ratio_is_ridge_logistic_regression(d):
    given = units((1, 150, 1, d))
    bet = make("ratio", thresholds=4, ridge=2.0, newton_steps=60)
    state = bet.learn(bet.start(torch.arange(1), d, 0), given, 150)
    rows = torch.cat([_steps.features(state["thresholds"], *side)[0] for side in given.sides])
    labels = np.repeat([1, 0], 150)
    other = LogisticRegression(C=1 / 2.0, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(rows.numpy(), labels)
    np.testing.assert_allclose(state["weights"][0], other.coef_[0], atol=1e-5)
    r = rows @ state["weights"][0]
    wanted = torch.stack([(t * r / 2).tanh() / 2 for t in bet.config.temperatures])
    found = bet.values(state, torch.cat([given.x, given.y], dim=1)[:, :, 0])
    torch.testing.assert_close(found[0], wanted)


def test_ratio_saturates_toward_total_variation():
    rng = np.random.default_rng(0)
    points, p, q = np.array([0.0, 0.5, 1.0]), [0.5, 0.3, 0.2], [0.3, 0.4, 0.3]
    draw = lambda weights, n: torch.from_numpy(rng.choice(points, p=weights, size=(1, n)))  # noqa: E731
    bet = make("ratio", temperatures=(1.0, 1000.0))
    state = fitted(bet, pairs(draw(p, 4000), draw(q, 4000)), batch=1000)
    means = bet.payoffs(state, pairs(draw(p, 20_000), draw(q, 20_000))).mean(dim=2)[0]
    assert float(means[1]) == pytest.approx(0.2, abs=0.015)
    assert float(means[0]) < 0.1


def test_newton_on_separable_rows_stays_finite():
    rows, one = torch.eye(2, dtype=torch.float64)[None], torch.ones(1, 2, dtype=torch.float64)
    found = ratio.logistic(rows, one * torch.tensor([1e6, 0]), one * torch.tensor([0, 1e6]), one * 0, 1e-6, 30)
    assert torch.isfinite(found).all() and float(found[0, 0]) > 5


def test_ons_takes_the_published_step():
    given = units((1, 30, 1, 1))
    bet = make("ons", thresholds=3, ridge=10.0, rate=1.0)
    state = bet.learn(bet.start(torch.arange(1), 1, 0), given, 30)
    rows = [_steps.features(state["thresholds"], *side)[0].numpy() for side in given.sides]
    gain = rows[0] - rows[1]
    wanted = np.linalg.solve(10 * np.eye(3) + gain.T @ gain, gain.sum(axis=0))
    wanted *= min(1, 0.5 / np.abs(wanted).sum())
    np.testing.assert_allclose(state["weights"][0], wanted, atol=1e-12)


def test_kernel_sums_do_not_depend_on_the_batches():
    given = units((2, 60, 1, 3))
    bet = make("kernel")
    whole = bet.start(torch.arange(2), 3, 7)
    first = bet.learn(whole, given.cut(0, 20), 20)
    for steps in ((20, 20), (40,)):
        state, stop = first, 20
        for size in steps:
            stop += size
            state = bet.learn(state, given.cut(0, stop), size)
        found = bet.payoffs(state, given)
        whole = found if steps == (20, 20) else whole
    torch.testing.assert_close(found, whole)


def test_network_restores_its_best_weights():
    """Trained on pairs that say the opposite of the latest batch, it must not get worse on the latest."""
    bet, given = make("network", epochs=20), units((4, 100, 1, 1), shift=1.0)
    state = fitted(bet, given, batch=50)
    misled = given.joined(units((4, 100, 1, 1), shift=-1.0, seed=1))
    before = bet.payoffs(state, misled.cut(100, 200))[:, 0].mul(1 - 1e-6).log1p().mean()
    after = bet.payoffs(bet.learn(state, misled, 100), misled.cut(100, 200))[:, 0].mul(1 - 1e-6).log1p().mean()
    assert float(after) >= float(before) - 1e-6


@pytest.mark.parametrize("layers", [1, 3])
def test_the_network_is_the_one_that_torch_would_build(layers):
    bet = make("network", layers=layers, hidden=8, temperatures=(1.0,))
    state = bet.start(torch.arange(2), 3, 0)
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    for stream in range(2):
        parts, h = [part[stream] for part in bet._split(state["parameters"], 3)], z[stream]
        for (shape, _), k in zip(bet._layout(3), range(len(parts)), strict=True):
            parts[k] = parts[k].reshape(shape)
        for k in range(0, 4 * layers, 4):
            h = torch.nn.functional.layer_norm(h @ parts[k] + parts[k + 1], (8,))
            h = (h * parts[k + 2] + parts[k + 3]).relu()
        expected = (h @ parts[-2] + parts[-1])[:, 0]
        torch.testing.assert_close(bet._forward(state["parameters"], z)[stream], expected)
    assert len(parts) == 4 * layers + 2


def test_a_penalty_keeps_the_weights_of_the_network_small():
    given = units((2, 100, 1, 1), shift=1.0)
    sizes = [float(fitted(make("network", epochs=20, l2=l2), given)["parameters"].norm()) for l2 in (0.0, 10.0)]
    assert sizes[1] < 0.9 * sizes[0]


def test_minibatches_of_the_network_hang_on_the_seed():
    bet, given = make("network", minibatch=5, epochs=20), units((2, 60, 1, 1), shift=1.0)
    first, other = (bet.start(torch.arange(2), 1, seed) for seed in (0, 1))
    own = {name: value for name, value in first.items() if name != "seed"}
    found = [bet.learn({**own, "seed": state["seed"]}, given, 60)["parameters"] for state in (first, first, other)]
    assert not torch.equal(found[0], first["parameters"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_mixture_holds_its_parts_apart():
    bet = make("mixture", first=make("ons").config)
    assert bet.groups == (0, 0, 1, 1, 1)
    given = units()
    own = fitted(make("ons"), given)
    state = fitted(bet, given)
    assert all(torch.equal(state[f"first.{k}"], v) for k, v in own.items())


def test_bets_are_named_in_data():
    module = registry.load("bets", "mixture")
    data = {"first": {"name": "ons", "ridge": 40}, "second": "kernel"}
    config = parse(module.Config, data)
    assert config.first.ridge == 40.0 and config.second.features == 128
    assert canonical(config)["first"]["name"] == "ons"
