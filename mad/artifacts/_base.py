"""What every artifact is: a folder with ``meta.json`` and payload files in JSON, safetensors or parquet.

Reading maps the payload into memory where it is large; nothing here ever unpickles.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mad.errors import ArtifactError

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


def chunk_names(artifact: Artifact) -> list[str]:
    """The numbered chunks in order: after ``chunk-99999`` comes ``chunk-100000``, which no alphabet says."""
    names = [name for name in artifact.meta["files"] if name.startswith("chunk-")]
    return sorted(names, key=lambda name: (len(name), name))
