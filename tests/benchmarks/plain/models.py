"""The two classifiers, written out, with the activations of their hidden layers."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional


class Normalised(nn.Module):
    """Pixels in [0, 1] to logits; subclasses give the activations of every hidden layer as (n, d)."""

    def __init__(self, layers, head, mean, std):
        super().__init__()
        self.layers, self.head = nn.ModuleList(layers), head
        self.mean, self.std = mean, std

    def forward(self, x):
        return self.head(self.hidden(x)[-1])


class MLP(Normalised):
    """Linear layers with ReLU."""

    def __init__(self, num_inputs, num_outputs, mean, std, hidden=(128, 128)):
        widths = [num_inputs, *hidden]
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        super().__init__(layers, nn.Linear(widths[-1], num_outputs), mean, std)

    def hidden(self, x):
        h = ((x - self.mean) / self.std).flatten(1)
        found = []
        for layer in self.layers:
            h = functional.relu(layer(h))
            found.append(h)
        return found


class CNN(Normalised):
    """Convolutions with ReLU and maximum pooling; an activation is the mean of its map."""

    def __init__(self, num_inputs, num_outputs, mean, std, channels=(128, 128, 128)):
        widths = [num_inputs, *channels]
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
        super().__init__(layers, nn.Linear(widths[-1], num_outputs), mean, std)

    def hidden(self, x):
        h = (x - self.mean) / self.std
        found = []
        for layer in self.layers:
            h = functional.max_pool2d(functional.relu(layer(h)), 2, ceil_mode=True)
            found.append(h.mean(dim=(2, 3)))
        return found


@torch.no_grad()
def copy_weights(source, target):
    """Give ``target`` the weights of a network with the same layers in the same order."""
    for theirs, ours in zip(source.parameters(), target.parameters(), strict=True):
        ours.copy_(theirs)
