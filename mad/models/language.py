"""Language models of Hugging Face transformers: which one, how precise, where, and what names its contents."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from mad.config import placement, require
from mad.errors import ConfigError
from mad.models import _adapters, _hub, _quantization

Kind = Literal["causal", "classifier", "encoder"]


@dataclass(frozen=True)
class LanguageOptions:
    """A model by hub id or folder, with an optional PEFT adapter."""

    model: str = ""
    """Hub id (meta-llama/Llama-3.1-8B-Instruct), local folder in Hugging Face's layout, or the name of a trained
    model."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; null is its main branch."""
    adapter: str | None = None
    """PEFT adapter (LoRA and kin) on top of the model: hub id, local folder or name of a trained adapter. A folder's
    own tokenizer and chat template replace those of the model; of a hub adapter only config and weights are taken."""
    adapter_revision: str | None = None
    """Branch, tag or commit of a hub adapter; null is its main branch."""
    merge_adapter: bool = False
    """Add the adapter into the weights after loading: quicker, and on quantised weights a little different."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of weights and arithmetic; auto is the checkpoint's own on a GPU and float32 on a CPU."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Weights of linear layers by bitsandbytes: 8bit (LLM.int8) or 4bit (NF4, double quantisation, bfloat16
    arithmetic)."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Implementation of attention; auto is transformers' choice for the model."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for a model whose code you have read."""
    device_map: str | None = placement(None)
    """Spread a model over GPUs, memory and disk: auto, balanced, sequential, or a device; null puts it on one."""
    max_memory: dict[str, str] | None = placement(None)
    """Most memory per device for device_map, as JSON: {"0": "20GiB", "cpu": "60GiB"}."""
    offload_folder: str | None = placement(None)
    """Folder for the layers that fit no memory under device_map."""

    def __post_init__(self) -> None:
        spread = self.device_map is not None
        require(spread or not (self.max_memory or self.offload_folder), "max_memory, offload_folder: need device_map")
        require(self.adapter is not None or self.adapter_revision is None, "adapter_revision: needs adapter")
        require(self.adapter is not None or not self.merge_adapter, "merge_adapter: needs adapter")


def identity(options: LanguageOptions) -> dict[str, Any]:
    """What names the contents of model and adapter and the arithmetic; plain JSON, independent of folder names.

    Raises:
        ConfigError: the model or the adapter cannot be found.
    """
    found: dict[str, Any] = {
        "model": _hub.contents(_model(options), options.revision),
        "dtype": options.dtype,
        "quantization": options.quantization,
        "attention": options.attention,
        "transformers": version("transformers"),
    }
    if options.quantization != "none":
        found["bitsandbytes"] = version("bitsandbytes")
    if options.adapter:
        found["adapter"] = _hub.contents(options.adapter, options.adapter_revision, _hub.ADAPTER_CONFIG)
        found |= {"merge_adapter": options.merge_adapter, "peft": version("peft")}
    return found


def load_tokenizer(options: LanguageOptions) -> Any:
    """Load the tokenizer with padding on the left and a pad token, which many have not: then the end token serves.

    Where a folder with an adapter brings a tokenizer of its own (a new chat template, say), that one is taken. That of
    a hub adapter never is: whether its files are at hand would hang on what was downloaded before, and offline nobody
    can tell whether all are.

    Raises:
        ConfigError: the model is absent or gated, or holds no tokenizer that can be loaded.
    """
    from transformers import AutoTokenizer

    source, revision = _source(options)
    if options.adapter and _hub.is_folder(options.adapter):
        folder = _adapters.adapter_folder(options.adapter, options.adapter_revision)
        if (folder / "tokenizer_config.json").is_file():
            source, revision = str(folder), None
    with _one_line(options, "the tokenizer of "), quietly():
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=options.trust_remote_code, padding_side="left"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    require(tokenizer.pad_token_id is not None, f"{options.model}: its tokenizer has no special token to pad with")
    return tokenizer


