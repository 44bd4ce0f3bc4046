"""Isolation forest (Liu, Ting and Zhou 2008, 10.1109/ICDM.2008.17): how soon random cuts leave a row alone.

With D the mean over trees of the depth at which h ends, counting for a leaf of n rows the c(n) further cuts that
would part them, and psi the rows each tree was grown on::

    score(h) = 2^(-D / c(psi)),    in (0, 1)

The forest is grown by scikit-learn's ``IsolationForest``; its trees are kept as tensors and walked all at once.
The unit of a coordinate does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.ensemble import IsolationForest
from torch import Tensor

from mad.config import require
from mad.detectors._base import LayerwiseDetector, Population, State
from mad.detectors._tabular import repeatable_fit, sklearn_seed, sorted_rows
from mad.errors import FitError

BLOCK_ELEMENTS = 2**20  # (row, tree) pairs walked at once
LEAF = -1


@dataclass(frozen=True)
class Config:
    """Isolation forest."""

    trees: int = 100
    """Trees, at least 1."""

    max_samples: int = 256
    """Trusted rows drawn for each tree, at least 2; all of them if there are fewer."""

    max_features: float = 1.0
    """Share of the coordinates drawn for each tree, above 0 and at most 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.trees >= 1, f"trees must be at least 1, got {self.trees}")
        require(self.max_samples >= 2, f"max_samples must be at least 2, got {self.max_samples}")
        share = self.max_features
        require(0 < share <= 1, f"max_features must be above 0 and at most 1, got {share}")


class Detector(LayerwiseDetector):
    """Isolation score of a forest grown on trusted rows.

    State per layer, over all N nodes of all trees: ``feature`` (N,) int64, -1 at a leaf; ``threshold`` (N,)
    float64; ``left`` and ``right`` (N,) int64, a leaf's being itself; ``depth`` (N,) float64, at leaves; ``root``
    (trees,) int64, and ``normal`` () float64, c(psi).

    Raises:
        FitError: a state whose nodes do not form trees.
    """

    config: Config

    def fit_layer(self, layer: str, populations: dict[str, Population], seed: int) -> State:
        """Grow the forest on the trusted rows of a layer."""
        rows = sorted_rows(populations["trusted"].matrix(layer)).float()
        unit = _powers_of_two(rows.amax(dim=0).double() - rows.amin(dim=0))
        drawn = min(self.config.max_samples, len(rows))
        forest = IsolationForest(
            n_estimators=self.config.trees,
            max_samples=drawn,
            max_features=float(self.config.max_features),
            random_state=sklearn_seed(seed, "isolation_forest", layer),
        )
        with repeatable_fit():
            forest.fit((rows / unit.float()).numpy())
        state = _flatten(forest) | {"normal": further_cuts(torch.tensor(drawn))}
        return state | {"threshold": state["threshold"] * unit[state["feature"].clamp(min=0)]}

    def score_layer(self, state: State, h: Tensor, classes: Tensor | None) -> Tensor:
        """(m,) scores of (m, d) points."""
        _check_trees(state, h.shape[1])
        trees = len(state["root"])
        parts = [_depths(state, x).sum(dim=1) for x in h.split(max(1, BLOCK_ELEMENTS // trees))]
        return torch.cat([torch.exp2(-depth / (trees * state["normal"])) for depth in parts])


def _powers_of_two(ranges: Tensor) -> Tensor:
    """Units in which (d,) float64 ranges are about 1; 1 for 0. scikit-learn takes ranges below 1e-7 for none.

    As powers of two they round nothing: thresholds are those of the rows as they are.
    """
    exponents = torch.frexp(ranges).exponent.clamp(-100, 127)
    return torch.where(ranges > 0, torch.ldexp(torch.ones_like(ranges), exponents), 1.0)


def further_cuts(rows: Tensor) -> Tensor:
    """c(n): mean depth at which a random binary search tree of n rows ends, float64."""
    n = rows.double().clamp(min=2)
    many = 2 * (torch.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n
    return torch.where(rows > 2, many, (rows == 2).double())


def _flatten(forest: IsolationForest) -> State:
    """The nodes of all trees in one row of arrays; numbers of nodes and features are those of the whole."""
    names = ("feature", "threshold", "left", "right", "depth")
    nodes: dict[str, list[Tensor]] = {name: [] for name in names}
    root = [0]
    for estimator, drawn in zip(forest.estimators_, forest.estimators_features_, strict=True):
        tree = estimator.tree_
        own = torch.arange(tree.node_count)
        inner = torch.from_numpy(tree.children_left != LEAF)
        cuts = torch.from_numpy(tree.compute_node_depths()).double() - 1
        feature = torch.from_numpy(np.asarray(drawn)[tree.feature.clip(min=0)])
        nodes["feature"].append(torch.where(inner, feature, LEAF).long())
        nodes["threshold"].append(torch.from_numpy(tree.threshold).double())
        nodes["left"].append(torch.where(inner, torch.from_numpy(tree.children_left), own) + root[-1])
        nodes["right"].append(torch.where(inner, torch.from_numpy(tree.children_right), own) + root[-1])
        nodes["depth"].append(cuts + further_cuts(torch.from_numpy(tree.n_node_samples)))
        root.append(root[-1] + tree.node_count)
    return {name: torch.cat(parts) for name, parts in nodes.items()} | {"root": torch.tensor(root[:-1])}


def _check_trees(state: State, width: int) -> None:
    """Every inner node must lead to later nodes, so that a walk ends, and read a coordinate that exists."""
    feature, left, right = state["feature"], state["left"], state["right"]
    own, inner = torch.arange(len(feature)), feature != LEAF
    later = (left > own) & (right > own) & (left < len(own)) & (right < len(own))
    stays = (left == own) & (right == own)
    known = (feature >= 0) & (feature < width)
    shapes = {len(state[name]) for name in ("feature", "threshold", "left", "right", "depth")}
    root = state["root"]
    whole = len(shapes) == 1 and len(root) > 0 and bool(((root >= 0) & (root < len(own))).all())
    if not whole or not torch.where(inner, later & known, stays).all():
        raise FitError("the saved forest is damaged: its nodes do not form trees; fit it again")


def _depths(state: State, h: Tensor) -> Tensor:
    """(m, trees) depth at which each of (m, d) rows ends in each tree."""
    x = h.float()  # the precision in which the thresholds were compared when the trees were grown
    node = state["root"].expand(len(x), -1)
    while True:
        feature = state["feature"][node]
        if (feature == LEAF).all():
            return state["depth"][node]
        below = x.gather(1, feature.clamp(min=0)).double() <= state["threshold"][node]
        node = torch.where(below, state["left"][node], state["right"][node])
