"""Loading language models: precision, adapters, placement, what names them, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mad.errors import ConfigError
from mad.models import _hub
from mad.models.engines import transformers as engine
from mad.models.engines._base import Conversation, Sampling
from mad.models.language import LanguageOptions, identity, load_language_model, load_tokenizer
from tests.tiny_llama import make_tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def own(folder, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(folder, tmp_path / "own")


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    return make_adapter(folder, tmp_path_factory.mktemp("adapter"))


def make_adapter(base, folder, **options):
    model = AutoModelForCausalLM.from_pretrained(base)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted = get_peft_model(model, lora)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(folder)
    return folder


def edit(path, **changes):
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **changes}))


def logits(options, text="the cat sat"):
    model, tokenizer = load_language_model(options, "cpu")
    with torch.inference_mode():
        return model(**tokenizer(text, return_tensors="pt")).logits.float()


def options(folder, **given):
    return LanguageOptions(model=str(folder), **given)


def test_it_is_the_model_of_transformers(folder):
    model, tokenizer = load_language_model(options(folder), "cpu")
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert not model.training and model.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert tokenizer.padding_side == "left" and tokenizer.pad_token == "</s>"
    assert set(tokenizer(["a", "a cat"], padding=True)) == {"input_ids", "attention_mask"}
    assert load_tokenizer(options(make_tiny_llama(folder.parent / "pads", pad_token=True))).pad_token == "<unk>"


def test_dtype_and_attention(folder):
    edit_free = options(folder, dtype="bfloat16", attention="eager")
    model, _ = load_language_model(edit_free, "cpu")
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    torch.testing.assert_close(logits(options(folder, attention="eager")), logits(options(folder, attention="sdpa")))


def test_identity_is_of_the_contents(folder, adapter, own):
    base = identity(options(folder))
    assert identity(options(own)) == base and json.loads(json.dumps(base)) == base
    (own / "README.md").write_text("notes")
    (own / "history.json").write_text("{}")
    (own / "model.json").write_text("{}")
    assert identity(options(own)) == base
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        edit(own / name, note=name)
        changed = identity(options(own))
        assert changed["model"] != base["model"]
    weights = load_file(own / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, own / "model.safetensors", {"format": "pt"})
    assert identity(options(own))["model"] != changed["model"]
    others = [{"dtype": "bfloat16"}, {"quantization": "4bit"}, {"attention": "eager"}, {"adapter": str(adapter)}]
    assert len({json.dumps(identity(options(folder, **o)), sort_keys=True) for o in [{}, *others]}) == 5
    assert identity(options(folder, device_map="auto", max_memory={"cpu": "1GiB"})) == base


def test_the_commit_of_a_cached_hub_model(folder, tmp_path, monkeypatch):
    """Offline, with the hub's cache laid out as huggingface_hub leaves it."""
    from huggingface_hub import constants

    commit, repository = "0123456789abcdef" * 2 + "01234567", tmp_path / "hub" / "models--acme--tiny"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _hub._resolve.cache_clear()
    hub = LanguageOptions(model="acme/tiny")
    assert identity(hub)["model"] == {"id": "acme/tiny", "commit": commit}
    assert identity(LanguageOptions(model="acme/tiny", revision=commit)) == identity(hub)
    with pytest.raises(ConfigError, match=r"acme/other is no local folder, the hub cannot be reached"):
        identity(LanguageOptions(model="acme/other"))
    with pytest.raises(ConfigError, match="at revision v2 is no local folder"):
        identity(LanguageOptions(model="acme/tiny", revision="v2"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "acme/x is gated: accept its terms on .* set HF_TOKEN"),
        ("RepositoryNotFoundError", "neither a local folder nor a model of the hub; if it is private, set HF_TOKEN"),
        ("RevisionNotFoundError", "acme/x has no revision v9"),
        ("RemoteEntryNotFoundError", "has no config.json"),
    ],
)
def test_what_the_hub_refuses_is_one_line(kind, message):
    import httpx
    from huggingface_hub import errors

    request = httpx.Request("GET", "https://huggingface.co/acme/x")
    error = getattr(errors, kind)("long text\n\nwith links", response=httpx.Response(403, request=request))
    with pytest.raises(ConfigError, match=message):
        raise _hub._explained("acme/x", "v9", "config.json", error)


def test_an_adapter_changes_the_answers_merged_or_not(folder, adapter):
    base = logits(options(folder))
    apart = logits(options(folder, adapter=str(adapter)))
    merged = logits(options(folder, adapter=str(adapter), merge_adapter=True))
    assert (apart - base).abs().max() > 0.1
    torch.testing.assert_close(apart, merged, rtol=1e-4, atol=1e-4)


def test_what_peft_asks_of_transformers_is_not_told(folder, adapter, recwarn):
    load_language_model(options(folder, adapter=str(adapter)), "cpu")
    assert not [w for w in recwarn if issubclass(w.category, FutureWarning)]


