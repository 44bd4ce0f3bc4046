"""Loading classifiers and encoders: heads that are there, that are asked for, and weights that are missing."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from mad.errors import ConfigError
from mad.models.language import LanguageOptions, load_language_model, load_tokenizer
from tests.behaviors.tiny_models import make_classifier
from tests.tiny_llama import make_tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def own(folder, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(folder, tmp_path / "own")


def options(folder):
    return LanguageOptions(model=str(folder))


def test_classifiers(folder, tmp_path):
    config = LlamaConfig.from_pretrained(folder, num_labels=3)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    load_tokenizer(options(folder)).save_pretrained(tmp_path)
    model, tokenizer = load_language_model(options(tmp_path), "cpu", "classifier")
    short, long = "a cat", "the cat sat in the sun and looked at the birds"
    with torch.inference_mode():
        together = model(**tokenizer([short, long], return_tensors="pt", padding=True)).logits
        alone = model(**tokenizer([short], return_tensors="pt")).logits
    torch.testing.assert_close(together[:1], alone)
    with pytest.raises(ConfigError, match=r"is no trained classifier: its weights lack score.weight"):
        load_language_model(options(folder), "cpu", "classifier")
    fresh, _ = load_language_model(options(folder), "cpu", "classifier", labels=5)
    assert fresh.num_labels == 5
    encoder, _ = load_language_model(options(folder), "cpu", "encoder")
    assert not hasattr(encoder, "lm_head")


@pytest.mark.parametrize(
    ("kind", "labels", "what"), [("encoder", None, "encoder"), ("classifier", 3, "language model")]
)
def test_layers_drawn_at_random_are_refused(own, kind, labels, what):
    weights = own / "model.safetensors"
    save_file({k: v for k, v in load_file(weights).items() if "layers.1" not in k}, weights, {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"is no trained {what}: its weights lack (model\.)?layers\.1\."):
        load_language_model(options(own), "cpu", kind, labels)


def test_an_encoder_needs_no_pooler_and_a_new_head_no_weights(tmp_path):
    make_classifier(tmp_path, architecture="Bert")
    weights = tmp_path / "model.safetensors"
    stored = load_file(weights)
    save_file({k: v for k, v in stored.items() if "pooler" not in k}, weights, {"format": "pt"})
    load_language_model(options(tmp_path), "cpu", "encoder")
    with pytest.raises(ConfigError, match=r"is no trained language model: its weights lack bert\.pooler"):
        load_language_model(options(tmp_path), "cpu", "classifier", 2)
    save_file({k: v for k, v in stored.items() if "classifier" not in k}, weights, {"format": "pt"})
    assert load_language_model(options(tmp_path), "cpu", "classifier", 3)[0].num_labels == 3
