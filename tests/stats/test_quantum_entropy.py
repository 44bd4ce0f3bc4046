"""The entropy map against a matrix exponential, and its noise rule against simulation."""

from __future__ import annotations

import math

import pytest
import torch

from mad.stats.gaussian import Moments, whitening
from mad.stats.quantum_entropy import entropy_map, noise_edge, second_moment_about


def test_second_moment_is_taken_about_the_given_centre():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    centre = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    expected = (x - centre).T @ (x - centre) / 60
    torch.testing.assert_close(second_moment_about(Moments.of([x]), centre), expected, rtol=1e-12, atol=0)


def test_map_is_the_normalised_matrix_exponential():
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    second = x.T @ x / 50
    found = entropy_map(second, 4.0, 0.0)
    norm = torch.linalg.matrix_norm(second, ord=2)
    q = torch.linalg.matrix_exp(4.0 * (second - torch.eye(5)) / (norm - 1))
    torch.testing.assert_close(found.factor @ found.factor.T, q / q.trace(), rtol=1e-10, atol=1e-14)
    assert found.signal and found.excess == pytest.approx(float(norm - 1))


@pytest.mark.parametrize("scale", [1.05, 0.5])
def test_without_signal_all_directions_weigh_the_same(scale):
    second = scale * torch.eye(4, dtype=torch.float64)
    found = entropy_map(second, 4.0, noise=0.1)
    assert not found.signal
    torch.testing.assert_close(found.factor @ found.factor.T, torch.eye(4).double() / 4)


def test_large_alpha_keeps_only_the_top_direction():
    second = torch.diag(torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64))
    found = entropy_map(second, 200.0, 0.0)
    torch.testing.assert_close(found.factor @ found.factor.T, torch.diag(torch.tensor([0.0, 0, 1])).double())


def test_one_sample_edge_is_the_stated_formula():
    assert noise_edge(25, 10**9, 100, "one_sample") == pytest.approx(2 * math.sqrt(0.25) + 0.25)
    assert noise_edge(25, 100, 100, "none") == 0
    assert noise_edge(25, 26, 100, "two_sample") == math.inf


def test_two_sample_edge_approaches_the_formula_for_many_trusted_rows():
    assert noise_edge(400, 10**8, 40_000, "two_sample") == pytest.approx(0.2 + 0.01, rel=0.05)


@pytest.mark.parametrize(("d", "trusted", "untrusted"), [(10, 200, 300), (40, 150, 100), (30, 400, 20)])
def test_two_sample_edge_is_passed_by_one_null_sample_in_twenty(d, trusted, untrusted):
    draws = torch.Generator().manual_seed(d)
    edge = noise_edge(d, trusted, untrusted, "two_sample")
    passed = 0
    for _ in range(400):
        a = Moments.of([torch.randn(trusted, d, generator=draws)])
        b = Moments.of([torch.randn(untrusted, d, generator=draws)])
        w = whitening(a, 0.0, 1e-9, "floor")
        top = torch.linalg.eigvalsh(w.T @ second_moment_about(b, a.mean) @ w)[-1]
        passed += float(top) - 1 > edge
    # Centring on the trusted mean adds a little to C, so the level is near 5 %, not exact.
    assert 0.005 <= passed / 400 <= 0.12