def test_a_hub_adapter_brings_no_tokenizer_of_its_own(folder, adapter, own, monkeypatch):
    """Which of its files are in the cache must not matter; those of a folder are all there."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, own / name)
    brought = shutil.copytree(adapter, own / "adapter")
    load_tokenizer(options(folder)).save_pretrained(brought)
    (brought / "chat_template.jinja").write_text("of the adapter")
    assert load_tokenizer(options(folder, adapter=str(brought))).chat_template == "of the adapter"
    monkeypatch.setattr(_hub, "download_adapter", lambda name, revision: brought)
    assert load_tokenizer(options(folder, adapter="acme/lora")).chat_template != "of the adapter"


def test_an_adapter_for_another_base_is_refused(folder, adapter, own, tmp_path):
    def refused(match, model=folder, **given):
        with pytest.raises(ConfigError, match=match) as caught:
            load_language_model(options(model, adapter=str(given.get("adapter", adapter))), "cpu")
        assert "\n" not in str(caught.value)

    edit(own / "config.json", note="another")
    refused("adapter .* is for another base model: it was trained on", own)
    moved = shutil.copytree(adapter, tmp_path / "moved")
    edit(moved / "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    wide = make_tiny_llama(tmp_path / "wide", hidden=64)
    refused("does not fit the base model: .*size mismatch", wide, adapter=moved)
    shallow = make_tiny_llama(tmp_path / "shallow", layers=1)
    refused(r"does not fit the base model: it has no .*layers\.1", shallow, adapter=moved)
    (moved / "model.json").write_text(json.dumps({"base": {"model": "train-1", "digest": "0" * 64}}))
    refused("for another base model: it was trained on train-1", adapter=moved)
    (moved / "model.json").write_text(json.dumps({"base": {"digest": _hub.digest(folder)}}))
    load_language_model(options(folder, adapter=str(moved)), "cpu")


def test_adapter_folders_that_are_none(folder, adapter, tmp_path):
    with pytest.raises(
        ConfigError, match=r"is no folder of a Hugging Face adapter: .* no adapter_config.json; it holds"
    ):
        load_language_model(options(folder, adapter=str(folder)), "cpu")
    with pytest.raises(ConfigError, match=r"no config.json; it holds adapter_config.json, so it is no model"):
        load_language_model(options(adapter), "cpu")
    pickled = shutil.copytree(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"only adapter_model.bin, which may run code"):
        load_language_model(options(folder, adapter=str(pickled)), "cpu")


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantised_weights(folder, adapter, quantization):
    """Near the full ones, smaller, and still quantised under an adapter."""
    import bitsandbytes

    kind = {"8bit": bitsandbytes.nn.Linear8bitLt, "4bit": bitsandbytes.nn.Linear4bit}[quantization]
    full = logits(options(folder)).flatten()
    near = logits(options(folder, quantization=quantization)).flatten()
    assert torch.corrcoef(torch.stack([full, near]))[0, 1] > (0.99 if quantization == "8bit" else 0.8)
    adapted, _ = load_language_model(options(folder, quantization=quantization, adapter=str(adapter)), "cpu")
    assert sum(isinstance(m, kind) for m in adapted.modules()) == 14
    config = engine.Config(model=str(folder), quantization=quantization, adapter=str(adapter), merge_adapter=True)
    said = engine.open_engine(config, "cpu").complete([Conversation(None, (("user", "a"),), True)], Sampling(), [0])
    assert said[0].tokens > 0


def test_4bit_is_nf4_with_double_quantisation(folder):
    import bitsandbytes

    model, _ = load_language_model(options(folder, quantization="4bit"), "cpu")
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert layers and all(layer.weight.quant_type == "nf4" for layer in layers)
    assert all(layer.weight.quant_state.nested and layer.compute_dtype == torch.bfloat16 for layer in layers)


def test_spread_over_memory_and_disk(folder, tmp_path):
    """device_map with little memory: the same logits and completions from layers that lie on disk."""
    spread = {"device_map": "auto", "max_memory": {"cpu": "60KiB"}, "offload_folder": str(tmp_path / "offload")}
    model, _ = load_language_model(options(folder, **spread), "cpu")
    assert "disk" in set(model.hf_device_map.values())
    torch.testing.assert_close(logits(options(folder, **spread)), logits(options(folder)))
    asked = ([Conversation(None, (("user", "the cat"),), True)] * 2, Sampling(max_new_tokens=6), [1, 2])
    here, there = (engine.open_engine(engine.Config(model=str(folder), **o), "cpu") for o in ({}, spread))
    assert here.complete(*asked) == there.complete(*asked)


def test_folders_that_cannot_be_loaded(own, tmp_path):
    def refused(match, where=own, **given):
        with pytest.raises(ConfigError, match=match) as caught:
            load_language_model(options(where, **given), "cpu")
        assert "\n" not in str(caught.value)

    refused("does not exist", tmp_path / "absent")
    refused("say which language model", "")
    (tmp_path / "empty").mkdir()
    refused("it has no config.json", tmp_path / "empty")
    weights = own / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if "layers.1" not in k}, weights, {"format": "pt"})
    refused(r"no trained causal language model: its weights lack model.layers.1")
    weights.write_bytes(b"\x00" * 50)
    refused("cannot be loaded")
    weights.rename(own / "pytorch_model.bin")
    refused("only pytorch_model.bin, which may run code")
    (own / "tokenizer.json").unlink()
    (own / "tokenizer_config.json").unlink()
    refused("the tokenizer of .* cannot be loaded")


def test_code_of_a_model_is_not_run_unasked(own):
    ran = own / "ran"
    (own / "modeling_own.py").write_text(f"open({str(ran)!r}, 'w')\nclass OwnConfig: pass\nclass Own: pass\n")
    auto = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.Own"}
    edit(own / "config.json", model_type="own", auto_map=auto)
    with pytest.raises(
        ConfigError, match="comes with Python code of its own: read it, then allow it with trust_remote"
    ):
        load_language_model(options(own), "cpu")
    assert not ran.exists()


def test_options_that_contradict_each_other():
    for given, match in [
        ({"max_memory": {"cpu": "1GiB"}}, "need device_map"),
        ({"merge_adapter": True}, "needs adapter"),
        ({"adapter_revision": "v1"}, "needs adapter"),
    ]:
        with pytest.raises(ConfigError, match=match):
            LanguageOptions(model="a/b", **given)
