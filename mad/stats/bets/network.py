"""The paper's bet: a small perceptron trained on past pairs to maximise log wealth (2310.19384, 2410.19406).

Two hidden layers (by default) with layer norm, g = tanh / 2, Adam, early stopping on the latest batch; the networks
of all streams train as one batched problem, each stopped by its own validation loss and put back to its best weights.
Training goes on from the last weights: an epoch is a few minibatches drawn from the whole past, which finds the
same bet as passes over all of it. The first batch is not bet on, since nothing is trained before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mad.config import require
from mad.stats import random
from mad.stats.bets import _base
from mad.stats.bets._base import Pairs, State, check_temperatures

BETAS, EPSILON = (0.9, 0.999), 1e-8
FARTHEST = 1e3
"""standard deviations at which scores are cut, well inside float32"""


@dataclass(frozen=True)
class Config:
    """Options of the bet."""

    hidden: int = 32
    """width of the hidden layers, at least 1"""
    layers: int = 2
    """hidden layers, at least 1"""
    l2: float = 0.0
    """penalty on half the sum of squared weights, 0 or more"""
    learning_rate: float = 2e-3
    """of Adam, above 0"""
    minibatch: int = 100
    """units per step, at least 1"""
    steps: int = 4
    """steps per epoch, at least 1"""
    epochs: int = 100
    """most epochs per batch, at least 1"""
    patience: int = 5
    """epochs without a better validation loss after which a stream stops, at least 1"""
    temperatures: tuple[float, ...] = (1.0, 4.0, 16.0)
    """slopes before the tanh, 1 being the one trained; larger ones suit positive tolerances"""

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "minibatch", "steps", "epochs", "patience"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.l2 >= 0, f"l2 must be 0 or more, got {self.l2}")
        require(self.learning_rate > 0, f"learning_rate must be above 0, got {self.learning_rate}")
        check_temperatures(self.temperatures)


class Bet(_base.TemperatureBet):
    """State: per stream all parameters as one row (F, P) of float32, Adam's moments, steps; location, scale; a seed."""

    config: Config

    def start(self, streams: Tensor, dimensions: int, seed: int) -> State:
        sizes = [size for _, size in self._layout(dimensions)]
        drawn = random.uniform(random.derive(seed, "network"), streams, sum(sizes), torch.float32) * 2 - 1
        parts = list(drawn.split(sizes, dim=1))
        for i, fan_in in enumerate((dimensions, *[self.config.hidden] * self.config.layers)):
            parts[4 * i] = parts[4 * i] / fan_in**0.5
            parts[4 * i + 1] = torch.zeros_like(parts[4 * i + 1])
        for i in range(2, 4 * self.config.layers, 4):
            parts[i], parts[i + 1] = torch.ones_like(parts[i]), torch.zeros_like(parts[i + 1])
        zeros = torch.zeros(len(streams), dimensions, dtype=torch.float64)
        return {
            "parameters": torch.cat(parts, dim=1),
            "first": torch.zeros_like(drawn),
            "second": torch.zeros_like(drawn),
            "taken": torch.zeros(len(streams), dtype=torch.int64),
            "seed": torch.tensor(random.derive(seed, "network minibatches")),
            "trained": torch.zeros((), dtype=torch.float64),
            "location": zeros,
            "scale": zeros + 1,
        }

    def values(self, state: State, z: Tensor) -> Tensor:
        with torch.no_grad():
            output = self._forward(state["parameters"], self._standardised(state, z))
        return self.squashed(output.double()) * state["trained"]

    def learn(self, state: State, past: Pairs, fresh: int) -> State:
        new = dict(state)
        if past.units == fresh:
            new["location"], new["scale"] = past.moments()
        # The latest batch validates; where it is the only one, its second half does.
        seen = past.units - fresh if past.units > fresh else max(1, past.units // 2)
        scaled = past._replace(x=self._standardised(new, past.x), y=self._standardised(new, past.y))
        scaled = Pairs(*(part.float() for part in scaled))
        draws = random.generator(int(state["seed"]), past.units)
        best = self._train(new, scaled.cut(0, seen), scaled.cut(min(seen, past.units - 1), past.units), draws)
        return {**new, **best, "trained": torch.ones((), dtype=torch.float64)}

    def _train(self, state: State, past: Pairs, latest: Pairs, draws: torch.Generator) -> State:
        """Train until every stream has stopped; streams that have are left out of the work."""
        names = ("parameters", "first", "second", "taken")
        best = {name: state[name].clone() for name in names}
        now = {name: state[name] for name in names}
        active = torch.arange(past.streams)
        lowest, waited = self._loss(now["parameters"], latest), torch.zeros(past.streams, dtype=torch.int64)
        for _ in range(self.config.epochs):
            order = torch.randperm(past.units, generator=draws)
            for rows in order[: self.config.steps * self.config.minibatch].split(self.config.minibatch):
                now = self._adam(now, Pairs(*(part[:, rows] for part in past)))
            loss = self._loss(now["parameters"], latest)
            better = loss < lowest
            for name in names:
                best[name][active[better]] = now[name][better]
            lowest, waited = torch.where(better, loss, lowest), torch.where(better, 0, waited + 1)
            going = waited < self.config.patience
            if not going.all():
                active, lowest, waited = active[going], lowest[going], waited[going]
                now = {name: value[going] for name, value in now.items()}
                past, latest = (Pairs(*(part[going] for part in units)) for units in (past, latest))
            if not len(active):
                break
        return best

    def _adam(self, now: State, rows: Pairs) -> State:
        parameters = now["parameters"].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self._loss(parameters, rows, grad=True).sum(), parameters)
        gradient = gradient + self.config.l2 * parameters.detach()
        taken = now["taken"] + 1
        first = BETAS[0] * now["first"] + (1 - BETAS[0]) * gradient
        second = BETAS[1] * now["second"] + (1 - BETAS[1]) * gradient**2
        rise = [(1 - beta**taken)[:, None].float() for beta in BETAS]
        step = (first / rise[0]) / ((second / rise[1]).sqrt() + EPSILON)
        moved = parameters.detach() - self.config.learning_rate * step
        return {"parameters": moved, "first": first, "second": second, "taken": taken}

    def _loss(self, parameters: Tensor, units: Pairs, grad: bool = False) -> Tensor:
        """Minus the mean log payoff of each stream, (F,)."""
        with torch.set_grad_enabled(grad):
            scores, weights = units.pooled()
            g = self._forward(parameters, scores).tanh() / 2 * weights
            own = units.x_weights[0].numel()
            g_x, g_y = g[:, :own].unflatten(1, units.x.shape[1:3]), g[:, own:].unflatten(1, units.y.shape[1:3])
            # A saturated tanh would lose everything: 1e-6 keeps loss and gradient finite.
            return -(g_x.sum(dim=2) - g_y.sum(dim=2)).mul(1 - 1e-6).log1p().mean(dim=1)

    def _forward(self, parameters: Tensor, z: Tensor) -> Tensor:
        d, parts = z.shape[2], []
        for (shape, size), part in zip(self._layout(z.shape[2]), self._split(parameters, d), strict=True):
            parts.append(part.unflatten(1, shape) if size else part)
        h = z
        last = 4 * self.config.layers
        for i in range(0, last, 4):
            h = torch.baddbmm(parts[i + 1], h, parts[i])
            h = functional.layer_norm(h, h.shape[-1:]) * parts[i + 2] + parts[i + 3]
            h = h.relu()
        return torch.baddbmm(parts[last + 1], h, parts[last])[:, :, 0]

    def _split(self, parameters: Tensor, d: int) -> tuple[Tensor, ...]:
        return parameters.split([size for _, size in self._layout(d)], dim=1)

    def _layout(self, d: int) -> list[tuple[tuple[int, int], int]]:
        """Shape and size of weight, bias, gain and shift of the hidden layers, then weight and bias of the last."""
        h = self.config.hidden
        fan_ins = (d, *[h] * (self.config.layers - 1))
        hidden = [shape for fan_in in fan_ins for shape in ((fan_in, h), (1, h), (1, h), (1, h))]
        return [(shape, shape[0] * shape[1]) for shape in (*hidden, (h, 1), (1, 1))]

    def _standardised(self, state: State, z: Tensor) -> Tensor:
        between = (slice(None), *(None,) * (z.ndim - 2))
        return ((z - state["location"][between]) / state["scale"][between]).clamp(-FARTHEST, FARTHEST).float()
