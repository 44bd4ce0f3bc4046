"""Figures of the features themselves: principal components of every layer, and where the variance lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mad.artifacts import Features
from mad.stages._figures import (
    BLACK,
    BLUE,
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    PAGE_WIDTH,
    PURPLE,
    SKY,
    VERMILLION,
    layer_axis,
    new_figure,
    panel_grid,
    short_names,
    style,
)
from mad.stages._score_figures import measured_rows
from mad.stats.random import generator
from mad.stats.variance import principal_components, split_variance

MOST_PANELS = 16
"""layers in one scatter figure; of deeper models as many are shown, evenly spaced"""
BLOCK_ELEMENTS = 2**24
"""activations with positions held at once while they are averaged: 64 MB"""
CONTROL_COLORS = (GREEN, PURPLE, ORANGE, SKY)

Groups = dict[str, Tensor]
Points = dict[str, dict[str, Tensor]]


def choose_rows(features: Features, table: pd.DataFrame, most: int, seed: int) -> Groups:
    """Ascending row numbers of the features by group, at most ``most`` of each, drawn by the seed.

    Args:
        features: the rows.
        table: ``scores.parquet``, which tells what part was scored.
        most: rows of a group.
        seed: of the draw.

    Returns:
        ``trusted`` (held-out trusted rows where the features have no others), ``clean`` and ``anomalous`` of the
        scored part, and ``control: KIND``; groups without rows are left out.
    """
    rows = features.rows
    scored = rows["part"].isin(measured_rows(table)["part"].unique())
    anomalous = rows["is_anomalous"].astype(bool)
    trusted = rows["part"] == "trusted"
    masks = {"trusted": trusted if trusted.any() else rows["part"] == "calibration"}
    masks |= {"clean": scored & ~anomalous, "anomalous": scored & anomalous}
    if "control" in rows:
        kinds = rows["control"].where(rows["part"] == "control")
        masks |= {f"control: {kind}": kinds == kind for kind in kinds.dropna().unique()}
    found = {}
    for name, mask in masks.items():
        numbers = torch.from_numpy(mask.to_numpy().nonzero()[0])
        if len(numbers):
            drawn = torch.randperm(len(numbers), generator=generator(seed, "figures", name))[:most]
            found[name] = numbers[drawn].sort().values
    return found


def read_layer(features: Features, layer: str, numbers: Tensor) -> Tensor:
    """(n, d) float64 activations of the rows of the ascending ``numbers``; positions are averaged over real ones."""
    found, offset = [], 0
    for chunk in features.chunks:
        h, mask = chunk[layer], chunk.get("mask")
        mine = numbers[(numbers >= offset) & (numbers < offset + len(h))] - offset
        offset += len(h)
        if h.ndim == 2:
            found.append(h[mine].double())
            continue
        for part in mine.split(max(1, BLOCK_ELEMENTS // h[0].numel())) if len(mine) else ():
            real = torch.ones(h.shape[1], dtype=torch.bool) if mask is None else mask[part].bool()
            weights = real.double().expand(len(part), -1)
            found.append(torch.einsum("ntd,nt->nd", h[part].double(), weights) / weights.sum(dim=1, keepdim=True))
    return torch.cat(found)


def predicted_classes(features: Features, numbers: Tensor) -> Tensor:
    """(n,) predicted classes of rows; their labels where the features hold no logits."""
    if "logits" not in features.chunks[0]:
        return torch.from_numpy(features.rows["label"].to_numpy("int64", copy=True))[numbers]
    logits = torch.cat([chunk["logits"] for chunk in features.chunks])[numbers]
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


def project(features: Features, groups: Groups) -> tuple[Points, dict[str, Tensor]]:
    """Coordinates of every group on the first two principal components of the trusted rows of each layer.

    Returns:
        Layer to group to (n, 2) coordinates, and layer to the (2,) shares of the trusted variance.
    """
    layers = features.layers
    if len(layers) > MOST_PANELS:
        places = np.linspace(0, len(layers) - 1, MOST_PANELS).round().astype(int)
        layers = [layers[place] for place in places]
    points, shares = {}, {}
    for layer in layers:
        rows = {name: read_layer(features, layer, numbers) for name, numbers in groups.items()}
        found = principal_components(rows["trusted"], 2)
        points[layer] = {name: (h - found.mean) @ found.directions for name, h in rows.items()}
        shares[layer] = found.shares
    return points, shares


def variance_by_layer(features: Features, groups: Groups, directions: int) -> pd.DataFrame:
    """Shares of the variance of every layer.

    Args:
        features: the rows.
        groups: which of them; ``clean`` and ``anomalous`` may be absent.
        directions: principal components that ``leading`` counts.

    Returns:
        One line per layer: ``between_classes`` of trusted rows by predicted class, ``leading`` (of trusted rows
        along the first components), ``between_kinds`` (of clean and anomalous rows, between the two), and
        ``..._chance``, what groups filled at random have on average; NaN where there is nothing to share.
    """
    classes = predicted_classes(features, groups["trusted"])
    both = [groups[name] for name in ("clean", "anomalous") if name in groups]
    lines = []
    for layer in features.layers:
        trusted = read_layer(features, layer, groups["trusted"])
        by_class = split_variance(trusted, classes)
        leading = float(principal_components(trusted, directions).shares.sum()) if by_class.total else np.nan
        line = {"layer": layer, "between_classes": by_class.between, "between_classes_chance": by_class.chance}
        line |= {"leading": leading, "between_kinds": np.nan, "between_kinds_chance": np.nan}
        if len(both) == 2:
            h = torch.cat([read_layer(features, layer, numbers) for numbers in both])
            kinds = split_variance(h, torch.arange(len(h)) < len(both[0]))
            line |= {"between_kinds": kinds.between, "between_kinds_chance": kinds.chance}
        lines.append(line)
    return pd.DataFrame(lines)


@style()
def pca_figure(points: Points, shares: dict[str, Tensor], marker_size: float = 2.5) -> Figure:
    """Scatter of two principal components of trusted rows, one panel per layer.

    Args:
        points: layer to group to (n, 2) coordinates.
        shares: layer to (2,) shares of the trusted variance along the components.
        marker_size: diameter of a mark in points.
    """
    across = -(-len(points) // -(-len(points) // 4))
    down = -(-len(points) // across)
    figure = new_figure(PAGE_WIDTH * max(across, 2) / 4, PAGE_WIDTH / 4 * down + 0.4)
    panels = panel_grid(figure, len(points), across)
    for panel, (layer, title) in zip(panels, short_names(list(points)).items(), strict=True):
        for name, xy in points[layer].items():
            look = {"ls": "none", "marker": ".", "ms": 1.5 * marker_size, "mew": 0, **_look(name, list(points[layer]))}
            panel.plot(*xy.T.numpy(), rasterized=True, label=name, **look)
        first, second = (f"PC {i} ({100 * float(share):.3g}%)" for i, share in enumerate(shares[layer], start=1))
        panel.set_xlabel(first, fontsize=6.5, labelpad=1)
        panel.set_ylabel(second, fontsize=6.5, labelpad=1)
        panel.set(xticks=[], yticks=[])
        panel.set_title(title, fontsize=7)
        panel.set_box_aspect(1)
    handles, names = panels[0].get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside upper center", ncols=4 if across > 2 else 2)
    for handle in legend.legend_handles:
        handle.set(markersize=8, alpha=1)  # type: ignore[union-attr]
    return figure


def _look(name: str, names: list[str]) -> dict[str, Any]:
    """Colours of the score figures; trusted rows lie below all others, anomalous above."""
    if name.startswith("control"):
        controls = [other for other in names if other.startswith("control")]
        return {"color": CONTROL_COLORS[controls.index(name) % len(CONTROL_COLORS)], "alpha": 0.6, "zorder": 3}
    color, order = {"trusted": (GREY, 1), "clean": (BLUE, 2), "anomalous": (VERMILLION, 4)}[name]
    return {"color": color, "alpha": 0.35 if name == "trusted" else 0.6, "zorder": order}


@style()
def variance_figure(table: pd.DataFrame, directions: int) -> Figure:
    """Bars by layer: variance between predicted classes, and between clean and anomalous rows.

    Args:
        table: as :func:`variance_by_layer` gives it.
        directions: principal components that its column ``leading`` counts.
    """
    known = bool(np.isfinite(table["between_kinds"]).any())
    figure = new_figure(PAGE_WIDTH if known else PAGE_WIDTH / 2, 2.6)
    panels = list(figure.subplots(1, 1 + known, squeeze=False, sharey=True).flat)
    _bars(panels[0], table, "between_classes", "between predicted classes", BLUE)
    note = f"along the first {directions} components" if directions > 1 else "along the first component"
    look = dict(color=BLACK, ls="none", marker="D", ms=2.5, clip_on=False)
    panels[0].plot(range(len(table)), 100 * table["leading"], label=note, **look)
    panels[0].set(title="trusted rows", ylabel="share of the variance (%)", ylim=(0, 100))
    if known:
        _bars(panels[1], table, "between_kinds", "between clean and anomalous", VERMILLION)
        panels[1].set_title("clean and anomalous rows")
    for panel in panels:
        layer_axis(panel, list(table["layer"]))
        panel.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.15))
    return figure


def _bars(panel: Axes, table: pd.DataFrame, column: str, name: str, color: str) -> None:
    places, share = np.arange(len(table)), 100 * table[column].to_numpy(float)
    panel.bar(places, share, 0.8, color=color, alpha=0.8, lw=0, label=name)
    panel.bar(places, 100 - share, 0.8, bottom=share, color=FAINT, lw=0, label="within")
    chance = 100 * table[f"{column}_chance"].to_numpy(float)
    panel.hlines(chance, places - 0.4, places + 0.4, color=BLACK, lw=0.8, ls=":", label="chance")
