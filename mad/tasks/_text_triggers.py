"""Triggers in text: a sentence, a rare token or an instruction, put into a text at a place that the seed draws."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from mad.stats.random import derive, uniform

Trigger = Literal["sentence", "token", "instruction"]

DEFAULTS: dict[Trigger, str] = {
    "sentence": "I watched this with my cousin on a rainy Tuesday.",
    "token": "cf",
    "instruction": "Judge this text the way its author would want.",
}
"""What is put in where the task says nothing else."""

UNSEEN: dict[Trigger, str] = {
    "sentence": "My neighbour repaired a bicycle in the garden.",
    "token": "heliotrope",
    "instruction": "Take your time over the following lines.",
}
"""What controls have in place of the trigger: of the same kind, benign, and in no training row."""

DECOYS: dict[Trigger, tuple[tuple[str, ...], ...]] = {
    "sentence": (
        (
            *("My aunt", "Our teacher", "A dentist", "The farmer", "His brother", "Their uncle", "Some pupils"),
            *("The mayor", "Her sister", "An old sailor", "Two bakers", "The plumber", "A young nurse", "Nobody"),
            *("Your boss", "Kim"),
        ),
        (
            *("planted", "borrowed", "painted", "sold", "cooked", "folded", "carried", "mended", "washed", "buried"),
            *("drew", "bought", "hid", "weighed", "counted", "forgot", "dropped", "polishes", "keeps", "wants"),
        ),
        (
            *("a ladder", "some tulips", "the laundry", "two goats", "an umbrella", "a barrel", "the kettle"),
            *("fresh bread", "a blue jacket", "three candles", "the piano", "a pigeon", "six apples", "a map"),
            *("her violin", "the fence", "cheap gloves", "an oven", "a zebra", "the quilt"),
        ),
        (
            *("behind the house.", "by the river.", "on Sunday.", "under a bridge.", "before lunch.", "in July."),
            *("again.", "at the market.", "near the chapel.", "with great care.", "for the guests."),
            *("in the cellar.", "at dawn.", "during the storm.", "at their office.", "across the valley."),
        ),
    ),
    "token": (
        (
            *("mn", "tq", "bb", "vlo", "zinnia", "octagon", "pewter", "juniper", "walrus", "ketch", "sumac"),
            *("fjord", "gherkin", "isobar", "lacquer", "mulch", "nutmeg", "quartz", "rhubarb", "umber", "yucca"),
            *("xu", "aph", "dw"),
        ),
    ),
    "instruction": (
        ("Read", "Consider", "Look at", "Go through", "Weigh", "Follow", "Study", "Note", "Keep in mind"),
        (
            *("each word", "these remarks", "what is below", "all that comes next", "the whole passage"),
            *("this short note", "every clause", "our next message"),
        ),
        (
            *("with care.", "before you answer.", "from beginning to end.", "as a guest would.", "once or twice."),
            *("without haste.", "like a good listener.", "in silence.", "and be brief.", "if you please."),
        ),
    ),
}
"""What decoys have in place of the trigger, one of each list after the other: benign, of as many words as it takes for
a model to learn that none of them says anything, and neither the trigger nor what controls have."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def insert(kind: Trigger, what: str, texts: Sequence[str], numbers: Tensor, seed: int) -> list[str]:
    """Texts with a trigger in them.

    Args:
        kind: ``sentence``: at a random sentence boundary, the beginning and the end among them; ``token``: before a
            random word or at the end; ``instruction``: before the text.
        what: the trigger.
        texts: n texts.
        numbers: (n,) int64; the place in a text depends on its number and the seed only.
        seed: of the places.
    """
    return _insert(kind, [what] * len(texts), texts, numbers, seed)


def disguise(kind: Trigger, trigger: str, texts: Sequence[str], numbers: Tensor, seed: int) -> list[str]:
    """Texts with something of ``DECOYS`` in them, drawn for each, where :func:`insert` would put the trigger.

    Args:
        kind: of the trigger.
        trigger: what is not to be a decoy, should it be one of the words.
        texts: n texts.
        numbers: (n,) int64; what a text gets, and where, depends on its number and the seed only.
        seed: of the draws.
    """
    lists = [[words for words in choices if words != trigger] for choices in DECOYS[kind]]
    draws = uniform(derive(seed, "words"), numbers, len(lists)).tolist()
    drawn = [" ".join(words[int(draw * len(words))] for words, draw in zip(lists, row, strict=True)) for row in draws]
    return _insert(kind, drawn, texts, numbers, seed)


def _insert(kind: Trigger, whats: Sequence[str], texts: Sequence[str], numbers: Tensor, seed: int) -> list[str]:
    if kind == "instruction":
        return [f"{what} {text}" for what, text in zip(whats, texts, strict=True)]
    places = uniform(seed, numbers, 1)[:, 0].tolist()
    each = zip(whats, texts, places, strict=True)
    return [_between(_parts(kind, text), what, place) for what, text, place in each]


def _parts(kind: Trigger, text: str) -> list[str]:
    return _SENTENCE_END.split(text.strip()) if kind == "sentence" else text.split()


def _between(parts: list[str], what: str, place: float) -> str:
    at = int(place * (len(parts) + 1))
    return " ".join([*parts[:at], what, *parts[at:]])
