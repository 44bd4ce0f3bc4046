"""Where things lie: the home folder, the artifact store, MLflow; read from the environment once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dotenv import load_dotenv


@dataclass(frozen=True)
class Settings:
    """Locations.

    Attributes:
        home: MAD_HOME, by default ``./runs``: everything mad writes lies below it.
        store: MAD_STORE, by default ``<home>/artifacts``: a folder or an fsspec URI.
        tracking_uri: MLFLOW_TRACKING_URI, by default SQLite under ``<home>``; None without tracking.
        artifact_root: where a local MLflow store puts artifacts; None where the server decides.
    """

    home: Path
    store: str
    tracking_uri: str | None
    artifact_root: Path | None


def settings(tracking: bool = True) -> Settings:
    """Read ``.env`` (which never overrides the environment) and the environment."""
    load_dotenv(Path.cwd() / ".env", override=False)
    home = Path(os.environ.get("MAD_HOME") or "runs").expanduser().absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or None
    # A database holds no files: without a server, plots and checkpoints go below the home folder.
    served = uri is not None and not uri.startswith("sqlite:")
    return Settings(
        home=home,
        store=os.environ.get("MAD_STORE") or str(home / "artifacts"),
        tracking_uri=None if not tracking else uri or f"sqlite:///{home}/mlflow.db",
        artifact_root=None if served else home / "mlflow-artifacts",
    )
