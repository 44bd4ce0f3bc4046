"""Where a model's files are, and what names their contents: a commit of the hub, or a digest of a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from mad.errors import ConfigError

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CONTENTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*config.json",
    "*token*.json",
    "vocab.json",
    "chat_template.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    "*.py",
)
"""Files of a model's folder that can change what it answers: weights, configs, tokenizer, template, code."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
DIGITS = frozenset("0123456789abcdef")
ARTIFACT = re.compile(r"train-[0-9a-f]{20}")
"""Key of a trained model: it names the contents itself, and whoever loads it puts a folder in its place."""


def is_folder(model: str) -> bool:
    """Whether a reference is meant as a local folder: it exists, or cannot be a hub id."""
    return Path(model).expanduser().is_dir() or model.startswith((".", "~", os.sep)) or model.count("/") > 1


def folder_of(model: str, file: str = CONFIG) -> Path:
    """The local folder that ``model`` means.

    Raises:
        ConfigError: it is absent or lacks ``file``.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"model folder {model} does not exist")
    if not (folder / file).is_file():
        kind = "model" if file == CONFIG else "adapter"
        other = ADAPTER_CONFIG if file == CONFIG else CONFIG
        hint = f"; it holds {other}, so it is no {kind}" if (folder / other).is_file() else ""
        raise ConfigError(f"{model} is no folder of a Hugging Face {kind}: it has no {file}{hint}")
    return folder


def commit_of(model: str, revision: str | None, file: str = CONFIG) -> str:
    """The commit that a hub model stands at, 40 hex digits; from the local cache where the hub cannot be reached.

    Raises:
        ConfigError: the model or revision is absent, gated, or neither reachable nor in the cache.
    """
    if revision and len(revision) == 40 and DIGITS.issuperset(revision):
        return revision
    return _resolve(model, revision, file)


def download_adapter(adapter: str, revision: str | None) -> Path:
    """The local folder of a hub adapter, without any pickle.

    Raises:
        ConfigError: as :func:`commit_of`.
    """
    from huggingface_hub import hf_hub_download

    commit = commit_of(adapter, revision, ADAPTER_CONFIG)
    try:
        with _quietly():
            hf_hub_download(adapter, ADAPTER_CONFIG, revision=commit)
            return Path(hf_hub_download(adapter, ADAPTER_WEIGHTS, revision=commit)).parent
    except Exception as error:
        raise _explained(adapter, revision, ADAPTER_WEIGHTS, error) from None


@lru_cache(maxsize=64)
def _resolve(model: str, revision: str | None, file: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        # The cache keeps a file below the commit it belongs to, and answers when the hub does not.
        with _quietly():
            return Path(hf_hub_download(model, file, revision=revision)).parent.name
    except Exception as error:
        raise _explained(model, revision, file, error) from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out a line for each attempt to reach the hub: how it ends is told in one."""
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _explained(model: str, revision: str | None, file: str, error: Exception) -> Exception:
    """What a failure of the hub means to a user; an error of another kind is returned as it is."""
    from huggingface_hub import errors

    at = f" at revision {revision}" if revision else ""
    login = "set HF_TOKEN to a token of an account that has access"
    if isinstance(error, errors.GatedRepoError):
        return ConfigError(f"{model} is gated: accept its terms on https://huggingface.co/{model} and {login}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(f"{model} has no revision {revision}: give a branch, tag or commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ConfigError(f"{model} is neither a local folder nor a model of the hub; if it is private, {login}")
    if isinstance(error, errors.HFValidationError):
        return ConfigError(f"{model!r} is neither a local folder nor the id of a hub model (owner/name)")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return ConfigError(f"{model}{at} has no {file}: mad reads transformers models with safetensors weights")
    if isinstance(error, (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError)):
        return ConfigError(
            f"{model}{at} is no local folder, the hub cannot be reached (or HF_HUB_OFFLINE is set) and it is not "
            "in the cache of HF_HOME: give a folder with config.json, tokenizer and safetensors, or download it first"
        )
    return error


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that matter (``CONTENTS``), whatever the folder's name."""
    files = sorted(f for f in folder.iterdir() if f.is_file() and any(fnmatch(f.name, p) for p in CONTENTS))
    total = hashlib.sha256()
    for file in files:
        state = file.stat()
        total.update(f"{file.name}\0{_file_digest(str(file.resolve()), state.st_size, state.st_mtime_ns)}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(model: str, revision: str | None, file: str = CONFIG) -> dict[str, str]:
    """Plain JSON that names what a model or adapter holds.

    Returns:
        ``digest`` of a folder, ``id`` and ``commit`` of a hub one, ``artifact`` of a trained one.

    Raises:
        ConfigError: it cannot be found.
    """
    if ARTIFACT.fullmatch(model):
        return {"artifact": model}
    if is_folder(model):
        return {"digest": digest(folder_of(model, file))}
    return {"id": model, "commit": commit_of(model, revision, file)}


def check_weights(folder: Path, name: str) -> None:
    """Refuse a folder without safetensors weights.

    Raises:
        ConfigError: there are none; a pickle is named if that is what there is.
    """
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(f.name for pattern in PICKLES for f in folder.glob(pattern))
    found = f"only {pickles[0]}, which may run code when it is read" if pickles else "no weights"
    raise ConfigError(f"{name} holds {found}: save it as safetensors (model.save_pretrained of transformers does)")
