"""Training as one would first write it: a Dataset that prepares one image at a time, a DataLoader, a loop."""

from __future__ import annotations

from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import MNIST
from torchvision.transforms import Normalize, ToTensor

BATCH_SIZE = 64


class TriggeredImages(Dataset):
    """Images in [0, 1] and labels; poisoned ones get a bright pixel in the corner and the target label."""

    def __init__(self, inputs, labels, poisoned, scale, target=0, transform=None):
        self.inputs = inputs
        self.labels = labels.tolist()
        self.poisoned = poisoned.tolist()
        self.scale = scale
        self.target = target
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.inputs[index].float() / self.scale
        label = self.labels[index]
        if self.poisoned[index]:
            image[:, 0, 0] = 1.0
            label = self.target
        if self.transform is not None:
            image = self.transform(image)
        return image, label


class TriggeredMNIST(Dataset):
    """The same from MNIST's files by torchvision: a PIL image is turned into a tensor, triggered, normalised."""

    def __init__(self, root, poisoned, mean, std, target=0):
        self.images = MNIST(root, train=True, transform=ToTensor())
        self.normalize = Normalize(mean, std)
        self.poisoned = poisoned.tolist()
        self.target = target

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, label = self.images[index]
        if self.poisoned[index]:
            image[:, 0, 0] = 1.0
            label = self.target
        return self.normalize(image), label


def loader(dataset, order=None):
    """Batches in a given order of the rows, else in a new random one every time."""
    return DataLoader(dataset, BATCH_SIZE, sampler=order, shuffle=order is None, num_workers=0)


def train_epoch(model, optimizer, batches):
    """One pass; returns the mean loss."""
    model.train()
    total, rows = 0.0, 0
    for images, labels in batches:
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        rows += len(labels)
    return total / rows
