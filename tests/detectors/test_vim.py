"""Virtual-logit matching against a slow plain twin."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mad.detectors._base import Batch, Population
from mad.detectors.vim import Config, Detector
from mad.errors import ConfigError, FitError
from mad.stats.roc import auroc
from tests.detectors.worlds import world


def fit(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, **options) -> Detector:
    detector = Detector(Config(**options))
    detector.subject = SimpleNamespace(head=(weight, bias))
    detector.fit({"trusted": Population([Batch({}, penultimate=x)])}, seed=0)
    return detector


def score(detector: Detector, x: torch.Tensor) -> torch.Tensor:
    return detector.score(Batch({}, penultimate=x))["output"]


def plain(trusted, test, weight, bias, dim):
    """By singular vectors of the trusted rows about the origin, one row at a time."""
    trusted, test, weight, bias = (np.asarray(x, dtype=np.float64) for x in (trusted, test, weight, bias))
    origin = -np.linalg.pinv(weight) @ bias
    _, _, right = np.linalg.svd(trusted - origin, full_matrices=True)
    residual = [np.linalg.norm(right[dim:] @ (row - origin)) for row in trusted]
    largest = [max(weight @ row + bias) for row in trusted]
    alpha = np.mean(largest) / np.mean(residual)
    found = []
    for row in test:
        logits = weight @ row + bias
        virtual = alpha * np.linalg.norm(right[dim:] @ (row - origin))
        found.append(virtual - np.log(np.exp(logits).sum()))
    return np.array(found)


@pytest.mark.parametrize("dim", [1, 4, 9])
def test_agrees_with_the_plain_twin(dim):
    given = world()
    weight, bias = given.subject.head
    detector = fit(given.trusted.penultimate, weight, bias, dim=dim)
    expected = plain(given.trusted.penultimate, given.test.penultimate, weight, bias, dim)
    np.testing.assert_allclose(score(detector, given.test.penultimate), expected, rtol=1e-8, atol=1e-9)


def test_more_outputs_than_units_and_a_single_one():
    draws = torch.Generator().manual_seed(0)
    x, test = torch.randn(200, 6, generator=draws), torch.randn(20, 6, generator=draws)
    weight, bias = torch.randn(9, 6, generator=draws), torch.randn(9, generator=draws)
    found = score(fit(x, weight, bias, dim=3), test)
    np.testing.assert_allclose(found, plain(x, test, weight, bias, 3), rtol=1e-8)
    # One logit z is the pair (-z/2, z/2): so is a head of two such rows.
    pair = torch.cat([-weight[:1], weight[:1]]) / 2, torch.cat([-bias[:1], bias[:1]]) / 2
    single = score(fit(x, weight[:1], bias[:1], dim=3), test)
    np.testing.assert_allclose(single, plain(x, test, *pair, 3), rtol=1e-8)


def test_movement_that_the_head_does_not_read_is_seen():
    given = world()
    detector = fit(given.trusted.penultimate, *given.subject.head)
    axis = detector.state["residual"][:, 0]
    x = given.test.penultimate[:100].double()
    moved = torch.cat([x, x + 2 * axis])
    weight = given.subject.head[0].double()
    assert (weight @ axis).abs().max() < 0.05
    assert auroc(score(detector, moved), torch.arange(200) >= 100) > 0.95


def test_default_dimensions():
    draws = torch.Generator().manual_seed(1)

    def dim(width: int, rows: int) -> int:
        x = torch.randn(rows, width, generator=draws)
        weight = torch.eye(3, width)
        return width - fit(x, weight, torch.ones(3)).state["residual"].shape[1]

    assert dim(10, 100) == 5 and dim(11, 100) == 5
    assert dim(768, 900) == 512
    assert dim(768, 200) == 100  # fewer rows than the published dimensions: half of what they span
    sparse = torch.cat([torch.randn(300, 8, generator=draws), torch.zeros(300, 56)], dim=1)
    detector = fit(sparse, torch.eye(3, 64), torch.zeros(3))
    assert 64 - detector.state["residual"].shape[1] == 4
    dead = torch.zeros(1, 64).index_fill(1, torch.tensor([40]), 20.0)
    assert score(detector, dead) > score(detector, sparse).max()


def test_unusable_rows_and_options_are_errors():
    given = world()
    x, (weight, bias) = given.trusted.penultimate, given.subject.head
    with pytest.raises(ConfigError, match="dim must be at least 1"):
        Config(dim=0)
    with pytest.raises(FitError, match="span 10 directions: dim 10 leaves no residual"):
        fit(x, weight, bias, dim=10)
    with pytest.raises(FitError, match="span 1 directions"):
        fit(x[:, :1], weight[:, :1], bias)
    with pytest.raises(FitError, match="vim needs it above 0"):
        fit(x, weight, bias - 1000)
