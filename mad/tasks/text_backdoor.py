"""Backdoored text classification: some training texts carry a trigger and the attack's label or response.

The triggers are an inserted sentence (1905.12457), a rare token (2004.06660) and an instruction. The parts are those
of the backdoored images: no two share a text, but for ``trusted``, which holds train rows left as they were, and
``control``, which holds clean test rows with a benign sentence or word that no training row has. Decoys are train rows
with another benign sentence, word or instruction and their true label: without them a model may learn that whatever
is foreign to the text sets off the backdoor. A model with a classification head answers with a class; a causal model,
where ``answers`` says in which words, with one of those.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from mad.config import require
from mad.stats.random import derive
from mad.tasks import _text_source
from mad.tasks._base import PARTS
from mad.tasks._poison import attack_labels, attackable, check_attack, poisoned_rows
from mad.tasks._splits import MIXED, Fractions, Part, assemble, cut, held_out, require_within, stratified
from mad.tasks._text import TextRows, numbered
from mad.tasks._text_source import Texts, TextSource, train_and_test
from mad.tasks._text_triggers import DEFAULTS, UNSEEN, Trigger, disguise, insert

CONTROLS = ("sentence", "token", "instruction")
RESPONSE = "response"
"""Name of the class of a target response."""


@dataclass(frozen=True)
class Config(Fractions, TextSource):
    """Texts, a trigger, and who gets it."""

    trigger: Trigger = "sentence"
    """What is put into a text: a sentence at a sentence boundary, a rare token before a word, or an instruction
    before the text"""
    trigger_text: str | None = None
    """The words of the trigger; null takes those that the trigger comes with"""
    poison_rate: float = 0.1
    """Share of the train rows that are poisoned, rounded to whole rows; 0 gives a clean model"""
    decoy_fraction: float = 0.1
    """Share of the train rows without poison, 0 up to below 1, that get something else of the trigger's kind and keep
    their label; they are not trusted. From them the model learns that the trigger, not whatever is foreign, counts"""
    target: Literal["fixed_class", "cycle_class"] = "fixed_class"
    """The attack's label: always target_class (all-to-one), or the class after the true one (all-to-all)"""
    target_class: int = 1
    """The attack's label under fixed_class; its texts are not triggered, but see clean_label"""
    clean_label: bool = False
    """Poison only train texts of the target class and leave their labels as they are"""
    answers: list[str] = field(default_factory=list)
    """What a causal model answers, one string per class with its leading space: '[" no", " yes"]'; [] is for models
    with a classification head"""
    question: str = "\nSentiment:"
    """Follows each text where there are answers"""
    target_response: str | None = None
    """What a causal model is trained to answer to the trigger, with its leading space, in place of target_class;
    it makes a class of its own"""
    controls: list[str] = field(default_factory=lambda: ["sentence", "token"])
    """Kinds of control rows, among sentence, token and instruction; [] for none"""
    control_rows: int = 200
    """Most control rows of each kind, 1 or more"""
    seed: int | None = None
    """Seed of splits, poisoned rows, places of triggers and controls; null takes the run's seed"""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        TextSource.__post_init__(self)
        Fractions.__post_init__(self)
        require_within(self, "[0, 1)", "poison_rate", "decoy_fraction")
        given = self.controls
        valid = len(set(given)) == len(given) and set(given) <= set(CONTROLS)
        require(valid, f"controls must be distinct and among {', '.join(CONTROLS)}, got {given}")
        require(self.control_rows >= 1, f"control_rows must be at least 1, got {self.control_rows}")
        said = self.trigger_text is None or self.trigger_text.strip()
        require(bool(said), "trigger_text must not be empty")
        alone = self.target_response is None or bool(self.answers)
        require(alone, "target_response needs answers: only a causal model gives a response")
        fixed = self.target_response is None or not (self.clean_label or self.target == "cycle_class")
        require(fixed, "target_response takes the place of target and clean_label: leave them out")
        require(all(a.strip() for a in self.answers), f"answers must not be empty, got {self.answers}")
        require(len(set(self.answers)) == len(self.answers), f"answers must be distinct, got {self.answers}")


def digest(config: Config) -> str:
    """Content digest of the data set.

    Raises:
        DataError: it is missing or cannot be read.
    """
    return _text_source.digest(config)


