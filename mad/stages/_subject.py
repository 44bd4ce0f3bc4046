"""The model behind some features and the inputs of their rows, for detectors that need more than features."""

from __future__ import annotations

from functools import cached_property

import pandas as pd
import torch
from torch import Tensor

from mad.artifacts import Checkpoint, Features, Split
from mad.errors import FitError
from mad.models.classifier import Classifier
from mad.models.head import head_name, head_weights
from mad.models.load import load_classifier
from mad.store import Store


class Subject:
    """Opens the checkpoint and the rows that features were made from; see ``mad.detectors._base.Subject``.

    Args:
        features: whose model is meant.
        store: where its checkpoint and rows lie.
        device: where the model runs.
    """

    def __init__(self, features: Features, store: Store, device: str = "cpu"):
        self.features, self.store, self.device = features, store, device

    @cached_property
    def model(self) -> Classifier:
        """The classifier in eval mode."""
        checkpoint = self.store.open(self.features.meta["inputs"]["checkpoint"], Checkpoint, check=False)
        return load_classifier(checkpoint.folder, self.device)

    @cached_property
    def head(self) -> tuple[Tensor, Tensor]:
        """(k, d) weight and (k,) bias of the last linear layer.

        Raises:
            FitError: the model does not end in one.
        """
        name = head_name(self.model, self._split.input_shape)
        if name is None:
            raise FitError("the model does not end in a linear layer: detectors that need its head cannot be used")
        return head_weights(self.model, name)

    def inputs(self, start: int, stop: int) -> Tensor:
        """What the model read: of the features' rows from ``start`` up to ``stop``."""
        return self._split.images(self._numbers[start:stop]).to(self.device)

    @cached_property
    def _numbers(self) -> Tensor:
        """(n,) int64 row numbers of the split, in the order of the features."""
        found = pd.Index(self._split.rows["id"]).get_indexer(pd.Index(self.features.rows["id"]))
        return torch.from_numpy(found.astype("int64"))

    @cached_property
    def _split(self) -> Split:
        key = self.features.meta["inputs"]["attacked"]
        return self.store.open(key, Split, check=False)
