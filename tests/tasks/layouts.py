"""Small data sets written to disk in the layouts of the published ones."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def digit_images(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 28, 28) and labels of scikit-learn's digits: each pixel 3 by 3, and a black border."""
    digits = load_digits()
    small = digits.images[start : start + count].astype(np.uint16)
    large = np.kron(small, np.ones((3, 3), np.uint16)) * 255 // 16
    return np.pad(large, ((0, 0), (2, 2), (2, 2))).astype(np.uint8), digits.target[start : start + count].astype(
        np.uint8
    )


def write_idx(path: Path, array: np.ndarray, packed: bool = False) -> None:
    """Write unsigned bytes in the IDX format; ``packed`` adds .gz."""
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_mnist(root: Path, train: int = 600, test: int = 200, kind: str = "MNIST", packed: bool = False) -> Path:
    """Write at most 1797 digits as MNIST, or another ``kind``, under ``root``, which is returned."""
    for stem, count, start in (("train", train, 0), ("t10k", test, train)):
        images, labels = digit_images(count, start)
        write_idx(root / kind / "raw" / f"{stem}-images-idx3-ubyte", images, packed)
        write_idx(root / kind / "raw" / f"{stem}-labels-idx1-ubyte", labels, packed)
    return root


def write_cifar10(root: Path, per_batch: int = 20) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Write random colour images as CIFAR-10: five train batches and a test batch.

    Returns the images (6 * per_batch, 3, 32, 32), the labels, and the MD5 sum of each file.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6 * per_batch, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(6 * per_batch) % 10
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    contents: dict[str, object] = {"batches.meta": {"label_names": [f"class {i}" for i in range(10)]}}
    for i, name in enumerate([*(f"data_batch_{b}" for b in range(1, 6)), "test_batch"]):
        rows = slice(i * per_batch, (i + 1) * per_batch)
        contents[name] = {"data": images[rows].reshape(per_batch, -1), "labels": labels[rows].tolist()}
    sums = {}
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    return images, labels, sums


def write_gtsrb(root: Path, train_per_class: int = 2, test: int = 6) -> Path:
    """Write plain oblongs as GTSRB under ``root``, which is returned; their red is the class."""
    base = root / "gtsrb"
    training, final = base / "GTSRB" / "Training", base / "GTSRB" / "Final_Test" / "Images"
    final.mkdir(parents=True)
    for label in range(43):
        (training / f"{label:05d}").mkdir(parents=True)
        for i in range(train_per_class):
            _sign(label, 15 + label + i).save(training / f"{label:05d}" / f"{i:05d}.ppm")
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i in range(test):
        _sign(7 * i, 20 + 5 * i).save(final / f"{i:05d}.ppm")
        lines.append(f"{i:05d}.ppm;20;20;0;0;20;20;{7 * i}")
    (base / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
    return root


def _sign(label: int, size: int) -> Image.Image:
    return Image.new("RGB", (size, size + 3), (label, 100, 200))