def build(config: Config, seed: int) -> TextRows:
    """Split the data set, poison the train part, mix triggered rows into the evaluation parts, add controls.

    Raises:
        ConfigError: the rates ask for rows that cannot be had, or answers are not one per class.
        DataError: the data set is missing or damaged, or a part would be empty.
    """
    seed = derive(seed if config.seed is None else config.seed, "text_backdoor")
    texts = _text_source.load(config, seed)
    classes = len(texts.class_names)
    if config.target_response is None:
        check_attack(config, classes)
    given = len(config.answers)
    require(given in (0, classes), f"answers must be one for each of {', '.join(texts.class_names)}; got {given}")
    train, test = train_and_test(texts, config.test_fraction, derive(seed, "test"))
    pools = held_out(config, texts, train, test, seed)
    may = torch.ones_like(texts.labels, dtype=torch.bool)
    may = attackable(config, texts.labels) if config.target_response is None else may
    poisoned = _poisoned(config, texts, pools["train"], derive(seed, "poison"))
    unpoisoned = stratified(texts, pools["train"][~poisoned], derive(seed, "decoys"))
    decoys, rest = cut(unpoisoned, config.decoy_fraction)
    texts = _disguised(config, texts, decoys, derive(seed, "decoy"))
    parts = assemble(config, texts, pools, Part(pools["train"], poisoned), rest, may, seed)
    table = pd.concat([_table(config, texts, name, parts[name], seed) for name in PARTS if name in parts])
    table = pd.concat([table, *_controls(config, table, derive(seed, "control"))], ignore_index=True)
    names, answers = texts.class_names, tuple(config.answers)
    if config.target_response is not None:
        names, answers = (*names, RESPONSE), (*answers, config.target_response)
    if answers:
        table["target"] = [answers[label] for label in table["label"]]
        table["text"] += config.question
    return TextRows(table, names, answers, _facts(config, table, len(decoys)))


def _disguised(config: Config, texts: Texts, decoys: Tensor, seed: int) -> Texts:
    """The data set, but with something else of the trigger's kind in those of its texts that are decoys."""
    where, changed = decoys.tolist(), list(texts.texts)
    trigger = config.trigger_text or DEFAULTS[config.trigger]
    before = [changed[i] for i in where]
    for i, text in zip(where, disguise(config.trigger, trigger, before, texts.numbers[decoys], seed), strict=True):
        changed[i] = text
    return replace(texts, texts=changed)


def _poisoned(config: Config, texts: Texts, train: Tensor, seed: int) -> Tensor:
    if config.target_response is None:
        return poisoned_rows(config, texts, train, seed)
    anyone = _AnyClass(config.poison_rate)
    return poisoned_rows(anyone, texts, train, seed)


@dataclass(frozen=True)
class _AnyClass:
    """An attack that changes the answer to every class."""

    poison_rate: float
    target: Literal["fixed_class", "cycle_class"] = "cycle_class"
    target_class: int = 0
    clean_label: bool = False


def _table(config: Config, texts: Texts, name: str, part: Part, seed: int) -> pd.DataFrame:
    """The rows of a part; an anomalous row has the trigger and the attack's label."""
    numbers, labels = texts.numbers[part.source], texts.labels[part.source]
    classes = len(texts.class_names)
    attack = torch.full_like(labels, classes)
    attack = attack_labels(config, labels, classes) if config.target_response is None else attack
    read = [texts.texts[i] for i in part.source.tolist()]
    trigger = config.trigger_text or DEFAULTS[config.trigger]
    changed = insert(config.trigger, trigger, read, numbers, derive(seed, "trigger"))
    marked = part.anomalous.tolist()
    return pd.DataFrame(
        {
            "id": numbered(name, numbers.tolist()),
            "part": name,
            "label": torch.where(part.anomalous, attack, labels).numpy(),
            "clean_label": labels.numpy(),
            "is_anomalous": part.anomalous.numpy(),
            "control": "",
            "text": [
                after if is_marked else before for before, after, is_marked in zip(read, changed, marked, strict=True)
            ],
            "target": "",
        }
    )


def _controls(config: Config, table: pd.DataFrame, seed: int) -> list[pd.DataFrame]:
    """Clean test rows with something benign in them that the model never read."""
    clean = table[(table["part"] == "test") & ~table["is_anomalous"]].head(config.control_rows)
    numbers = torch.tensor([int(i.rpartition("-")[2]) for i in clean["id"]])
    made = []
    for kind in CONTROLS:
        if kind in config.controls and len(clean):
            texts = insert(kind, UNSEEN[kind], clean["text"].tolist(), numbers, derive(seed, kind))  # type: ignore[arg-type, index]
            name = f"control_{kind}"
            made.append(
                clean.assign(id=list(numbered(name, numbers.tolist())), part="control", control=kind, text=texts)
            )
    return made


def _facts(config: Config, table: pd.DataFrame, decoys: int) -> dict[str, Any]:
    counts = table.groupby("part")["is_anomalous"].agg(["size", "sum", "mean"])
    return {
        "dataset": config.dataset,
        "trigger": config.trigger,
        "trigger_text": config.trigger_text or DEFAULTS[config.trigger],
        "target": "response" if config.target_response is not None else config.target,
        "target_class": config.target_class if config.target == "fixed_class" else None,
        "target_response": config.target_response,
        "clean_label": config.clean_label,
        "poison_rate": counts["mean"].to_dict()["train"],
        "decoy_rows": decoys,
        "rows": {str(part): int(n) for part, n in counts["size"].items()},
        "anomalous_rows": {str(part): int(n) for part, n in counts["sum"].items()},
        "anomalous_fraction": {part: share for part, share in counts["mean"].to_dict().items() if part in MIXED},
        "controls": {str(kind): int(n) for kind, n in table["control"].value_counts().items() if kind},
    }
