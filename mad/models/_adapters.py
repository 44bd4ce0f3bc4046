"""PEFT adapters on a loaded model: read without pickles, refused on another base than their own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mad.errors import ConfigError
from mad.models import _hub

SHOWN = 3


class Base:
    """The base model that an adapter is to be put on.

    Args:
        model: hub id or folder.
        revision: what was asked for; None is the main branch.
    """

    def __init__(self, model: str, revision: str | None):
        self.model, self.revision = model, revision

    @property
    def contents(self) -> dict[str, str]:
        """As :func:`mad.models._hub.contents`."""
        return _hub.contents(self.model, self.revision)


def adapter_folder(adapter: str, revision: str | None) -> Path:
    """The local folder of an adapter.

    Raises:
        ConfigError: it cannot be found, or its weights are a pickle.
    """
    if not _hub.is_folder(adapter):
        return _hub.download_adapter(adapter, revision)
    folder = _hub.folder_of(adapter, _hub.ADAPTER_CONFIG)
    _hub.check_weights(folder, adapter)
    if not (folder / _hub.ADAPTER_WEIGHTS).is_file():
        raise ConfigError(f"{adapter} has no {_hub.ADAPTER_WEIGHTS}: it is no adapter saved by PEFT")
    return folder


def check_base(folder: Path, adapter: str, base: Base) -> None:
    """Refuse an adapter whose files say that it belongs to another model.

    Raises:
        ConfigError: it names another hub model, revision, or contents.
    """
    wanted = _recorded_base(folder)
    name, revision, wanted_digest = wanted.get("model"), wanted.get("revision"), wanted.get("digest")
    asked = f"adapter {adapter} is for another base model"
    if wanted_digest:
        have = base.contents.get("digest")
        if have not in (None, wanted_digest):
            trained_on = name or wanted_digest[:12]
            raise ConfigError(f"{asked}: it was trained on {trained_on}, {base.model} has other contents")
        return
    if not name:
        return
    if _hub.is_folder(name) and _hub.is_folder(base.model):
        theirs, ours = Path(name).expanduser(), Path(base.model).expanduser()
        # What it was trained on may have been moved away since; then only the shapes can tell.
        if (theirs / _hub.CONFIG).is_file() and _hub.digest(theirs) != _hub.digest(ours):
            raise ConfigError(f"{asked}: it was trained on {name}, not on {base.model}")
    elif not _hub.is_folder(name) and not _hub.is_folder(base.model):
        if name.lower() != base.model.lower():
            raise ConfigError(f"{asked}: it was trained on {name}, not on {base.model}")
        if revision and revision not in (base.revision or "main", base.contents["commit"]):
            have_revision = base.revision or "main"
            raise ConfigError(f"{asked}: it was trained on revision {revision} of {name}, not on {have_revision}")


def attach(model: Any, folder: Path, adapter: str, merge: bool) -> Any:
    """Put an adapter on a loaded model.

    Args:
        model: the base model; its modules are changed.
        folder: from :func:`adapter_folder`.
        adapter: what the user calls it.
        merge: add its weights into those of the model.

    Raises:
        ConfigError: its layers do not fit those of the model.
    """
    from peft import PeftModel, get_peft_model_state_dict

    asked = f"adapter {adapter} does not fit the base model"
    try:
        with peft_quietly():
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{asked}: {_first_lines(str(error))}") from None
    # PEFT leaves out silently what it finds no place for.
    stray = sorted(_stored_names(folder) - set(get_peft_model_state_dict(adapted)))
    if stray:
        raise ConfigError(f"{asked}: it has no {', '.join(stray[:SHOWN])}{' ...' if len(stray) > SHOWN else ''}")
    return adapted.merge_and_unload() if merge else adapted


@contextmanager
def peft_quietly() -> Iterator[None]:
    """Leave out one warning: PEFT asks models for a property that newer releases of transformers have renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def replaced_modules(folder: Path) -> tuple[str, ...]:
    """Modules that the adapter holds whole, such as a new classification head."""
    return tuple(_read(folder / _hub.ADAPTER_CONFIG).get("modules_to_save") or ())


def _recorded_base(folder: Path) -> Mapping[str, Any]:
    """Name, revision and digest of the base, as far as the adapter's files tell."""
    config = _read(folder / _hub.ADAPTER_CONFIG)
    named = {"model": config.get("base_model_name_or_path"), "revision": config.get("revision")}
    description = folder / "model.json"
    base = _read(description).get("base") if description.is_file() else None
    return {**named, **base} if isinstance(base, dict) else named


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None


def _stored_names(folder: Path) -> set[str]:
    path = folder / _hub.ADAPTER_WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise ConfigError(f"{path} is damaged or no safetensors file: {error}") from None


def _first_lines(text: str) -> str:
    return " ".join(text.split())[:300]
