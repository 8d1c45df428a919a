"""Plans: counts and bytes by hand, and as the native core and GGUF have them."""

from dataclasses import replace

import pytest

from yearling.core.errors import ConfigError
from yearling.kernels import _native
from yearling.models.cache_layout import CacheGroup, cache_layout
from yearling.models.plan import cache_bytes, count_parameters, plan_memory
from yearling.models.spec import (
    Attention,
    Embedding,
    Experts,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Plain,
    Pooling,
    PostNorm,
    Serial,
    StateSpace,
)

_NORM = Norm()
_ATTENTION = Attention(heads=4, kv_heads=2, head_dim=8)
_LAYER = LayerSpec(_ATTENTION, Gated(48), Serial(_NORM, _NORM))
_SPEC = ModelSpec(
    family="llama",
    vocabulary=100,
    width=32,
    context=64,
    embedding=Embedding(),
    layers=(_LAYER, _LAYER),
    final_norm=_NORM,
    head=Head(),
)
_ATTENTION_PARAMETERS = 32 * 32 * 2 + 16 * 32 * 2
_LAYER_PARAMETERS = _ATTENTION_PARAMETERS + 3 * 48 * 32 + 2 * 32


def with_layers(*layers: LayerSpec) -> ModelSpec:
    return replace(_SPEC, layers=layers)


def test_counts_are_those_by_hand() -> None:
    counts = count_parameters(_SPEC)
    assert counts.layers == (_LAYER_PARAMETERS,) * 2
    assert counts.embedding == counts.head == 100 * 32
    assert counts.total == counts.active == 2 * _LAYER_PARAMETERS + 2 * 100 * 32 + 32


def test_tied_head_counts_once() -> None:
    tied = replace(_SPEC, head=Head(is_tied=True))
    assert count_parameters(tied).head == 0
    assert count_parameters(tied).total == count_parameters(_SPEC).total - 100 * 32


def test_tables_beside_the_embedding_count_as_embedding() -> None:
    embedding = Embedding(positions=10, token_types=2, norm=Norm("layer", has_bias=True))
    counts = count_parameters(replace(_SPEC, embedding=embedding))
    assert counts.embedding == (100 + 10 + 2 + 2) * 32


def test_active_parameters_leave_out_idle_experts() -> None:
    experts = Experts(8, 2, Gated(16), shared=Gated(16))
    spec = with_layers(LayerSpec(_ATTENTION, experts, Serial(_NORM, _NORM)))
    counts = count_parameters(spec)
    expert = 3 * 16 * 32
    assert counts.layers == (_ATTENTION_PARAMETERS + 64 + 8 * 32 + 9 * expert,)
    assert counts.total - counts.active == 6 * expert


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("shape", [(8, 32), (100, 32), (7, 33), (1, 1), (24, 96)])
def test_weights_take_what_the_native_core_packs(kind: str, shape: tuple[int, int]) -> None:
    outputs, inputs = shape
    mlp = Plain(hidden=outputs, has_bias=False)
    wide = replace(_SPEC, width=inputs, layers=(LayerSpec(_ATTENTION, mlp, Serial(_NORM)),))
    none = replace(wide, layers=(LayerSpec(_ATTENTION, None, Serial(_NORM)),))
    packed = [
        next(fit.weight_bytes for fit in plan_memory(spec, 0).fits if fit.weights == kind)
        for spec in (wide, none)
    ]
    up, down = _native.Linear(kind, outputs, inputs), _native.Linear(kind, inputs, outputs)
    assert packed[0] - packed[1] == up.nbytes + down.nbytes


def test_norms_biases_and_tables_stay_float32() -> None:
    bare = plan_memory(_SPEC, 0)
    fuller = plan_memory(replace(_SPEC, embedding=Embedding(positions=64)), 0)
    for before, after in zip(bare.fits, fuller.fits, strict=True):
        assert after.weight_bytes - before.weight_bytes == 64 * 32 * 4
    assert fuller.gguf_bytes["Q4_0"] - bare.gguf_bytes["Q4_0"] == 64 * 32 * 4


