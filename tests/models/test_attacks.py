"""Attacks against closed forms on linear and quadratic gains, and against a plain twin, one row at a time."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mad.errors import ConfigError
from mad.models.attacks import Attacked, Ball, fgsm, pgd

NORMS = ("linf", "l2")
SHAPE = (2, 4, 5)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(weight: torch.Tensor, threshold: float = float("inf")):
    """Gain w'x; success above a threshold."""

    def objective(x: torch.Tensor):
        gain = (x * weight).flatten(1).sum(dim=1)
        return gain, gain > threshold

    return objective


def grey(n: int = 6) -> torch.Tensor:
    return torch.full((n, *SHAPE), 0.5)


def numbers(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(x)) * 7 + 3


def network() -> nn.Module:
    """A small network of random weights, large enough that answers differ between inputs."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 3))
    for number, parameter in enumerate(made.parameters()):
        parameter.data = draws(*parameter.shape, seed=number) * 0.5
    return made


@pytest.fixture(scope="module")
def model():
    return network().requires_grad_(False)


def errors(model, labels: torch.Tensor):
    def objective(x: torch.Tensor):
        logits = model(x)
        return cross_entropy(logits, labels, reduction="none"), logits.argmax(dim=1) != labels

    return objective


def world(model, n: int = 24):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, model(x).argmax(dim=1)


def test_fgsm_of_a_linear_gain_is_epsilon_times_the_sign_of_the_weights():
    w = draws(*SHAPE)
    found = fgsm(linear(w), grey(), Ball("linf", 0.1))
    assert torch.allclose(found.inputs - 0.5, 0.1 * w.sign().expand(6, *SHAPE), atol=1e-7)
    assert torch.allclose(found.gain, linear(w)(found.inputs)[0])


def test_fgsm_in_l2_goes_along_the_weights_with_length_epsilon():
    w = draws(*SHAPE)
    found = fgsm(linear(w), grey(), Ball("l2", 0.3))
    assert torch.allclose(found.inputs - 0.5, (0.3 * w / w.norm()).expand(6, *SHAPE), atol=1e-6)


@pytest.mark.parametrize("start", [False, True])
def test_pgd_in_l2_ends_along_the_weights_on_the_border(start):
    w = -draws(*SHAPE, seed=3)
    x = grey()
    found = pgd(linear(w), x, Ball("l2", 0.3), numbers(x), 0, steps=60, step_size=0.1, random_start=start)
    change = (found.inputs - x).flatten(1)
    assert torch.allclose(change.norm(dim=1), torch.full((6,), 0.3), atol=1e-5)
    assert torch.cosine_similarity(change, w.flatten()[None]).min() > 0.9999


def test_pgd_in_linf_ends_at_the_corner_of_the_box():
    w, x = draws(*SHAPE), grey()
    found = pgd(linear(w), x, Ball("linf", 0.2), numbers(x), 0, steps=20)
    assert torch.allclose(found.inputs - x, 0.2 * w.sign().expand(6, *SHAPE), atol=1e-6)


def test_the_step_is_2_5_epsilon_over_the_steps_by_default():
    w, x = draws(*SHAPE), grey()
    found = pgd(linear(w), x, Ball("l2", 0.4), numbers(x), 0, steps=10, random_start=False)
    stepped = pgd(linear(w), x, Ball("l2", 0.4), numbers(x), 0, steps=10, step_size=0.1, random_start=False)
    assert torch.equal(found.inputs, stepped.inputs)
    short = pgd(linear(w), x, Ball("l2", 0.4), numbers(x), 0, steps=3, step_size=0.05, random_start=False)
    assert torch.allclose((short.inputs - x).flatten(1).norm(dim=1), torch.full((6,), 0.15), atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_maximum_inside_the_ball_is_found_and_the_best_step_kept(norm):
    """Steps of fixed length jump about the maximum: the last is not the best."""
    x = grey()
    peak = x + 0.3 * Ball(norm, 1.0).project(draws(6, *SHAPE))

    def objective(inputs):
        gain = -(inputs - peak).square().flatten(1).sum(dim=1)
        return gain, torch.zeros(len(inputs), dtype=torch.bool)

    ball, gains = Ball(norm, 0.5), []
    for steps in (5, 6, 7, 20):
        gains.append(pgd(objective, x, ball, numbers(x), 0, steps=steps, step_size=0.08).gain)
    assert all((later >= earlier - 1e-12).all() for earlier, later in pairwise(gains))
    assert gains[-1].min() > objective(x)[0].min()


@pytest.mark.parametrize("norm", NORMS)
def test_perturbations_stay_in_the_ball_and_pixels_in_their_range(model, norm):
    x, labels = world(model)
    x = ((x - 0.5) * 3 + 0.5).clamp(0, 1)  # many pixels at the ends of the range
    ball = Ball(norm, 0.35)
    for found in (
        fgsm(errors(model, labels), x, ball),
        pgd(errors(model, labels), x, ball, numbers(x), 0, steps=7, step_size=0.3, restarts=2),
    ):
        assert found.inputs.min() >= 0 and found.inputs.max() <= 1
        assert ball.sizes(found.inputs - x).max() <= 0.35 + 1e-6
        assert found.inputs.dtype == torch.float32


def test_more_restarts_never_succeed_on_fewer_rows(model):
    x, labels = world(model)
    successes, gains = [], []
    for restarts in (1, 2, 5):
        found = pgd(
            errors(model, labels), x, Ball("linf", 0.08), numbers(x), 0, steps=1, step_size=0.01, restarts=restarts
        )
        successes.append(found.success)
        gains.append(found.gain)
    for i in (0, 1):
        assert (successes[i] <= successes[i + 1]).all()
        held = successes[i] == successes[i + 1]
        assert (gains[i + 1] >= gains[i])[held].all()
    assert 0 < successes[0].sum() < successes[-1].sum() < len(x), "restarts start elsewhere, and some rows hold out"


def test_the_result_is_what_it_says(model):
    x, labels = world(model)
    found = pgd(errors(model, labels), x, Ball("l2", 0.4), numbers(x), 0, steps=3)
    gain, success = errors(model, labels)(found.inputs)
    assert torch.equal(success, found.success) and torch.allclose(gain, found.gain, atol=1e-6)
    assert 0 < success.sum() < len(x)


def test_a_success_is_preferred_to_a_larger_gain():
    one, two = torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1)
    first = Attacked(one, torch.tensor([1.0, 1.0, 1.0]), torch.tensor([True, False, True]))
    second = Attacked(two, torch.tensor([5.0, -5.0, 1.0]), torch.tensor([False, True, True]))
    best = first.or_better(second)
    assert best.inputs.flatten().tolist() == [0, 1, 0] and best.gain.tolist() == [1, -5, 1]
    assert best.success.all()


@pytest.mark.parametrize("norm", NORMS)
def test_rows_do_not_touch_one_another(norm):
    """Each row alone, in another order or among others: the same attack, whatever the batch."""
    x, w = torch.rand(9, *SHAPE, generator=torch.Generator().manual_seed(5)), draws(*SHAPE)
    rows, ball = numbers(x), Ball(norm, 0.2)

    def attack(which):
        return pgd(linear(w, 1.0), x[which], ball, rows[which], 4, steps=3, restarts=2).inputs

    together = attack(torch.arange(9))
    turned = torch.arange(9).flip(0)
    assert torch.equal(attack(turned), together[turned])
    assert torch.equal(torch.cat([attack(torch.tensor([i])) for i in range(9)]), together)


@pytest.mark.parametrize("norm", NORMS)
def test_the_seed_and_the_row_number_decide_the_start(norm):
    x, w = grey(), torch.zeros(SHAPE)  # no gradient: the start is all there is

    def start(seed, rows):
        return pgd(linear(w), x, Ball(norm, 0.2), rows, seed, steps=1).inputs

    first = start(0, numbers(x))
    assert torch.equal(first, start(0, numbers(x)))
    assert not torch.equal(first, start(1, numbers(x)))
    assert len({tuple(row.flatten().tolist()) for row in first}) == 6
    assert torch.equal(start(0, numbers(x).flip(0)), first.flip(0))


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball_evenly(norm):
    x = torch.full((4000, 1, 1, 2), 0.5)
    starts = Ball(norm, 0.2).draw(0, torch.arange(4000), x)
    sizes = Ball(norm, 0.2).sizes(starts)
    assert sizes.max() <= 0.2 + 1e-6
    # In two dimensions half the area of a disc or a square lies within 1 / sqrt 2 of its border.
    assert (sizes < 0.2 / 2**0.5).double().mean() == pytest.approx(0.5, abs=0.03)
    assert starts.mean(dim=0).abs().max() < 0.01


def test_pgd_is_that_of_a_plain_twin(model):
    x, labels = world(model, 5)
    ball, rows = Ball("linf", 0.1), numbers(x)
    found = pgd(errors(model, labels), x, ball, rows, 0, steps=4, step_size=0.04, random_start=False)
    for i in range(5):
        current, best, won = x[i : i + 1].clone(), None, False
        for step in range(5):
            current.requires_grad_()
            logits = model(current)
            loss = cross_entropy(logits, labels[i : i + 1])
            success = bool(logits.argmax() != labels[i])
            if best is None or (success, loss) > (won, best[0]):
                best, won = (loss.detach(), current.detach().clone()), success
            if step < 4:
                (gradient,) = torch.autograd.grad(loss, current)
                moved = current.detach() + 0.04 * gradient.sign()
                current = torch.minimum(torch.maximum(moved, x[i] - 0.1), x[i] + 0.1).clamp(0, 1)
        assert torch.allclose(best[1][0], found.inputs[i], atol=1e-6) and won == bool(found.success[i])


def test_gradients_that_are_tiny_still_point():
    w = draws(*SHAPE) * 1e-30
    found = fgsm(linear(w), grey(), Ball("l2", 0.3))
    assert torch.allclose((found.inputs - 0.5).flatten(1).norm(dim=1), torch.full((6,), 0.3), atol=1e-6)


def test_neither_model_nor_inputs_are_changed(model):
    trainable = network()
    x, labels = world(trainable)
    before, weights = x.clone(), {k: v.clone() for k, v in trainable.state_dict().items()}
    pgd(errors(trainable, labels), x, Ball("linf", 0.1), numbers(x), 0, steps=2)
    assert torch.equal(x, before) and not x.requires_grad
    assert all(torch.equal(v, weights[k]) for k, v in trainable.state_dict().items())
    assert all(p.grad is None for p in trainable.parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps and restarts must be 1 or more, got 0 and 1"),
        ({"restarts": 0}, "got 40 and 0"),
        ({"restarts": 2, "random_start": False}, "2 restarts need random_start"),
    ],
)
def test_mistakes_are_told(options, said):
    x = grey()
    with pytest.raises(ConfigError, match=said):
        pgd(linear(draws(*SHAPE)), x, Ball("linf", 0.1), numbers(x), 0, **options)
