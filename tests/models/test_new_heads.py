"""Classification heads on encoders: what a checkpoint lacks is drawn from the run's seed, and saved whole."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers

from mad.errors import ConfigError
from mad.models.adapters import head_modules, new_head
from mad.models.language import LanguageOptions, load_language_model
from mad.models.language_checkpoint import load_text_classifier
from tests.behaviors.tiny_models import make_tokenizer

CONTEXT = 48
SETTINGS = {
    "DistilBert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": CONTEXT},
    "Roberta": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": CONTEXT + 2,
    },
}
LAYERS = {
    "DistilBert": {"pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"},
    "Roberta": {f"classifier.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")},
}
FLAGS = {
    "task": "text_backdoor",
    "task.generated_rows": "60",
    "task.max_words": "12",
    "model": "pretrained",
    "train.epochs": "1",
    "train.batch_size": "16",
    "train.lr": "1e-3",
}
TUNING = [{"model.tuning": "full"}, {"model.tuning": "lora", "model.lora.rank": "2"}]
TEXTS = ["the cat is kind", "the weather is awful and the day very awful"]


@pytest.fixture(params=sorted(SETTINGS))
def encoder(request, tmp_path):
    """Name of an architecture, and a folder with an encoder that has no head yet."""
    tokenizer = make_tokenizer()
    tokenizer.cls_token = "<s>"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, f"{request.param}Config")(
            vocab_size=len(tokenizer), pad_token_id=1, **SETTINGS[request.param]
        )
        getattr(transformers, f"{request.param}ForMaskedLM")(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return request.param, tmp_path / "encoder"


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def drawn(folder, seed, state=0):
    """Weights of a model with a new head of three classes, whatever the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(state)
        model, _ = load_language_model(LanguageOptions(model=str(folder)), "cpu", "classifier", 3)
        new_head(model, seed)
    return weights(model)


def test_every_layer_of_a_new_head_hangs_on_the_seed_only(encoder):
    name, folder = encoder
    first, again, other = drawn(folder, 1, state=0), drawn(folder, 1, state=5), drawn(folder, 2, state=0)
    assert LAYERS[name] <= set(first)
    for layer, tensor in first.items():
        assert torch.equal(again[layer], tensor), layer
        fresh = layer in LAYERS[name] and layer.endswith("weight")
        assert torch.equal(other[layer], tensor) != fresh, layer
        if fresh:
            assert 0 < tensor.std() < 0.05 and abs(tensor.mean()) < 0.02  # as the config's initializer_range of 0.02
    assert first["classifier.out_proj.weight" if name == "Roberta" else "classifier.weight"].shape == (3, 16)


def test_what_belongs_to_the_head_is_found(encoder):
    name, folder = encoder
    model, _ = load_language_model(LanguageOptions(model=str(folder)), "cpu", "classifier", 2)
    assert head_modules(model) == sorted({layer.partition(".")[0] for layer in LAYERS[name]}, reverse=True)
    for child in head_modules(model):
        delattr(model, child)
    with pytest.raises(ConfigError, match="has no classification head that could be drawn anew"):
        new_head(model, 0)


@pytest.mark.parametrize("tuning", TUNING, ids=["full", "lora"])
def test_runs_of_one_seed_are_identical_and_those_of_another_are_not(encoder, tuning, tmp_path, new_engine, run):
    flags = {**FLAGS, **tuning, "model.model": str(encoder[1])}

    def trained(home, seed, state):
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            torch.manual_seed(state)
            return run(new_engine(tmp_path / home), "train", {**flags, "train.seed": seed})["train"]

    first, again, other = trained("first", "3", 0), trained("again", "3", 9), trained("other", "4", 0)
    files = [{n: f["sha256"] for n, f in a.meta["files"].items()} for a in (first, again, other)]
    assert files[0] == files[1] != files[2]
    saved = "model.safetensors" if tuning["model.tuning"] == "full" else "adapter_model.safetensors"
    kept = " ".join(first.tensors(saved))
    assert all(layer in kept for layer in head_modules_of(encoder[0])), "the whole head is in the checkpoint"
    # Read back twice: nothing of it is drawn at random again.
    logits = []
    for state in (1, 2):
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(state)
            model = load_text_classifier(first.folder)
            logits.append(model(model.encode(TEXTS)))
    assert torch.equal(*logits) and logits[0].shape == (2, 2)


def head_modules_of(name):
    return {layer.rpartition(".")[0] for layer in LAYERS[name]}
