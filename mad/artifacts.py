"""Typed artifact records: a folder with ``meta.json`` and payload files in JSON, safetensors or parquet.

Reading maps the payload into memory where it is large; nothing here ever unpickles.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mad.errors import ArtifactError, ConfigError, nearest

META = "meta.json"
REQUIRED = ("key", "stage", "config", "inputs", "files", "summary")


@dataclass(frozen=True)
class Artifact:
    """A finished artifact in a local folder.

    Attributes:
        folder: where its files lie.
        meta: ``key``, ``stage``, ``config``, ``inputs`` (name to key), ``files`` (name to bytes and sha256),
            ``summary`` (small figures of the stage), ``versions``, ``created``, ``seconds``.
    """

    folder: Path
    meta: dict[str, Any]
    stage: ClassVar[str] = ""

    @classmethod
    def read(cls, folder: Path) -> Artifact:
        """Open a folder as the record type of the stage that wrote it.

        Raises:
            ArtifactError: the folder holds no (readable) meta data of an artifact.
        """
        try:
            meta = json.loads((folder / META).read_text())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder} is not an artifact: cannot read {META} ({error})") from None
        missing = [name for name in REQUIRED if not isinstance(meta, dict) or name not in meta]
        if missing:
            raise ArtifactError(f"{folder} is not an artifact: its {META} lacks {', '.join(missing)}")
        return _kinds(Artifact).get(meta["stage"], Artifact)(folder, meta)

    @property
    def key(self) -> str:
        """The content-hash name."""
        return self.meta["key"]

    @property
    def summary(self) -> dict[str, Any]:
        """Small figures and facts of the stage."""
        return self.meta["summary"]

    def json(self, name: str) -> Any:
        """Read a JSON payload file."""
        return json.loads((self.folder / name).read_text())

    def table(self, name: str) -> pd.DataFrame:
        """Read a parquet payload file."""
        return pd.read_parquet(self.folder / name)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Map a safetensors payload file into memory; pages are read when touched and shared on a node."""
        return read_tensors(self.folder / name)


def _kinds(base: type[Artifact]) -> dict[str, type[Artifact]]:
    """Record types by stage."""
    found = {kind.stage: kind for kind in base.__subclasses__()}
    return {**found, **{name: kind for sub in found.values() for name, kind in _kinds(sub).items()}}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Memory-mapped tensors of a safetensors file.

    Raises:
        ArtifactError: the file is missing or is not whole safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"cannot read {path}: {error}") from None


class Split(Artifact):
    """Rows of a task: inputs, labels, parts."""

    stage = "prepare"

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One line per row, see ``mad.tasks._base.Rows.table``."""
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

    def column(self, name: str, rows: Tensor) -> Tensor:
        """One numeric or boolean column of the given rows as a tensor."""
        return torch.from_numpy(self.rows[name].to_numpy(copy=True)[rows.numpy()])


class AttackedSplit(Split):
    """Rows of a task with adversarial examples in place of those that were to be attacked."""

    stage = "attack"

    @cached_property
    def _blocks(self) -> list[Tensor]:
        """The variants of the task, then the adversarial examples, chunk by chunk: memory-mapped, never joined."""
        names = sorted(n for n in self.meta["files"] if n.startswith("chunk-"))
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


class Checkpoint(Artifact):
    """A trained model: ``weights.safetensors`` and ``model.json``."""

    stage = "train"


class Features(Artifact):
    """Activations and logits of every row, in numbered chunks of safetensors."""

    stage = "extract"

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in model order."""
        return self.summary["layers"]

    @cached_property
    def chunks(self) -> list[dict[str, Tensor]]:
        """Memory-mapped chunks: a tensor per layer, ``logits``, ``mask`` where rows have positions."""
        names = sorted(n for n in self.meta["files"] if n.startswith("chunk-"))
        return [self.tensors(name) for name in names]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows, in the order of the chunks: id, part, label, clean_label, is_anomalous."""
        return self.table("rows.parquet")

    def bounds(self, part: str) -> tuple[int, int]:
        """First row and one past the last row of a part; parts are contiguous.

        Raises:
            ConfigError: no such part was extracted.
        """
        found = (self.rows["part"] == part).to_numpy().nonzero()[0]
        if not len(found):
            raise ConfigError(f"no features of part '{part}'{nearest(part, set(self.rows['part']))}")
        return int(found[0]), int(found[-1]) + 1


class FittedDetector(Artifact):
    """A fitted detector: ``state.safetensors`` and its config in the meta data."""

    stage = "fit"


class AnomalyScores(Artifact):
    """Scores per row and layer, aggregate, threshold and metrics."""

    stage = "detect"


class Report(Artifact):
    """Plots and tables."""

    stage = "report"


class ScorePairs(Artifact):
    """Scores of a baseline and a candidate on the same prompts."""

    stage = "pairs"

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One line per pair, in order: id, cluster, baseline, candidate (NaN where missing)."""
        return self.table("pairs.parquet")


class AuditTrace(Artifact):
    """A behavioural-shift audit: ``verdict.json``, and ``trace.parquet`` with the test after each prompt."""

    stage = "audit"

    @property
    def verdict(self) -> dict[str, Any]:
        """What was found, see ``mad.stages.audit``."""
        return self.json("verdict.json")
