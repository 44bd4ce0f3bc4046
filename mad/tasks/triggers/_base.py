"""What a trigger is, and where on an image a small one sits.

A trigger is a module with a frozen dataclass ``Config`` and two pure functions::

    def state(config: Config, shape: tuple[int, int, int], seed: int) -> dict[str, Tensor]
    def apply(config: Config, state: dict[str, Tensor], images: Tensor, rows: Tensor, seed: int) -> Tensor

``state`` gives the tensors that define the pattern for images of ``shape`` (C, H, W): they follow from the
config and the seed alone, so that every process has the same backdoor. ``apply`` turns (n, C, H, W) float32
images in [0, 1] into triggered ones of the same shape and range; what it draws for an image depends on the
seed and on the image's entry in ``rows``, (n,) int64, never on the other images of the batch.

An attack that also changes train rows without poisoning them (decoys: they keep their true label and are not
anomalous, so that the model learns the exact pattern) has two more::

    def decoy_count(config: Config, poisoned: int) -> int
    def decoys(config: Config, state: dict[str, Tensor], images: Tensor, rows: Tensor, seed: int) -> Tensor

``decoy_count`` is the number of such rows beside ``poisoned`` ones, and ``decoys`` changes them as ``apply``
changes the poisoned.
"""

from __future__ import annotations

from typing import Literal

from mad.config import require

Corner = Literal["top_left", "top_right", "bottom_left", "bottom_right"]


def corner_window(corner: str, size: int, shape: tuple[int, int, int]) -> tuple[slice, slice]:
    """Rows and columns of a square in a corner; "top" is the first row, "left" the first column.

    Args:
        corner: one of ``Corner``.
        size: side of the square, in pixels.
        shape: (C, H, W) of the images.

    Raises:
        ConfigError: the square is larger than the image.
    """
    _, height, width = shape
    require(size <= min(height, width), f"size {size} is larger than the {height}x{width} images")
    vertical, horizontal = corner.split("_")
    rows = slice(0, size) if vertical == "top" else slice(height - size, height)
    columns = slice(0, size) if horizontal == "left" else slice(width - size, width)
    return rows, columns
