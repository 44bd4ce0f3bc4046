"""How every figure looks and is saved: sizes, colours, scales, and bytes that depend on the content only.

Only matplotlib's object API is used: no pyplot state, so figures are freed like any other object and several
threads of one process do not share a "current" figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

Format = Literal["png", "svg", "pdf"]

COLUMN_WIDTH = 3.5
"""inches: one column of a two-column page"""
PAGE_WIDTH = 7.2
"""inches: both columns"""

# Okabe & Ito (2008), "Color Universal Design": told apart with every common kind of colour blindness. Their
# yellow is left out because it is too faint for lines on white.
BLACK, GREY, FAINT = "#000000", "#808080", "#E6E6E6"
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MOST_NAMES = 12
"""layers named on an axis; more are numbered"""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# viridis rises in lightness alike for all eyes; its last tenth is yellow and too faint for lines on white.
DEPTH = LinearSegmentedColormap.from_list("depth", colormaps["viridis"](np.linspace(0, 0.9, 256)))

_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "pdf.fonttype": 42,  # TrueType: journals refuse matplotlib's default Type 3
    "svg.hashsalt": "mad",  # ids in SVG files are random without it
}

# Time stamps and program versions would make two files of the same figure differ.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures whatever the user's matplotlibrc says; also decorates functions that draw."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure that no global state knows, sized in inches, laid out so that nothing overlaps."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, format: Format = "png", dpi: int = 200) -> None:
    """Write a figure; the same figure gives the same bytes under one version of matplotlib.

    Args:
        figure: what to write.
        path: file; its suffix does not matter.
        format: ``png``, ``svg`` or ``pdf``.
        dpi: dots per inch of PNG, and of images inside the other two.
    """
    with style():
        figure.savefig(path, format=format, dpi=dpi, metadata=_METADATA[format])


def panel_grid(figure: Any, count: int, columns: int, **shared: Any) -> list[Axes]:
    """``count`` panels, row after row; the free places of the last row stay empty."""
    rows = -(-count // columns)
    panels = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for panel in panels[count:]:
        panel.remove()
    return panels[:count]


def plain(text: object, limit: int = 24) -> str:
    """Foreign text for a label: cut in the middle where long, dollars kept from starting a formula."""
    words = str(text)
    if len(words) > limit:
        tail = (limit - 1) // 2
        words = f"{words[: limit - 1 - tail]}…{words[-tail:]}"
    return words.replace("$", r"\$")


def short_names(layers: list[str], limit: int = 26) -> dict[str, str]:
    """Names of layers for labels; long ones lose the dotted ends that all share."""
    names = [layer.split(".") for layer in layers]
    head = tail = ""
    while len(names) > 1 and max(len(".".join(name)) for name in names) > limit - 2:
        cuttable = min(map(len, names)) > 1
        shared = [end for end in (-1, 0) if cuttable and len({name[end] for name in names}) == 1]
        if -1 in shared:
            names, tail = [name[:-1] for name in names], "…"
        elif 0 in shared:
            names, head = [name[1:] for name in names], "…"
        else:
            break
    shown = [plain(f"{head}{'.'.join(name)}{tail}", limit) for name in names]
    return dict(zip(layers, shown, strict=True))


def layer_axis(panel: Axes, layers: list[str]) -> None:
    """Layers along the horizontal axis: by name, or by number where there are many."""
    panel.set_xlim(-0.6, len(layers) - 0.4)
    if len(layers) <= MOST_NAMES:
        slanted = len(layers) > 3
        turned: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        panel.set_xticks(range(len(layers)), list(short_names(layers, 20).values()), **turned)
        panel.tick_params(axis="x", length=0)
        return
    panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place + 1:.0f}"))
    panel.set_xlabel("layer, first to last")


def rate(number: float) -> str:
    """Four decimals that never round to a perfect 0 or 1 what is not."""
    if not np.isfinite(number):
        return "–"
    if 0 < number < 0.00005:
        return "<0.0001"
    return ">0.9999" if 0.99995 <= number < 1 else f"{number:.4f}"


def scale_auroc(panel: Axes, axis: Literal["x", "y"], values: np.ndarray, name: str) -> None:
    """Scale and label an axis of AUROC values so that differences between good detectors show.

    Where at least half of the values are above 0.9 the axis is spaced by log(1 - AUROC), with AUROC on its
    ticks; otherwise it is linear.

    Args:
        panel: where.
        axis: which axis.
        values: everything that is drawn on it, (n,); NaN is ignored.
        name: for the label, such as ``AUROC``.
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    limits, label = getattr(panel, f"set_{axis}lim"), getattr(panel, f"set_{axis}label")
    gaps = 1 - values[values < 1]
    if not len(gaps) or np.median(values) <= 0.9:
        low = min(float(values.min()), 0.9) if len(values) else 0.5
        limits(max(0.0, low - 0.08 * (1.02 - low)), 1.0)
        label(name)
        return
    perfect = bool((values >= 1).any())
    floor = float(gaps.min()) / (2.5 if perfect else 1.3)
    scale = getattr(panel, f"set_{axis}scale")
    scale("function", functions=(lambda x: -np.log10(np.maximum(1 - x, floor)), lambda t: 1 - 10.0**-t))
    limits(max(0.0, 1 - 1.3 * float(gaps.max())), 1.0 if perfect else 1 - floor)
    lines = getattr(panel, f"{axis}axis")
    lines.set_major_locator(FixedLocator(_auroc_ticks(float(gaps.max()) * 1.3, floor, perfect)))
    lines.set_minor_locator(NullLocator())
    lines.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.8g}"))
    label(f"{name} (spaced by log(1 − AUROC){'; 1 at the end' if perfect else ''})")


def _auroc_ticks(widest: float, floor: float, perfect: bool) -> list[float]:
    """Ticks from 1 - widest to 1 - floor, as fine as fits, and 1 itself where some value is 1."""
    tens = [10.0**-k for k in range(1, 9)]
    fives, twos = [5 * ten for ten in tens], [2 * ten for ten in tens]
    lowest = floor * (1.6 if perfect else 1)  # keeps clear of the tick at 1
    for gaps in (tens + fives + twos, tens + fives, tens, tens[::2]):
        ticks = sorted(round(1 - gap, 9) for gap in gaps if lowest <= gap <= widest)
        if len(ticks) <= 4:
            break
    if len(ticks) + perfect < 2:
        even = MaxNLocator(3).tick_values(1 - widest, 1 - lowest)
        ticks = [float(tick) for tick in even if lowest <= 1 - tick <= widest]
    return [*ticks, 1.0] if perfect else ticks
