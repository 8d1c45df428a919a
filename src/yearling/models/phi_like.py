"""Phi's layout, for its family and for its files as first published.

Attention and MLP stand side by side after one norm, with biases everywhere, the head included.

Source: Li et al. 2023, arXiv:2309.05463.
"""

from dataclasses import replace

from yearling.models.fields import Fields
from yearling.models.hugging_face_config import activation_from_config
from yearling.models.llama_like import llama_like_spec
from yearling.models.rotary_settings import partial_rotary_from_config
from yearling.models.sizes import read_hidden
from yearling.models.spec import (
    Attention,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Parallel,
    Plain,
    Positions,
)

__all__ = ["as_phi", "phi_like_spec"]


def phi_like_spec(config: Fields, family: str) -> ModelSpec:
    """Read config.json under the keys that transformers gave Phi.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    norm = Norm("layer", config.number("layer_norm_eps", 1e-5, above=0), has_bias=True)
    values = {"hidden_act": "gelu_new", **config.values, "rope_parameters": None}
    spec = llama_like_spec(Fields(values, config.label), family, norm=norm)
    mlp = Plain(
        read_hidden(config, "intermediate_size"),
        activation_from_config(config, "hidden_act", "gelu_new"),
    )
    rotary = partial_rotary_from_config(
        config,
        spec.width // config.integer("num_attention_heads"),
        spec.context,
        default_fraction=0.5,
    )
    return as_phi(spec, rotary, mlp, norm)


def as_phi(spec: ModelSpec, positions: Positions, mlp: Plain, norm: Norm) -> ModelSpec:
    """Turn a LLaMA-like spec into Phi's."""
    mixer = spec.layers[0].mixer
    assert isinstance(mixer, Attention), "a LLaMA-like layer attends"
    mixer = replace(mixer, positions=positions, has_qkv_bias=True, has_output_bias=True)
    layers = (LayerSpec(mixer, mlp, Parallel(norm)),) * len(spec.layers)
    assert isinstance(spec.head, Head), "a LLaMA-like model has a head"
    return replace(spec, layers=layers, head=replace(spec.head, has_bias=True))
