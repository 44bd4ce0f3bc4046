"""Weights that only one worker read are split over two: gloo ranks."""

from __future__ import annotations

import json
import socket

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from mad.models import sharded
from mad.models.architectures import pretrained
from mad.models.language import LanguageOptions, load_language_model
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.slow


def _options(folder, dtype):
    return LanguageOptions(model=str(folder), dtype=dtype)


def _rank(rank: int, port: int, folder, out) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    device = "meta" if rank else "cpu"
    for dtype in ("float32", "bfloat16"):
        model, _ = load_language_model(_options(folder, dtype), device)
        held = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
        sharded.shard(model, "cpu")
        with torch.inference_mode():
            logits = model(input_ids=torch.arange(3, 15)[None]).logits.float()
        state, shares = sharded.whole_state(model), [p.to_local().numel() for p in model.parameters()]
        facts = {
            "held": sorted(held),
            "share": sum(shares) / sum(p.numel() for p in model.parameters()),
            "tied": model.lm_head.weight is model.model.embed_tokens.weight,
        }
        (out / f"{dtype}-{rank}.json").write_text(json.dumps(facts))
        save_file({**state, "logits": logits}, out / f"{dtype}-{rank}.safetensors")
    config = pretrained.Config(model=str(folder), lora=pretrained.LoraOptions(rank=2))
    adapted, _ = pretrained.build_language(config, [], 2, "causal", 5, device)
    sharded.shard(adapted.get_base_model(), "cpu")
    save_file(sharded.whole_state(adapted), out / f"adapted-{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model in a folder, and what two ranks made of it, of which one read the weights."""
    folder, out = make_tiny_llama(tmp_path_factory.mktemp("base")), tmp_path_factory.mktemp("out")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, (port, folder, out), nprocs=2)
    return folder, out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_are_those_of_the_worker_that_read_them(made, dtype):
    folder, out = made
    model, _ = load_language_model(_options(folder, dtype), "cpu")
    with torch.inference_mode():
        expected = model(input_ids=torch.arange(3, 15)[None]).logits.float()
    for rank in (0, 1):
        found = load_file(out / f"{dtype}-{rank}.safetensors")
        facts = json.loads((out / f"{dtype}-{rank}.json").read_text())
        assert facts["held"] == ["meta" if rank else "cpu"], "the second worker read no weights"
        assert 0.3 < facts["share"] < 0.7 and facts["tied"]
        torch.testing.assert_close(found.pop("logits"), expected)
        own = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
        assert set(found) == set(own) and all(torch.equal(found[name], tensor) for name, tensor in own.items())


def test_a_new_adapter_is_the_same_on_both(made):
    _, out = made
    first, second = (load_file(out / f"adapted-{rank}.safetensors") for rank in (0, 1))
    assert any("lora_A" in name for name in first) and set(first) == set(second)
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
