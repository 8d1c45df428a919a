"""Tiny specs, each with another part of what a spec can say, and a family that names everything."""

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import torch

from yearling.models.families import Family
from yearling.models.spec import (
    Alibi,
    Attention,
    Embedding,
    Experts,
    Gated,
    Head,
    LayerSpec,
    LogScale,
    ModelSpec,
    Norm,
    Parallel,
    Plain,
    PostNorm,
    Rotary,
    RotaryScaling,
    Sandwich,
    Serial,
    StateSpace,
)
from yearling.models.torch_decoder import TorchDecoder, initialise
from yearling.models.weights import Role, WeightName

_OUTSIDE = {
    "embedding", "embedding_projection", "position_embedding", "block_position_embedding",
    "token_type_embedding", "embedding_norm", "final_norm", "head",
}  # fmt: skip
_BARE = {"state_matrix", "skip"}


def _name(role: Role, of_experts: bool) -> WeightName:
    where = role if role in _OUTSIDE else f"layers.{{layer}}.part.{role}"
    if of_experts and role in ("gate", "up", "down"):
        where += ".{expert}"
    return WeightName(where, has_suffix=role not in _BARE)


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """A name for every role there is."""
    of_experts = any(isinstance(layer.mlp, Experts) for layer in spec.layers)
    return {role: _name(role, of_experts) for role in get_args(Role)}


def _no_config(config: object) -> ModelSpec:
    raise AssertionError("this family reads no files")


FAMILY = Family(model_types=(), spec_from_config=_no_config, names=names)

RMS = Norm("rms", 1e-6)
LAYER = Norm("layer", 1e-5, has_bias=True)
ROTARY = Attention(4, 2, 8, Rotary(8))
GATED = LayerSpec(ROTARY, Gated(24), Serial(RMS, RMS))


def model(*layers: LayerSpec, **changes: object) -> ModelSpec:
    """A tiny spec of those layers."""
    spec = ModelSpec("made-up", 50, 32, 128, Embedding(), layers, RMS, Head())
    return replace(spec, **changes)


def attending(**changes: object) -> LayerSpec:
    """The plain layer with other attention."""
    return replace(GATED, mixer=replace(ROTARY, **changes))


def rotating(scaling: RotaryScaling, layout: str = "half") -> LayerSpec:
    """The plain layer with other rotations."""
    return attending(positions=Rotary(8, 100.0, layout, scaling))


MAMBA = LayerSpec(StateSpace(48, 4, 4, 3), None, Serial(RMS))
EXPERTS = Experts(4, 2, Gated(16), shared=Plain(8, has_bias=False), router="softmax_topk")

VARIANTS: Mapping[str, ModelSpec] = {
    "plain": model(GATED, GATED),
    "window beside full": model(attending(window=7), GATED, attending(window=20)),
    "soft caps": model(attending(soft_cap=3.0), head=Head(is_tied=True, soft_cap=2.0)),
    "alibi": model(attending(positions=Alibi()), attending(positions=Alibi(is_scaled=True))),
    "alibi in a window": model(attending(positions=Alibi(), window=5)),
    "interleaved": model(attending(positions=Rotary(4, layout="interleaved"))),
    "dynamic ntk": model(rotating(RotaryScaling("dynamic_ntk", 2.0, 16))),
    "stepped ntk": model(rotating(RotaryScaling("stepped_ntk", 1.0, 16, has_length_factor=True))),
    "log n": model(attending(log_scale=LogScale(8), clip_qkv=0.5, has_qkv_bias=True)),
    "head norms": model(
        attending(query_norm=RMS, key_norm=RMS),
        attending(query_norm=LAYER, key_norm=LAYER, norm_over="all_heads"),
    ),
    "query layer": model(
        GATED,
        replace(attending(query_positions=128), stream_norm=LAYER),
        embedding=Embedding(positions=128, norm=LAYER),
    ),
    "prefix": model(
        replace(attending(mask="prefix"), residual=PostNorm(LAYER, LAYER, 2.0, is_inner=True)),
        attending(mask="prefix", positions=Rotary(8, layout="two_dimensional")),
        prompt_tail=1,
    ),
    "span positions": model(
        attending(mask="prefix"), embedding=Embedding(positions=128, block_positions=128)
    ),
    "parallel": model(
        LayerSpec(ROTARY, Plain(40), Parallel(LAYER)),
        LayerSpec(ROTARY, Plain(40, "relu_squared"), Parallel(LAYER, LAYER)),
        head=Head(has_bias=True, is_normalised=True, scale=3.0),
    ),
    "sandwich": model(
        LayerSpec(ROTARY, Gated(24), Sandwich(RMS, replace(RMS, weight_offset=1.0), RMS, RMS)),
        embedding=Embedding(scale=4.0),
    ),
    "post norm": model(LayerSpec(ROTARY, Plain(24), PostNorm(LAYER, LAYER, 1.5))),
    "experts": model(
        replace(GATED, mlp=EXPERTS),
        replace(GATED, mlp=Experts(3, 2, Plain(16, has_bias=False))),
    ),
    "mamba": model(MAMBA, MAMBA),
    "hybrid": model(
        replace(MAMBA, mixer=StateSpace(48, 4, 4, 3, inner_norm=RMS)), attending(window=9), GATED
    ),
}
"""Name of what is unusual, and the model."""


def decoder(spec: ModelSpec, *, seed: int = 3) -> TorchDecoder:
    """A decoder with weights so large that every part shows in the logits."""
    made = TorchDecoder(spec, FAMILY, device="cpu")
    initialise(made, seed=seed, std=0.3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return made
