"""The variational autoencoder: its score by hand, its training, its errors."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from mad.detectors._base import Batch, Population
from mad.detectors.vae import Config, Detector
from mad.errors import ConfigError, FitError
from tests.detectors.worlds import with_features, world


def fit(given, seed=3, report=None, **options) -> Detector:
    detector = Detector(Config(**options))
    detector.fit(given.populations(), seed, report)
    return detector


def test_score_is_reconstruction_plus_beta_kl_at_the_posterior_mean():
    given = world()
    detector = fit(given, beta=0.7, epochs=3, latent_dim=5)
    state = {k.removeprefix("first/"): v.double() for k, v in detector.state.items() if k.startswith("first/")}
    dense = lambda name, x: x @ state[f"{name}.weight"].T + state[f"{name}.bias"]  # noqa: E731
    x = (given.test.features["first"].double() - state["mean"]) / state["scale"]
    mean, log_variance = dense("posterior", silu(dense("encoder", x))).split(5, dim=1)
    decoded = dense("output", silu(dense("decoder", mean)))
    reconstruction = -torch.distributions.Normal(decoded, 1.0).log_prob(x)
    reconstruction = reconstruction - torch.log(torch.tensor(2 * torch.pi)) / 2
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(5).double(), torch.ones(5).double())
    divergence = torch.distributions.kl_divergence(posterior, prior)
    expected = (reconstruction.sum(dim=1) + 0.7 * divergence.sum(dim=1)) / 12
    torch.testing.assert_close(detector.score(given.test)["first"], expected, rtol=1e-6, atol=1e-7)


def test_training_lowers_the_score_of_trusted_rows():
    draws, means = torch.Generator().manual_seed(0), []
    rows = Batch({"x": torch.randn(500, 2, generator=draws) @ torch.randn(2, 20, generator=draws)})

    def report(epoch, state):
        means.append(Detector(Config(), state).score(rows)["x"].mean().item())

    Detector(Config(epochs=15)).fit({"trusted": Population([rows])}, seed=0, report=report)
    assert len(means) == 15
    assert means[-1] < 0.8 * means[0]


def test_the_unit_of_the_features_does_not_matter():
    given = world()
    scaled = type(given)(
        *(with_features(b, lambda h: 1024 * h) for b in (given.trusted, given.untrusted, given.test)),
        given.is_anomalous,
    )
    found, expected = fit(scaled, epochs=4).score(scaled.test), fit(given, epochs=4).score(given.test)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_another_seed_is_another_network():
    given = world()
    assert not torch.equal(
        fit(given, seed=1, epochs=1).state["first/encoder.weight"],
        fit(given, seed=2, epochs=1).state["first/encoder.weight"],
    )


def test_a_row_far_away_has_a_finite_large_score():
    given = world()
    detector = fit(given, epochs=2)
    far = detector.score(with_features(given.test, lambda h: h + 1e6))["first"]
    assert torch.isfinite(far).all() and far.min() > detector.score(given.test)["first"].max()


def test_a_loss_that_diverges_and_rows_that_are_equal_are_errors():
    with pytest.raises(FitError, match=r"layer 'first': the loss of epoch . is not finite: lower lr"):
        fit(world(), lr=1e20)
    with pytest.raises(FitError, match="all trusted rows are equal"):
        Detector(Config()).fit({"trusted": Population([Batch({"x": torch.ones(4, 2)})])}, seed=0)


def test_options_out_of_range_are_errors():
    for options in ({"latent_dim": 0}, {"epochs": 0}, {"batch_size": 0}, {"beta": -1.0}, {"lr": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Config(**options)
