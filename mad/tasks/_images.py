"""Image data sets as uint8 tensors: digits (in scikit-learn), MNIST, Fashion-MNIST, CIFAR-10 and GTSRB."""

from __future__ import annotations

import gzip
import hashlib
import math
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mad.errors import ConfigError, DataError, nearest
from mad.tasks import _class_names

# torchvision is imported where it is needed: it costs seconds, and the default data set does without it.

GTSRB_SIZE = 32
"""Height and width, in pixels, to which the traffic signs (15 to 250 pixels wide) are resized."""

UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    struct.error,
    zlib.error,
    pickle.PickleError,
)
"""What readers raise on files that are missing, cut short or of another kind, and on failed downloads."""

Parts = tuple[Tensor, Tensor, Tensor, Tensor]
"""Train inputs, train labels, test inputs, test labels."""


@dataclass(frozen=True)
class Images:
    """An image data set, or a subset of one.

    Attributes:
        inputs: (N, C, H, W) uint8.
        labels: (N,) int64, indices into ``class_names``.
        is_test: (N,) bool, the official test part; None for a data set without an official split.
        numbers: (N,) int64, the position of each image in the whole data set (train part first): it names the
            image whatever subset is taken.
        scale: ``inputs / scale`` lies in [0, 1].
        class_names: one name per class.
    """

    inputs: Tensor
    labels: Tensor
    is_test: Tensor | None
    numbers: Tensor
    scale: float
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A data set kept in a folder: its class names, what the folder must hold, and how to read it."""

    class_names: tuple[str, ...]
    layout: str
    read: Callable[[Path, bool], Parts]


def class_names(name: str) -> tuple[str, ...]:
    """Class names of a data set, without reading it.

    Raises:
        ConfigError: no data set has this name; the message lists the nearest ones.
    """
    if name == "digits":
        return _class_names.DIGITS
    if name not in _SOURCES:
        raise ConfigError(f"unknown data set '{name}'{nearest(name, ['digits', *_SOURCES])}")
    return _SOURCES[name].class_names


def load(name: str, root: str | None, download: bool) -> Images:
    """Read a data set, official train part first.

    Args:
        name: ``digits``, ``mnist``, ``fashion_mnist``, ``cifar10`` or ``gtsrb``.
        root: folder that holds the data, in torchvision's layout; unused by ``digits``.
        download: fetch what is missing into ``root``.

    Raises:
        ConfigError: unknown data set.
        DataError: files are missing or damaged; the message names the expected layout.
    """
    names = class_names(name)
    if name == "digits":
        inputs, labels = _read_digits()
        return Images(inputs, labels, None, torch.arange(len(labels)), 16.0, names)
    train_inputs, train_labels, test_inputs, test_labels = _read(name, root, download)
    inputs, labels = torch.cat([train_inputs, test_inputs]), torch.cat([train_labels, test_labels]).long()
    numbers = torch.arange(len(labels))
    return Images(inputs, labels, numbers >= len(train_labels), numbers, 255.0, names)


def digest(name: str, root: str | None, download: bool) -> str:
    """SHA-256 of the content of a data set, the same wherever and however (packed or not) it is kept.

    Raises:
        ConfigError: unknown data set.
        DataError: files are missing or damaged.
    """
    if name == "gtsrb":
        return _gtsrb_digest(root, download)
    images = load(name, root, download)
    sha = hashlib.sha256()
    test_rows = 0 if images.is_test is None else int(images.is_test.sum())
    sha.update(f"{tuple(images.inputs.shape)} {test_rows}".encode())
    sha.update(images.inputs.contiguous().numpy().data)
    sha.update(images.labels.numpy().data)
    return sha.hexdigest()


def _read(name: str, root: str | None, download: bool) -> Parts:
    source = _SOURCES[name]
    try:
        parts = source.read(_folder(root), download)
        _check(parts, len(source.class_names))
    except UNREADABLE as error:
        raise _unreadable(name, root, error) from error
    return parts


def _unreadable(name: str, root: str | None, error: Exception) -> DataError:
    # torchvision's advice names an argument of its own; ours is an option.
    reason = " ".join(str(error).split()).partition(" You can use download=True")[0].rstrip(".")
    layout = _SOURCES[name].layout.replace("ROOT", root or "ROOT")
    return DataError(f"{name}: {reason}; expected {layout}; --task.download fetches it")


def _folder(root: str | None) -> Path:
    if root is None:
        raise ValueError("no data folder is given (--task.root ROOT)")
    return Path(root)


def _check(parts: Parts, classes: int) -> None:
    for part, inputs, labels in (("train", *parts[:2]), ("test", *parts[2:])):
        if not len(inputs) or len(inputs) != len(labels):
            raise ValueError(f"the {part} part has {len(inputs)} images and {len(labels)} labels")
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"the {part} part has labels outside 0..{classes - 1}")


def _read_digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    return inputs, torch.from_numpy(digits.target).long()


def _idx_reader(kind: str) -> Callable[[Path, bool], Parts]:
    """Reader of MNIST and the data sets in its format; ``kind`` is torchvision's class and folder name."""
    stems = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")

    def read(root: Path, download: bool) -> Parts:
        files = [root / kind / "raw" / f"{stem}-ubyte" for stem in stems]
        if download and not all(file.exists() or _packed(file).exists() for file in files):
            from torchvision import datasets

            getattr(datasets, kind)(str(root), download=True)
        train_inputs, train_labels, test_inputs, test_labels = (_read_idx(file) for file in files)
        return train_inputs.unsqueeze(1), train_labels, test_inputs.unsqueeze(1), test_labels

    return read


