"""Rows of a task, as they are and with adversarial examples."""

from __future__ import annotations

from functools import cached_property

import pandas as pd
import torch
from torch import Tensor

from mad.artifacts._base import Artifact, chunk_names
from mad.errors import ConfigError, nearest


class Split(Artifact):
    """Rows of a task: inputs, labels, parts."""

    stage = "prepare"

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One line per row, see ``mad.tasks._base.Rows.table`` or ``mad.tasks._text.TextRows.table``."""
        return self.table("rows.parquet")

    @cached_property
    def _images(self) -> dict[str, Tensor]:
        return self.tensors("inputs.safetensors")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one input."""
        c, h, w = self._images["inputs"].shape[1:]
        return int(c), int(h), int(w)

    @property
    def class_names(self) -> list[str]:
        """One name per class."""
        return self.summary["class_names"]

    def part(self, name: str) -> Tensor:
        """(n,) int64 row numbers of a part.

        Raises:
            ConfigError: the split has no such part.
        """
        parts = self.rows["part"].to_numpy()
        found = torch.from_numpy((parts == name).nonzero()[0])
        if not len(found):
            raise ConfigError(f"no rows in part '{name}'{nearest(name, set(parts))}")
        return found

    def numbers(self, *parts: str) -> set[str]:
        """What names the untouched inputs of some parts, whatever part another split puts them in."""
        ids = self.rows["id"][self.rows["part"].isin(parts)]
        return set(ids.str.rpartition("-")[2])

    def inputs(self, sources: Tensor) -> Tensor:
        """(n, C, H, W) uint8 untouched inputs by (n,) source number."""
        return self._images["inputs"][sources]

    @cached_property
    def _pointers(self) -> tuple[Tensor, Tensor]:
        table = self.rows
        return (
            torch.from_numpy(table["source"].to_numpy("int64", copy=True)),
            torch.from_numpy(table["variant"].to_numpy("int64", copy=True)),
        )

    def images(self, rows: Tensor) -> Tensor:
        """(n, C, H, W) float32 in [0, 1] of the given (n,) row numbers, triggers applied."""
        source, variant = (pointer[rows] for pointer in self._pointers)
        images = self._images["inputs"][source].float() / self.summary["scale"]
        changed = variant >= 0
        if bool(changed.any()):
            images[changed] = self._variants(variant[changed])
        return images

    def _variants(self, numbers: Tensor) -> Tensor:
        return self._images["variants"][numbers]

    @property
    def kind(self) -> str:
        """``images`` or ``text``."""
        return self.summary.get("kind", "images")

    @property
    def answers(self) -> list[str]:
        """What a causal model answers for each class; empty where a classification head does, and for images."""
        return self.summary.get("answers", [])

    def texts(self, rows: Tensor) -> list[str]:
        """What the model reads of the given (n,) row numbers of a text split."""
        return self._strings("text", rows)

    def targets(self, rows: Tensor) -> list[str]:
        """The completions that a causal model is trained to give; "" for none."""
        return self._strings("target", rows)

    def _strings(self, name: str, rows: Tensor) -> list[str]:
        return self.rows[name].to_numpy()[rows.numpy()].tolist()

    def column(self, name: str, rows: Tensor) -> Tensor:
        """One numeric or boolean column of the given rows as a tensor."""
        return torch.from_numpy(self.rows[name].to_numpy(copy=True)[rows.numpy()])


class AttackedSplit(Split):
    """Rows of a task with adversarial examples in place of those that were to be attacked."""

    stage = "attack"

    @cached_property
    def _blocks(self) -> list[Tensor]:
        """The variants of the task, then the adversarial examples, chunk by chunk: memory-mapped, never joined."""
        names = chunk_names(self)
        return [self._images["variants"], *(self.tensors(name)["variants"] for name in names)]

    def _variants(self, numbers: Tensor) -> Tensor:
        ends = torch.tensor([len(block) for block in self._blocks]).cumsum(0)
        owners = torch.searchsorted(ends, numbers, right=True)
        found = torch.empty(len(numbers), *self.input_shape)
        for owner in owners.unique().tolist():
            mine = owners == owner
            block = self._blocks[owner]
            found[mine] = block[numbers[mine] - (int(ends[owner]) - len(block))]
        return found
