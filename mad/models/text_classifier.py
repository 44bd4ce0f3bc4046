"""A language model seen as a classifier: token ids in, one logit per class out, as from a model of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mad.config import require
from mad.errors import DataError, FitError

PAD = -1
"""What stands in the place of a token that is not there; no tokenizer has such an id."""

Head = Literal["causal", "classification"]


class Inputs(NamedTuple):
    """What a Hugging Face model is called with; (n, t) int64 each."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor


class TextClassifier(nn.Module):
    """Token ids to logits.

    A classification head gives its own logits. Of a causal model the logits are those of the first token of each
    answer, right after the last token of the text; without answers those of the whole vocabulary.

    Attributes:
        network: the Hugging Face model; names of activations (``model.layers.*.output``) are relative to it. Layers of
            an adapter are inside it.
        tokenizer: its tokenizer, with a pad token.
        head: ``causal`` or ``classification``.
        answers: (classes,) int64 buffer, first tokens of the answers; empty without.
    """

    answers: Tensor

    def __init__(self, model: Any, tokenizer: Any, head: Head, answers: Sequence[str] = ()):
        super().__init__()
        self.network = model.get_base_model() if hasattr(model, "get_base_model") else model
        object.__setattr__(self, "adapted", model)  # not as a submodule: its parameters would come twice
        self.tokenizer, self.head = tokenizer, head
        if self.network.config.pad_token_id is None:
            self.network.config.pad_token_id = tokenizer.pad_token_id
        first = answer_tokens(tokenizer, answers) if head == "causal" else []
        self.register_buffer("answers", torch.tensor(first, dtype=torch.int64), persistent=False)

    @property
    def context(self) -> int:
        """Most tokens of a text."""
        longest = getattr(self.network.config, "max_position_embeddings", None)
        return min(int(longest or 10**9), int(self.tokenizer.model_max_length))

    @property
    def device(self) -> torch.device:
        """Where token ids go: the first device of a model that is split over several."""
        return next(self.network.parameters()).device

    @property
    def padding_side(self) -> Literal["left", "right"]:
        """Where short texts are padded: encoders that classify by their first token need it in its place."""
        return "right" if self.head == "classification" and self.tokenizer.cls_token is not None else "left"

    def forward(self, x: Tensor) -> Tensor:
        """(n, t) int64 token ids, -1 where padded on either side, to (n, classes) float logits."""
        given = self.inputs(x)
        arguments = dict(input_ids=given.input_ids, attention_mask=given.attention_mask)
        if self.head == "classification":
            places = {} if self.padding_side == "right" else {"position_ids": given.position_ids}
            return self.network(**arguments, **places).logits
        last = (given.attention_mask * torch.arange(1, x.shape[1] + 1, device=x.device)).argmax(dim=1)
        if bool((last == x.shape[1] - 1).all()):
            logits = self.network(**arguments, position_ids=given.position_ids, logits_to_keep=1).logits[:, -1]
        else:
            logits = self.network(**arguments, position_ids=given.position_ids).logits
            logits = logits[torch.arange(len(x), device=x.device), last]
        return logits[:, self.answers] if len(self.answers) else logits

    def checkpoint_activations(self) -> None:
        """Compute activations again in the backward pass in place of keeping them."""
        network: Any = self.network
        renamed = hasattr(network, "activation_checkpointing_enable")  # in newer releases of transformers
        enable = network.activation_checkpointing_enable if renamed else network.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def token_logits(self, x: Tensor) -> Tensor:
        """(n, t) int64 token ids, -1 where padded, to (n, t, vocabulary) logits of the token after each.

        Only of a causal model.
        """
        return self.network(**self.inputs(x)._asdict()).logits

    def inputs(self, x: Tensor) -> Inputs:
        """Ids, mask and positions of padded token ids (n, t): positions count real tokens only."""
        mask = (x >= 0).long()
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return Inputs(torch.where(x >= 0, x, self.network.config.pad_token_id), mask, positions)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(n, t) int64 token ids of texts, padded with -1.

        Raises:
            DataError: a text is longer than the model's context.
        """
        rows = self.tokens(texts)
        longest = max(range(len(rows)), key=lambda i: len(rows[i]))
        if len(rows[longest]) > self.context:
            start = " ".join(texts[longest].split()[:6])
            told = f"a text has {len(rows[longest])} tokens, the model's context {self.context}"
            raise DataError(f"{told}: shorten it ('{start} ...')")
        return pad(rows, self.padding_side)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the tokenizer's special tokens."""
        return self.tokenizer(list(texts), verbose=False)["input_ids"]


def pad(rows: Sequence[Sequence[int]], side: Literal["left", "right"] = "left") -> Tensor:
    """(n, t) int64 of n rows of token ids, with -1 where a row is shorter than the longest."""
    width = max(len(row) for row in rows)
    filled = torch.full((len(rows), width), PAD)
    for place, row in zip(filled, rows, strict=True):
        if row:
            place[slice(width - len(row), width) if side == "left" else slice(0, len(row))] = torch.tensor(row)
    return filled


def continuation(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that follows another one: no special token, no space of its own in front.

    Some tokenizers put a space before what they think a beginning; after a mark they cannot.
    """
    mark = ":"
    before = tokenizer(mark, add_special_tokens=False, verbose=False)["input_ids"]
    joined = tokenizer(mark + text, add_special_tokens=False, verbose=False)["input_ids"]
    if joined[: len(before)] == before:
        return joined[len(before) :]
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def answer_tokens(tokenizer: Any, answers: Sequence[str]) -> list[int]:
    """The first token of each answer.

    Raises:
        FitError: two answers begin with the same token, so that no logit tells them apart.
    """
    first = [continuation(tokenizer, answer)[0] for answer in answers]
    for number, token in enumerate(first):
        if token in first[:number]:
            pair = f"'{answers[first.index(token)]}' and '{answers[number]}'"
            raise FitError(f"the answers {pair} begin with the same token: choose other words for one of them")
    return first


def check_labels(largest: int, classes: int) -> None:
    """Refuse labels for which a head has no output.

    Raises:
        ConfigError: there are such.
    """
    has = f"the model's head has {classes} classes (0 to {classes - 1})"
    require(largest < classes, f"the task has labels up to {largest}, {has}")
