"""Which weights a spec calls for."""

import dataclasses

from yearling.models.spec import (
    Attention,
    Embedding,
    Experts,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Parallel,
    Plain,
    Sandwich,
    Serial,
    StateSpace,
)
from yearling.models.weights import weights_of

_LAYER = Norm(kind="layer", has_bias=True)


def _spec(layer: LayerSpec) -> ModelSpec:
    return ModelSpec(
        "any", 9, 8, 16, Embedding(positions=16), (layer,), _LAYER, Head(has_bias=True)
    )


def _shapes(layer: LayerSpec) -> dict[str, tuple[int, ...]]:
    return {f"{w.role}.{w.part}": w.shape for w in weights_of(_spec(layer))}


def test_parallel_block_with_a_shared_norm_has_one() -> None:
    attention = Attention(4, 1, 2, has_qkv_bias=True)
    shapes = _shapes(LayerSpec(attention, Plain(32), Parallel(_LAYER)))
    assert shapes == {
        "embedding.weight": (9, 8),
        "position_embedding.weight": (16, 8),
        "final_norm.weight": (8,),
        "final_norm.bias": (8,),
        "head.weight": (9, 8),
        "head.bias": (9,),
        "mixer_norm.weight": (8,),
        "mixer_norm.bias": (8,),
        "query.weight": (8, 8),
        "query.bias": (8,),
        "key.weight": (2, 8),
        "key.bias": (2,),
        "value.weight": (2, 8),
        "value.bias": (2,),
        "output.weight": (8, 8),
        "up.weight": (32, 8),
        "up.bias": (32,),
        "down.weight": (8, 32),
        "down.bias": (8,),
    }


def test_sandwich_has_four_norms_and_query_key_norms_their_size() -> None:
    norm = Norm()
    attention = Attention(4, 2, 2, query_norm=norm, key_norm=norm)
    layer = LayerSpec(attention, Gated(32), Sandwich(norm, norm, norm, norm))
    shapes = _shapes(layer)
    assert [name for name in shapes if name.startswith("m")] == [
        "mixer_norm.weight",
        "mixer_post_norm.weight",
        "mlp_norm.weight",
        "mlp_post_norm.weight",
    ]
    assert (shapes["query_norm.weight"], shapes["key_norm.weight"]) == ((2,), (2,))
    over_all = dataclasses.replace(attention, norm_over="all_heads")
    shapes = _shapes(dataclasses.replace(layer, mixer=over_all))
    assert (shapes["query_norm.weight"], shapes["key_norm.weight"]) == ((8,), (4,))


def test_down_bias_may_stand_alone() -> None:
    mlp = Gated(32, has_bias=False, has_down_bias=True)
    shapes = _shapes(LayerSpec(Attention(4, 4, 2), mlp, Serial(Norm(), Norm())))
    assert "down.bias" in shapes
    assert "up.bias" not in shapes


def test_each_expert_has_its_own_and_the_shared_one_its_roles() -> None:
    mlp = Experts(3, 2, Gated(32), shared=Gated(16))
    shapes = {
        (w.role, w.expert): w.shape
        for w in weights_of(_spec(LayerSpec(Attention(4, 4, 2), mlp, Serial(Norm(), Norm()))))
    }
    assert shapes["router", None] == (3, 8)
    assert all(shapes["gate", expert] == shapes["up", expert] == (32, 8) for expert in range(3))
    assert all(shapes["down", expert] == (8, 32) for expert in range(3))
    assert shapes["shared_gate", None] == (16, 8)
    assert shapes["shared_down", None] == (8, 16)
    assert ("gate", 3) not in shapes


def test_random_routing_has_no_router() -> None:
    mlp = Experts(3, 1, Plain(32), router="random")
    shapes = _shapes(LayerSpec(Attention(4, 4, 2), mlp, Serial(Norm(), Norm())))
    assert "router.weight" not in shapes
    assert "gate.weight" not in shapes


def test_state_space_has_no_mlp() -> None:
    shapes = _shapes(LayerSpec(StateSpace(16, 4, 3, rank=2), None, Serial(Norm())))
    assert shapes["state_input.weight"] == (32, 8)
    assert shapes["convolution.weight"] == (16, 3)
    assert shapes["convolution.bias"] == (16,)
    assert shapes["state_parameters.weight"] == (2 + 2 * 4, 16)
    assert (shapes["time_step.weight"], shapes["time_step.bias"]) == ((16, 2), (16,))
    assert (shapes["state_matrix.weight"], shapes["skip.weight"]) == ((16, 4), (16,))
    assert not {"mlp_norm.weight", "state_output.bias"} & set(shapes)