def test_router_stays_float32() -> None:
    plans = [
        plan_memory(with_layers(LayerSpec(_ATTENTION, experts, Serial(_NORM))), 0)
        for experts in (Experts(2, 1, Gated(16)), Experts(2, 1, Gated(16), router="random"))
    ]
    for routed, unrouted in zip(plans[0].fits, plans[1].fits, strict=True):
        assert routed.weight_bytes - unrouted.weight_bytes == 2 * 32 * 4


def test_gguf_bytes_are_blocks_of_the_format() -> None:
    sizes = plan_memory(_SPEC, 0).gguf_bytes
    vectors = 5 * 32
    matrices = count_parameters(_SPEC).total - vectors
    assert sizes["F32"] == (matrices + vectors) * 4
    assert sizes["F16"] == matrices * 2 + vectors * 4
    short = 2 * 32 * 48  # the two down projections have rows of 48, which is not whole blocks
    assert sizes["Q8_0"] == (matrices - short) // 32 * 34 + short * 2 + vectors * 4
    assert sizes["Q4_0"] == (matrices - short) // 32 * 18 + short * 2 + vectors * 4
    # No row is 256 long, so Q4_K's stand-in is used.
    assert sizes["Q4_K"] == (matrices - short) // 32 * 22 + short * 2 + vectors * 4


def test_cache_is_grouped_by_what_layers_keep() -> None:
    window = replace(_LAYER, mixer=replace(_ATTENTION, window=20))
    state = LayerSpec(StateSpace(inner=64, state=16, convolution=4, rank=2), None, Serial(_NORM))
    groups = cache_layout(with_layers(_LAYER, window, window, state)).groups
    assert groups == (
        CacheGroup("full", token_floats=32, num_layers=1),
        CacheGroup("window", 20, token_floats=64, num_layers=2),
        CacheGroup("state", slot_floats=64 * (16 + 3), num_layers=1),
    )
    full, windowed, states = groups
    assert cache_bytes(full, 33, "float32") == 3 * 16 * 32 * 4
    assert cache_bytes(windowed, 1, "16-bit") == 16 * 64 * 2
    assert cache_bytes(windowed, 48, "16-bit") == cache_bytes(windowed, 10**6, "16-bit")
    assert cache_bytes(windowed, 10**6, "16-bit") == 3 * 16 * 64 * 2  # 20 tokens touch 3 blocks
    assert cache_bytes(states, 1, "16-bit") == cache_bytes(states, 10**6, "float32") == 64 * 19 * 4


def test_encoder_keeps_no_cache() -> None:
    encoder = replace(_ATTENTION, mask="bidirectional")
    layer = LayerSpec(encoder, Plain(64), PostNorm(_NORM, _NORM))
    spec = replace(with_layers(layer), head=Pooling(), final_norm=None)
    plan = plan_memory(spec, 10**9)
    assert plan.cache == ()
    assert all(fit.cache_bytes == 0 and fit.tokens == 64 for fit in plan.fits)


def test_fit_is_the_longest_cache_in_what_is_left() -> None:
    plan = plan_memory(_SPEC, 10**9, sequences=3)
    fit = plan.fits[0]
    token_bytes = 2 * 2 * 2 * 8 * 4
    assert fit.cache_bytes == 3 * 64 * token_bytes
    assert fit.needed_bytes == fit.weight_bytes + plan.buffer_bytes + fit.cache_bytes
    assert plan_memory(_SPEC, fit.needed_bytes, sequences=3).fits[0].tokens == 64
    assert plan_memory(_SPEC, fit.needed_bytes - 1, sequences=3).fits[0].tokens == 48
    without_cache = fit.needed_bytes - fit.cache_bytes
    one_block = without_cache + 3 * 16 * token_bytes
    assert plan_memory(_SPEC, one_block, sequences=3).fits[0].tokens == 16
    assert plan_memory(_SPEC, one_block - 1, sequences=3).fits[0].tokens == 0
    assert plan_memory(_SPEC, 0).fits[0].tokens == 0


def test_context_beyond_the_model_is_refused() -> None:
    assert plan_memory(_SPEC, 0, context=10).context == 10
    with pytest.raises(ConfigError, match="context=65 is more than the 64 tokens"):
        plan_memory(_SPEC, 0, context=65)
