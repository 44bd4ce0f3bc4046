"""Quantised weights by bitsandbytes: LLM.int8 (2208.07339), and NF4 with double quantisation (QLoRA, 2305.14314)."""

from __future__ import annotations

import logging
from typing import Any

from mad.errors import ConfigError

# Its CPU arithmetic casts activations on every call and says so every time; and whoever imports it, as PEFT does, is
# told of kernels that could be installed.
for _name in ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def quantization_config(quantization: str) -> Any:
    """The config that transformers takes for "8bit" or "4bit"; None for "none".

    Raises:
        ConfigError: bitsandbytes does not work here.
    """
    if quantization == "none":
        return None
    import torch
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"quantization {quantization}: bitsandbytes does not load ({error}); use none") from None
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def settle(model: Any) -> None:
    """Make 4-bit layers of a freshly loaded or merged model work on every CPU.

    On CPUs with AVX512-BF16 bitsandbytes takes a kernel that fails on layers whose width is no multiple of its
    blocks; those layers take the general path instead.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit) and (module.out_features % 32 or module.in_features % 64):
            module.support_avx512bf16_for_cpu = False
