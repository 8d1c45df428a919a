"""What the config.json of every Hugging Face model shares."""

from types import MappingProxyType

from yearling.models.fields import Fields
from yearling.models.spec import Activation

__all__ = ["COMMON_KEYS", "activation_from_config", "activation_to_config", "banded_windows"]

COMMON_KEYS = frozenset(
    {
        *("_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled"),
        *("_name_or_path", "architectures", "auto_map", "bad_words_ids", "begin_suppress_tokens"),
        *("bos_token_id", "chunk_size_feed_forward", "cross_attention_hidden_size"),
        *("decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping"),
        *("encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty"),
        *("finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label"),
        *("is_decoder", "is_encoder_decoder", "label2id", "length_penalty", "license"),
        *("max_length", "min_length", "model_type", "name_or_path", "no_repeat_ngram_size"),
        *("num_beam_groups", "num_beams", "num_return_sequences", "output_attentions"),
        *("output_hidden_states", "output_scores", "pad_token_id", "prefix", "problem_type"),
        *("pruned_heads", "remove_invalid_values", "repetition_penalty", "return_dict"),
        *("return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params"),
        *("temperature", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p"),
        *("torch_dtype", "torchscript", "transformers.js_config", "transformers_version"),
        *("typical_p", "unk_token_id", "unsloth_fixed", "unsloth_version", "use_cache"),
    }
)
"""Keys that any config.json may have and that leave the arithmetic of a step alone."""

_ACTIVATIONS = MappingProxyType[str, Activation](
    {
        "silu": "silu",
        "swish": "silu",
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
        "relu2": "relu_squared",
        "quick_gelu": "quick_gelu",
    }
)


def activation_from_config(config: Fields, key: str, default: str) -> Activation:
    """Read the name of an activation.

    Raises:
        ModelFormatError: it is none of those known.

    >>> activation_from_config(Fields({"hidden_act": "gelu_new"}, "config.json"), "hidden_act", "")
    'gelu_tanh'
    """
    name = config.text(key, default)
    if name not in _ACTIVATIONS:
        raise config.error(key, f"is not known; known are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def activation_to_config(activation: Activation) -> str:
    """Write the name of an activation, as transformers spells it.

    >>> activation_to_config("gelu_tanh")
    'gelu_new'
    """
    return next(name for name, kind in _ACTIVATIONS.items() if kind == activation)


def banded_windows(config: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Read the window of each layer: `local` ones see `window_size` tokens, others all.

    Layers are named one by one in `attention_layers`, or by repetition in `attention_types`:
    `[[["global", "local"], 12]]`.

    Raises:
        ModelFormatError: the list has another length or unknown names.

    >>> settings = {"attention_layers": ["global", "local"], "window_size": 256}
    >>> banded_windows(Fields(settings, "config.json"), 2)
    (None, 256)
    """
    layers = config.values.get("attention_layers")
    if layers is None:
        types = config.values.get("attention_types") or []
        try:
            layers = [name for names, times in types for _ in range(times) for name in names]
        except (TypeError, ValueError):
            raise config.error("attention_types", "must be pairs of names and times") from None
    if not layers:
        return (None,) * num_layers
    if not isinstance(layers, list) or len(layers) != num_layers:
        raise config.error("attention_layers", f"must name {num_layers} layers")
    if set(layers) - {"global", "local"}:
        raise config.error("attention_layers", "may hold global and local only")
    window = config.integer("window_size", 256, minimum=1)
    return tuple(window if name == "local" else None for name in layers)
