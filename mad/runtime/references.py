"""Artifacts that a person refers to, by key, name, folder or MLflow URI; and what is taken in from elsewhere."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from mad.artifacts import META, Artifact
from mad.config import Data
from mad.errors import ArtifactError, nearest
from mad.files import KEY, check_file
from mad.runtime.identity import key_of
from mad.runtime.settings import Settings, settings
from mad.stages._language_models import FIELDS
from mad.store import Store

NAMED = {**dict.fromkeys(FIELDS, "train"), **dict.fromkeys(("baseline_scores", "candidate_scores"), "judge")}
"""Options inside a section that may name an artifact, and the stage that makes it."""


def find_reference(reference: str, store: Store, settings: Settings) -> Artifact:
    """An artifact of any stage, by the same kinds of reference.

    Raises:
        ArtifactError: nothing is found, or it is damaged.
    """
    if reference.startswith(("runs:/", "models:/")):
        if settings.tracking_uri is None:
            raise ArtifactError(f"'{reference}' needs MLflow: leave --no_tracking out")
        from mad.runtime.mlflow_client import download

        return import_folder(download(settings, reference), store)
    return find_local(reference, store)


def find_local(reference: str, store: Store) -> Artifact:
    """An artifact of any stage by key, given name or local folder.

    Raises:
        ArtifactError: nothing is found, or it is damaged.
    """
    names = store.names()
    key = names.get(reference, reference)
    if reference in names or (KEY.fullmatch(key) and store.has(key)):
        return store.open(key)
    path = Path(reference)
    if path.is_file():
        wanted = f"give the folder of an artifact (safetensors and {META}); pickles are never loaded"
        raise ArtifactError(f"'{reference}' is a file: {wanted}")
    if (path / META).exists():
        return import_folder(path, store)
    raise ArtifactError(f"no artifact '{reference}' in {store.shown}{nearest(reference, [*names, *store.keys()])}")


def import_folder(folder: Path, store: Store) -> Artifact:
    """Take an artifact folder into the store, every file compared with its checksum.

    Nobody can tell that the files are what their key's identity makes. So they get a key of their own, which no
    stage run here ever asks for; ``imported_from`` keeps the one they claim.

    Raises:
        ArtifactError: a file is missing or altered, or the meta data is not that of an artifact.
    """
    artifact = Artifact.read(folder)
    meta, files, stage = artifact.meta, artifact.meta["files"], str(artifact.meta["stage"])
    # What comes from elsewhere must not name places outside its own folder.
    if not KEY.fullmatch(str(artifact.key)) or any(Path(name).name != name for name in files):
        raise ArtifactError(f"{folder} is not an artifact: its {META} holds an impossible key or file name")
    if not isinstance(meta.get("lineage"), dict) or stage not in meta["lineage"] or "identity" not in meta:
        raise ArtifactError(f"{folder} is not an artifact: its {META} lacks lineage or identity")
    claimed = meta.get("imported_from", artifact.key)
    key = key_of(stage, {"imported": claimed, "files": files})
    if artifact.key not in (claimed, key) or key_of(stage, meta["identity"]) != claimed:
        raise ArtifactError(f"{folder} is not artifact '{artifact.key}': its {META} describes another one")
    if store.has(claimed) and store.meta(claimed)["files"] == files:
        return store.open(claimed)
    if store.has(key):
        return store.open(key)
    for name, facts in files.items():
        check_file(folder / name, facts, f"{folder} is damaged, fetch it again")
    draft = store.draft(key)
    for name in files:
        draft.write(name, partial(shutil.copyfile, folder / name))
    own = {**meta["lineage"][stage], "key": key, "imported_from": claimed}
    draft.commit({**meta, "lineage": {**meta["lineage"], stage: own}, "imported_from": claimed})
    return store.open(key)


def with_keys(data: Data, store: Store) -> Data:
    """Settings with keys in place of the names (or folders) of artifacts: ``--lm.model my-llama``.

    Args:
        data: nested data or dotted flags.
        store: of the artifacts.

    Raises:
        ArtifactError: the name of something that is not, and was not made from, what is needed.
    """

    def named(path: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: named(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()}
        section, _, last = path.rpartition(".")
        may = bool(section and value) and last in NAMED and isinstance(value, str)
        return _key_of(value, NAMED[last], store) if may else value

    return named("", data)


def with_calibration(data: Data, store: Store) -> Data:
    """Settings with the key of the calibration that an audit names, by any kind of reference.

    Raises:
        ArtifactError: there is none of that name, or it is something else.
    """
    section = data.get("audit")
    if not isinstance(section, dict) or section.get("calibration") in (None, "", "null"):
        return data
    named = section["calibration"]
    reference = str(named)
    # The key of one that is not made yet is as good: a sweep may make it.
    if not (KEY.fullmatch(reference) and reference.startswith("calibrate-")):
        artifact = find_reference(reference, store, settings())
        made, reference = artifact.meta["stage"], artifact.key
        if made != "calibrate":
            raise ArtifactError(f"'{named}' was made by stage '{made}', not by calibrate")
    return {**data, "audit": {**section, "calibration": reference}}


def _key_of(value: str, stage: str, store: Store) -> str:
    """The key of what a value names; the value itself if it names no artifact."""
    if KEY.fullmatch(value) and value.startswith(f"{stage}-"):
        return value
    if not KEY.fullmatch(value) and value not in store.names() and not (Path(value) / META).exists():
        return value
    artifact = find_local(value, store)
    made, lineage = artifact.meta["stage"], artifact.meta["lineage"]
    if stage not in lineage:
        raise ArtifactError(f"'{value}' was made by stage '{made}', an artifact of stage '{stage}' is needed")
    return artifact.key if made == stage else lineage[stage]["key"]