def _packed(file: Path) -> Path:
    return file.with_name(file.name + ".gz")


def _read_idx(file: Path) -> Tensor:
    """Read a file of unsigned bytes in the IDX format, packed or not (torchvision reads only unpacked ones).

    The format: two zero bytes, a type (8 is an unsigned byte), the rank, the sizes as big-endian 32-bit
    integers, the data.
    """
    packed = not file.exists() and _packed(file).exists()
    content = gzip.decompress(_packed(file).read_bytes()) if packed else file.read_bytes()
    rank = 3 if "idx3" in file.name else 1
    start = 4 + 4 * rank
    shape = struct.unpack_from(f">{rank}I", content, 4) if len(content) >= start else ()
    if content[:4] != bytes((0, 0, 8, rank)) or len(content) != start + math.prod(shape):
        raise ValueError(f"{file.name} is damaged")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def _read_cifar10(root: Path, download: bool) -> Parts:
    from torchvision.datasets import CIFAR10

    # The batches are pickles: torchvision opens them only if their MD5 sums are those of the published files.
    train, test = CIFAR10(str(root), train=True, download=download), CIFAR10(str(root), train=False)
    inputs = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)]
    return inputs[0], torch.tensor(train.targets), inputs[1], torch.tensor(test.targets)


def _read_gtsrb(root: Path, download: bool) -> Parts:
    from torchvision.datasets import GTSRB
    from torchvision.transforms import v2

    transform = v2.Compose([v2.PILToTensor(), v2.Resize((GTSRB_SIZE, GTSRB_SIZE), antialias=True)])
    parts: list[Tensor] = []
    for split in ("train", "test"):
        rows = list(GTSRB(str(root), split=split, transform=transform, download=download))
        if not rows:
            raise ValueError(f"the {split} part is empty")
        parts += [torch.stack([image for image, _ in rows]), torch.tensor([label for _, label in rows])]
    # torchvision numbers the training folders it finds: with one missing, all later labels would be wrong.
    found, classes = len(parts[1].unique()), len(_class_names.GTSRB)
    if found != classes:
        raise ValueError(f"{found} of {classes} training folders hold images")
    return parts[0], parts[1], parts[2], parts[3]


def _gtsrb_digest(root: str | None, download: bool) -> str:
    """Digest of the files: decoding and resizing forty thousand of them takes far longer."""
    sha = hashlib.sha256()
    try:
        base = _folder(root) / "gtsrb"
        if download:
            from torchvision.datasets import GTSRB

            for split in ("train", "test"):
                GTSRB(str(root), split=split, download=True)
        files = {file.relative_to(base).as_posix(): file for file in (base / "GTSRB").rglob("*.ppm")}
        files["GT-final_test.csv"] = base / "GT-final_test.csv"
        for name in sorted(files):
            content = files[name].read_bytes()
            sha.update(f"{name}\0{len(content)}\0".encode() + content)
    except UNREADABLE as error:
        raise _unreadable("gtsrb", root, error) from error
    return sha.hexdigest()


_SOURCES = {
    "mnist": _Source(
        _class_names.DIGITS,
        "ROOT/MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]",
        _idx_reader("MNIST"),
    ),
    "fashion_mnist": _Source(
        _class_names.FASHION,
        "ROOT/FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]",
        _idx_reader("FashionMNIST"),
    ),
    "cifar10": _Source(
        _class_names.CIFAR10,
        "ROOT/cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}",
        _read_cifar10,
    ),
    "gtsrb": _Source(
        _class_names.GTSRB,
        "ROOT/gtsrb/{GTSRB/Training/00000..00042/*.ppm,GTSRB/Final_Test/Images/*.ppm,GT-final_test.csv}",
        _read_gtsrb,
    ),
}
