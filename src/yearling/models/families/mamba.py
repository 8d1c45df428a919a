"""Mamba: no attention; a selective state space in every layer.

The state has one size whatever the length, so there is no longest sequence; a million tokens is
what its paper tried.

Source: Gu and Dao 2023, arXiv:2312.00752.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yearling.core.errors import ModelFormatError
from yearling.models.export_parts import is_tied
from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.hugging_face_config import COMMON_KEYS
from yearling.models.llama_like_gguf import norm_from_gguf, own_settings, vocabulary_from_gguf
from yearling.models.sizes import read_hidden, read_layers, read_width
from yearling.models.spec import Embedding, Head, LayerSpec, ModelSpec, Norm, Serial, StateSpace
from yearling.models.weights import Role, WeightName

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = [
    "config_from_spec",
    "family",
    "gguf_from_spec",
    "names",
    "spec_from_config",
    "spec_from_gguf",
]

_CONTEXT = 1 << 20
_MAX_STATE = 4_096
_MAX_TAPS = 64
_MIXER = "backbone.layers.{layer}.mixer."
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("backbone.embeddings", "token_embd"),
    "mixer_norm": WeightName("backbone.layers.{layer}.norm", "blk.{layer}.attn_norm"),
    "state_input": WeightName(f"{_MIXER}in_proj", "blk.{layer}.ssm_in"),
    "convolution": WeightName(f"{_MIXER}conv1d", "blk.{layer}.ssm_conv1d"),
    "state_parameters": WeightName(f"{_MIXER}x_proj", "blk.{layer}.ssm_x"),
    "time_step": WeightName(f"{_MIXER}dt_proj", "blk.{layer}.ssm_dt"),
    "state_matrix": WeightName(
        f"{_MIXER}A_log", "blk.{layer}.ssm_a", has_suffix=False, gguf_value="minus_exponential"
    ),
    "skip": WeightName(f"{_MIXER}D", "blk.{layer}.ssm_d", has_suffix=False),
    "state_output": WeightName(f"{_MIXER}out_proj", "blk.{layer}.ssm_out"),
    "final_norm": WeightName("backbone.norm_f", "output_norm"),
    "head": WeightName("lm_head", "output"),
}
_CONFIG_KEYS = COMMON_KEYS | {
    *("conv_kernel", "d_inner", "d_model", "expand", "fused_add_norm", "hidden_act"),
    *("hidden_size", "initializer_range", "intermediate_size", "layer_norm_epsilon", "n_layer"),
    *("num_hidden_layers", "pad_vocab_size_multiple", "rescale_prenorm_residual"),
    *("residual_in_fp32", "rms_norm", "ssm_cfg", "state_size", "tie_word_embeddings"),
    *("time_step_floor", "time_step_init_scheme", "time_step_max", "time_step_min"),
    *("time_step_rank", "time_step_scale", "use_associative_scan", "use_bias", "use_conv_bias"),
    *("use_mambapy", "vocab_size"),
}
_GGUF_KEYS = {
    *("attention.head_count", "attention.layer_norm_rms_epsilon", "block_count"),
    *("context_length", "embedding_length", "feed_forward_length", "ssm.conv_kernel"),
    *("ssm.dt_b_c_rms", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `mamba`."""
    config.refuse_unknown(_CONFIG_KEYS)
    if config.text("hidden_act", "silu") != "silu":
        raise config.error("hidden_act", "is not computed; only silu is")
    width = read_width(config, "hidden_size")
    inner = read_hidden(config, "intermediate_size", config.integer("expand", 2) * width)
    rank = math.ceil(width / 16)
    if config.values.get("time_step_rank") != "auto":
        rank = read_hidden(config, "time_step_rank", rank)
    mixer = StateSpace(
        inner,
        config.integer("state_size", 16, minimum=1, maximum=_MAX_STATE),
        config.integer("conv_kernel", 4, minimum=2, maximum=_MAX_TAPS),
        rank,
        has_convolution_bias=config.flag("use_conv_bias", True),
        has_projection_bias=config.flag("use_bias", False),
    )
    return _spec(
        mixer,
        Norm(epsilon=config.number("layer_norm_epsilon", 1e-5, above=0)),
        num_layers=read_layers(config, "num_hidden_layers"),
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        head=Head(is_tied=config.flag("tie_word_embeddings", True)),
    )


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file of architecture `mamba`."""
    own = own_settings(file)
    own.refuse_unknown(_GGUF_KEYS)
    if own.flag("ssm.dt_b_c_rms", False):
        raise own.error("ssm.dt_b_c_rms", "is of FalconMamba, which is not read")
    mixer = StateSpace(
        read_hidden(own, "ssm.inner_size"),
        own.integer("ssm.state_size", minimum=1, maximum=_MAX_STATE),
        own.integer("ssm.conv_kernel", minimum=2, maximum=_MAX_TAPS),
        read_hidden(own, "ssm.time_step_rank"),
        has_convolution_bias="blk.0.ssm_conv1d.bias" in file.tensors,
    )
    return _spec(
        mixer,
        norm_from_gguf(file),
        num_layers=read_layers(own, "block_count"),
        vocabulary=vocabulary_from_gguf(file, own),
        width=read_width(own, "embedding_length"),
        head=Head(is_tied="output.weight" not in file.tensors),
    )


def _spec(
    mixer: StateSpace, norm: Norm, *, num_layers: int, vocabulary: int, width: int, head: Head
) -> ModelSpec:
    return ModelSpec(
        family="mamba",
        vocabulary=vocabulary,
        width=width,
        context=_CONTEXT,
        embedding=Embedding(),
        layers=(LayerSpec(mixer, None, Serial(norm)),) * num_layers,
        final_norm=norm,
        head=head,
    )


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    mixer, norm = _parts(spec)
    config = {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "conv_kernel": mixer.convolution,
        "hidden_size": spec.width,
        "intermediate_size": mixer.inner,
        "layer_norm_epsilon": norm.epsilon,
        "num_hidden_layers": len(spec.layers),
        "state_size": mixer.state,
        "tie_word_embeddings": is_tied(spec),
        "time_step_rank": mixer.rank,
        "use_bias": mixer.has_projection_bias,
        "use_conv_bias": mixer.has_convolution_bias,
        "vocab_size": spec.vocabulary,
    }
    # transformers reads no width of the scan, only this factor.
    return config if mixer.inner % spec.width else config | {"expand": mixer.inner // spec.width}


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    mixer, norm = _parts(spec)
    if mixer.inner != 2 * spec.width or not mixer.has_convolution_bias:
        raise ModelFormatError(
            "llama.cpp knows Mamba with a scan of twice the width and a bias on its convolution "
            f"only; here the scan is {mixer.inner} of {spec.width} wide, and "
            f"use_conv_bias={str(mixer.has_convolution_bias).lower()}."
        )
    own = {
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": norm.epsilon,
        "block_count": len(spec.layers),
        "context_length": spec.context,
        "embedding_length": spec.width,
        "feed_forward_length": 0,
        "ssm.conv_kernel": mixer.convolution,
        "ssm.inner_size": mixer.inner,
        "ssm.state_size": mixer.state,
        "ssm.time_step_rank": mixer.rank,
    }
    return {
        "general.architecture": "mamba",
        **{f"mamba.{key}": value for key, value in own.items()},
    }


def _parts(spec: ModelSpec) -> tuple[StateSpace, Norm]:
    mixer, norm = spec.layers[0].mixer, spec.final_norm
    assert isinstance(mixer, StateSpace), "Mamba has nothing else"
    assert norm is not None, "Mamba ends in a norm"
    return mixer, norm


family = families.register(
    Family(
        model_types=("mamba",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("mamba",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