def load_language_model(
    options: LanguageOptions, device: str, kind: Kind = "causal", labels: int | None = None
) -> tuple[Any, Any]:
    """Load a model and its tokenizer.

    Args:
        options: which model, how precise and where.
        device: "cpu", "cuda", or "meta" for the shapes alone; options.device_map goes before it.
        kind: "causal" (next-token logits), "classifier" (class logits) or "encoder" (hidden states).
        labels: classes of a new, untrained classification head; None requires that the model has one.

    Returns:
        The model in eval mode and its tokenizer; one for a causal model makes no token_type_ids.

    Raises:
        ConfigError: in one line, why it cannot be loaded here and what to set.
    """
    tokenizer = load_tokenizer(options)
    if kind == "causal":
        tokenizer.model_input_names = [n for n in tokenizer.model_input_names if n != "token_type_ids"]
    folder = _adapters.adapter_folder(options.adapter, options.adapter_revision) if options.adapter else None
    if folder:
        _adapters.check_base(folder, str(options.adapter), _adapters.Base(options.model, options.revision))
    source, revision = _source(options)
    if _hub.is_folder(source):
        _hub.check_weights(Path(source), options.model)
    with _one_line(options), quietly():
        model, report = _model_class(kind).from_pretrained(
            source, revision=revision, output_loading_info=True, **_arguments(options, device, labels)
        )
    _check_complete(options, model, report, kind, labels, folder)
    if options.quantization == "4bit":
        _quantization.settle(model)
    if folder:
        model = _adapters.attach(model, folder, str(options.adapter), options.merge_adapter)
    if options.quantization == "4bit":
        _quantization.settle(model)
    if kind == "classifier":
        # Without it the model cannot tell where a padded text ends.
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def context_length(model: Any, tokenizer: Any) -> int | None:
    """Most positions that the model can read, prompt and completion together; None if nothing says so."""
    config = model.config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    return tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else None


def _model(options: LanguageOptions) -> str:
    require(options.model != "", "model: say which language model: a hub id, a folder or the name of a trained model")
    return options.model


def _source(options: LanguageOptions) -> tuple[str, str | None]:
    """What from_pretrained takes: a folder, or a hub id with the commit that the identity names."""
    model = _model(options)
    if _hub.is_folder(model):
        return str(_hub.folder_of(model)), None
    return model, _hub.commit_of(model, options.revision)


def _model_class(kind: Kind) -> Any:
    import transformers

    classes = {"causal": "AutoModelForCausalLM", "classifier": "AutoModelForSequenceClassification"}
    return getattr(transformers, classes.get(kind, "AutoModel"))


def _arguments(options: LanguageOptions, device: str, labels: int | None) -> dict[str, Any]:
    on_cpu = device in ("cpu", "meta") and options.device_map is None
    automatic = "float32" if on_cpu else "auto"
    arguments: dict[str, Any] = {
        "dtype": automatic if options.dtype == "auto" else options.dtype,
        "use_safetensors": True,
        "trust_remote_code": options.trust_remote_code,
        "quantization_config": _quantization.quantization_config(options.quantization),
        **_placed(options, device),
    }
    if options.attention != "auto":
        arguments["attn_implementation"] = options.attention
    if labels is not None:
        arguments["num_labels"] = labels
    return {name: value for name, value in arguments.items() if value is not None}


def _placed(options: LanguageOptions, device: str) -> dict[str, Any]:
    if options.device_map is not None:
        memory = {int(k) if k.isdigit() else k: v for k, v in (options.max_memory or {}).items()} or None
        return {"device_map": options.device_map, "max_memory": memory, "offload_folder": options.offload_folder}
    return {} if device == "cpu" else {"device_map": device}


def _check_complete(
    options: LanguageOptions, model: Any, report: dict[str, Any], kind: Kind, labels: int | None, adapter: Path | None
) -> None:
    """Refuse weights that were drawn at random because the checkpoint lacks them.

    An encoder's pooler is not used, and a new head, that is all outside the base model, is asked for with ``labels``.
    """
    expected = {*(_adapters.replaced_modules(adapter) if adapter else ()), *(["pooler"] if kind == "encoder" else [])}
    missing = sorted(k for k in report["missing_keys"] if expected.isdisjoint(k.split(".")))
    if labels is not None:
        missing = [name for name in missing if name.startswith(f"{model.base_model_prefix}.")]
    if not missing:
        return
    shown = f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
    kinds = {"causal": "causal language model", "classifier": "classifier", "encoder": "encoder"}
    what = kinds[kind] if labels is None else "language model"
    raise ConfigError(f"{options.model} is no trained {what}: its weights lack {shown}")


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out reports of transformers, of which what matters is told in one line, and bars that would fill a log."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _one_line(options: LanguageOptions, what: str = "") -> Iterator[None]:
    """Turn what transformers says at length into one line."""
    from safetensors import SafetensorError

    name = f"{what}{options.model}"
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        text = " ".join(str(error).split())
        if "trust_remote_code" in text or "custom code" in text:
            raise ConfigError(
                f"{name} comes with Python code of its own: read it, then allow it with trust_remote_code true"
            ) from None
        if "out of memory" in text.lower():
            raise ConfigError(
                f"{name} does not fit in memory: set device_map auto (with max_memory and offload_folder), or "
                "quantization 4bit"
            ) from None
        if "safetensors" in text and isinstance(error, OSError):
            text = "it has no safetensors weights, and pickles are never loaded; save it as safetensors"
        raise ConfigError(f"{name} cannot be loaded: {text[:400]}") from None
