"""Addressed random numbers: their law, their independence, and that only the address matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from mad.stats.random import derive, generator, normal, uniform


def test_derived_seeds_are_pinned():
    # These numbers must never change: every stored result hangs on them.
    assert derive(0) == 6034241650067879687
    assert derive(7, "poison", 3) == 960707135580525272


def test_derived_seeds_tell_purposes_apart():
    seeds = [derive(0), derive(1), derive(0, "a"), derive(0, "b"), derive(0, "a", "b"), derive(0, "ab")]
    seeds += [derive(0, "1"), derive(0, 1), derive(0, 1, 1), derive(0, 11), derive(0, "a\x1fstr:1:b")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)


def test_generators_repeat_and_differ():
    first = torch.rand(5, generator=generator(3, "x"))
    assert torch.equal(first, torch.rand(5, generator=generator(3, "x")))
    assert not torch.equal(first, torch.rand(5, generator=generator(3, "y")))


@pytest.mark.parametrize("draw", [uniform, normal])
def test_numbers_depend_on_the_address_only(draw):
    rows = torch.arange(1000)
    whole = draw(5, rows, 8)
    order = torch.randperm(1000)
    assert torch.equal(draw(5, rows[order], 8), whole[order])
    assert torch.equal(torch.cat([draw(5, part, 8) for part in rows.split(13)]), whole)
    assert torch.equal(draw(5, rows, 3), whole[:, :3])
    assert not torch.equal(draw(6, rows, 8), whole)


def test_first_numbers_are_pinned():
    np.testing.assert_array_equal(
        uniform(0, torch.tensor([0, 1, -1]), 1)[:, 0],
        [0.9741092725693276, 0.9312914769287098, 0.27515527566608955],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_is_uniform(dtype):
    u = uniform(1, torch.arange(20_000), 10, dtype)
    assert u.dtype == dtype and u.min() >= 0 and u.max() < 1
    assert stats.kstest(u.double().flatten().numpy(), "uniform").pvalue > 0.001
    for column in (u[:, 0], u[:, 9], u[0], u[:400, 5]):  # within a row and down a column
        assert stats.kstest(column.double().numpy(), "uniform").pvalue > 0.001


def test_every_bit_is_fair():
    u = uniform(2, torch.arange(100_000), 1)[:, 0].numpy()
    bits = (u * 2**53).astype(np.uint64)
    shares = [float(((bits >> np.uint64(b)) & np.uint64(1)).mean()) for b in range(53)]
    assert max(abs(s - 0.5) for s in shares) < 0.008  # five standard deviations


def test_neighbouring_addresses_and_seeds_are_uncorrelated():
    rows = torch.arange(50_000)
    u, other = uniform(3, rows, 4).numpy(), uniform(4, rows, 4).numpy()
    pairs = [(u[:-1, 0], u[1:, 0]), (u[:, 0], u[:, 1]), (u[:, 0], other[:, 0]), (u[:-1, 1], u[1:, 0])]
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(50_000)
    strided = uniform(3, rows * 2**32, 1)[:, 0].numpy()  # row numbers that differ in high bits only
    assert stats.kstest(strided, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(strided[:-1], strided[1:])[0, 1]) < 5 / np.sqrt(50_000)


def test_normal_is_normal_and_finite():
    z = normal(1, torch.arange(20_000), 10)
    assert torch.isfinite(z).all()
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 0.001
    assert normal(1, torch.arange(3), 2, torch.float32).dtype == torch.float32


def test_no_rows_and_no_numbers_are_fine():
    assert uniform(0, torch.arange(0), 3).shape == (0, 3)
    assert uniform(0, torch.arange(3), 0).shape == (3, 0)
