import shutil

import numpy as np
import pytest
import torch
from torchvision import datasets

from mad.errors import ConfigError, DataError
from mad.tasks import _images
from tests.tasks.layouts import digit_images, write_cifar10, write_gtsrb, write_idx, write_mnist


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """A small CIFAR-10 whose MD5 sums torchvision accepts."""
    images, labels, sums = write_cifar10(tmp_path)
    for attribute in ("train_list", "test_list"):
        files = [[name, sums[name]] for name, _ in getattr(datasets.CIFAR10, attribute)]
        monkeypatch.setattr(datasets.CIFAR10, attribute, files)
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": sums["batches.meta"]})
    return tmp_path, images, labels


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_digits_come_without_a_folder():
    images = _images.load("digits", None, False)
    assert images.inputs.shape == (1797, 1, 8, 8) and images.inputs.dtype == torch.uint8
    assert images.inputs.max() == images.scale == 16
    assert images.is_test is None and images.class_names == tuple("0123456789")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files_are_read_packed_or_not(tmp_path, name, kind, packed):
    images = _images.load(name, str(write_mnist(tmp_path, 30, 10, kind, packed)), False)
    expected, labels = digit_images(40)
    assert np.array_equal(images.inputs[:, 0].numpy(), expected) and np.array_equal(images.labels.numpy(), labels)
    assert images.is_test.tolist() == [False] * 30 + [True] * 10
    assert images.scale == 255 and images.labels.dtype == torch.int64 and len(images.class_names) == 10


def test_idx_reader_agrees_with_torchvision(tmp_path):
    images = _images.load("mnist", str(write_mnist(tmp_path, 30, 10)), False)
    reference = datasets.MNIST(str(tmp_path), train=True)
    assert torch.equal(images.inputs[:30, 0], reference.data) and torch.equal(images.labels[:30], reference.targets)


def test_cifar10_is_read_with_channels_first(cifar10):
    root, expected, labels = cifar10
    images = _images.load("cifar10", str(root), False)
    assert np.array_equal(images.inputs.numpy(), expected) and np.array_equal(images.labels.numpy(), labels)
    assert images.is_test.tolist() == [False] * 100 + [True] * 20


def test_cifar10_with_other_sums_is_not_unpickled(tmp_path):
    write_cifar10(tmp_path)
    with pytest.raises(DataError, match="cifar10: Dataset not found or corrupted; expected .*/cifar-10-batches-py"):
        _images.load("cifar10", str(tmp_path), False)


def test_gtsrb_is_resized_and_keeps_its_official_parts(tmp_path):
    images = _images.load("gtsrb", str(write_gtsrb(tmp_path)), False)
    assert images.inputs.shape == (43 * 2 + 6, 3, 32, 32) and images.inputs.dtype == torch.uint8
    assert images.labels[86:].tolist() == [0, 7, 14, 21, 28, 35] and int(images.is_test.sum()) == 6
    # The red channel carries the class: each label belongs to its own picture.
    assert torch.equal(images.inputs[:, 0].float().mean((1, 2)), images.labels.float())
    assert len(images.class_names) == 43 == len(set(images.class_names))


def test_gtsrb_without_one_training_folder_is_refused_rather_than_mislabelled(tmp_path):
    write_gtsrb(tmp_path)
    shutil.rmtree(tmp_path / "gtsrb" / "GTSRB" / "Training" / "00005")
    with pytest.raises(DataError, match="42 of 43 training folders") as error:
        _images.load("gtsrb", str(tmp_path), False)
    one_line(error)


def test_digest_depends_on_the_content_not_on_the_path_or_packing(tmp_path):
    plain = _images.digest("mnist", str(write_mnist(tmp_path / "a", 30, 10)), False)
    assert plain == _images.digest("mnist", str(write_mnist(tmp_path / "b", 30, 10, packed=True)), False)
    assert plain != _images.digest("mnist", str(write_mnist(tmp_path / "c", 31, 9)), False)
    _, labels = digit_images(30)
    write_idx(tmp_path / "b" / "MNIST" / "raw" / "train-labels-idx1-ubyte", (labels + 1) % 10)
    assert plain != _images.digest("mnist", str(tmp_path / "b"), False)


def test_gtsrb_digest_depends_on_every_file_not_on_the_path(tmp_path):
    first = _images.digest("gtsrb", str(write_gtsrb(tmp_path / "a")), False)
    assert first == _images.digest("gtsrb", str(write_gtsrb(tmp_path / "b")), False)
    table = tmp_path / "b" / "gtsrb" / "GT-final_test.csv"
    table.write_text(table.read_text().replace(";35\n", ";36\n"))
    assert first != _images.digest("gtsrb", str(tmp_path / "b"), False)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("mnist", "MNIST/raw/"),
        ("fashion_mnist", "FashionMNIST/raw/"),
        ("cifar10", "cifar-10-batches-py/"),
        ("gtsrb", "gtsrb/"),
    ],
)
def test_missing_files_name_the_layout_and_the_option(tmp_path, name, layout):
    for root, read in ((str(tmp_path), _images.load), (str(tmp_path), _images.digest), (None, _images.load)):
        with pytest.raises(DataError) as error:
            read(name, root, False)
        message = one_line(error)
        assert (
            message.startswith(f"{name}: ") and f"{root or 'ROOT'}/{layout}" in message and "--task.download" in message
        )
    assert not list(tmp_path.iterdir()), "nothing is fetched or created unless asked"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("packed", "file", "damage"),
    [
        (False, "train-images-idx3-ubyte", truncate),
        (False, "train-images-idx3-ubyte", lambda path: path.write_bytes(b"\0\0")),
        (False, "t10k-labels-idx1-ubyte", lambda path: path.write_bytes(b"<html>not found</html>")),
        (False, "t10k-labels-idx1-ubyte", lambda path: path.unlink()),
        (False, "train-labels-idx1-ubyte", lambda path: write_idx(path, np.zeros(29, np.uint8))),
        (False, "train-labels-idx1-ubyte", lambda path: write_idx(path, np.full(30, 10, np.uint8))),
        (True, "train-images-idx3-ubyte.gz", truncate),
        (True, "train-images-idx3-ubyte.gz", lambda path: path.write_bytes(b"no archive")),
    ],
)
def test_damaged_idx_files_are_one_line(tmp_path, packed, file, damage):
    write_mnist(tmp_path, 30, 10, packed=packed)
    damage(tmp_path / "MNIST" / "raw" / file)
    with pytest.raises(DataError, match="expected .*/MNIST/raw") as error:
        _images.load("mnist", str(tmp_path), False)
    one_line(error)


def test_an_unreadable_traffic_sign_is_one_line(tmp_path):
    write_gtsrb(tmp_path)
    (tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / "00003.ppm").write_bytes(b"no picture")
    with pytest.raises(DataError, match="gtsrb: .*00003.ppm") as error:
        _images.load("gtsrb", str(tmp_path), False)
    one_line(error)


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def refuse(self):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried a mirror, got:\nno route\n")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)
    with pytest.raises(DataError, match="Error downloading .* no route") as error:
        _images.load("mnist", str(tmp_path), True)
    one_line(error)


def test_download_leaves_files_that_are_there_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: pytest.fail("asked for a download"))
    write_mnist(tmp_path, 30, 10, packed=True)
    assert len(_images.load("mnist", str(tmp_path), True).labels) == 40


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown data set 'cifar100' \(did you mean cifar10"):
        _images.load("cifar100", None, False)
