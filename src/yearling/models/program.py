"""A model as a flat list of native operations: the interpreter of specs that serves.

`compile_program` walks a `ModelSpec`, packs each weight into the native core's layout, and
emits the operations of one step. Projections that read the same input are packed as one matrix:
queries, keys and values; gate and up.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from yearling.core.errors import UnsupportedError
from yearling.kernels import ops
from yearling.models.alibi import alibi_slopes
from yearling.models.cache_layout import CacheGroup, cache_layout
from yearling.models.checkpoint import Checkpoint
from yearling.models.packing import Packer, Part, WeightKind
from yearling.models.rotary import rotary_frequencies, rotary_stretch
from yearling.models.spec import (
    Alibi,
    Attention,
    Experts,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Parallel,
    Plain,
    PostNorm,
    Rotary,
    Sandwich,
    Serial,
    StateSpace,
)
from yearling.models.wanted_rows import gather_early
from yearling.models.weights import Role

__all__ = ["CompiledModel", "WeightKind", "compile_program"]

_Emitted = ops.Op | Callable[[], ops.Op | list[ops.Op]]
"""An operation, or what gives it once its weights are packed."""

_Branch = Callable[[int, LayerSpec, str, str], Iterator[_Emitted]]
"""What emits a mixer or an MLP: layer number, layer, source buffer, target buffer."""

RESIDUAL = "residual"


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """Operations of a model's step, ready for `kernels.program.NativeProgram`.

    Attributes:
        operations: In order; logits end up in buffer `logits`, vectors of an encoder in `pooled`.
        linear_parts: Of each linear operation, the matrices that an adapter may change, in order of
            rows: together they are all of its weights, or there are none.
        context: Most positions of a sequence.
        cache_groups: Those with blocks in the order of the operations' group numbers, then the
            states.
        prompt_tail: Trailing tokens of a prompt that do not belong to its prefix.
        needs_whole_prompt: Tokens of a prompt see each other, so it is computed in one step.
        can_share_prefixes: Whether equal prefixes give equal keys and values, whatever follows.
        weight_bytes: Size of all packed weights.
        is_quantized: Whether any linear layer computes on 8-bit activations.
    """

    operations: tuple[ops.Op, ...]
    linear_parts: tuple[tuple[Part, ...], ...]
    context: int
    cache_groups: tuple[CacheGroup, ...]
    prompt_tail: int
    needs_whole_prompt: bool
    can_share_prefixes: bool
    weight_bytes: int
    is_quantized: bool


def compile_program(
    checkpoint: Checkpoint,
    *,
    weights: WeightKind = "auto",
    context: int | None = None,
    threads: int = 2,
) -> CompiledModel:
    """Pack a checkpoint's weights and list the operations of a step.

    Args:
        checkpoint: Opened model files.
        weights: See `packing.Packer`.
        context: Positions to prepare for; None takes the model's own.
        threads: Threads that read and pack.

    Raises:
        UnsupportedError: the spec has a part the native core does not compute.
        ModelFormatError: a tensor cannot be read.
    """
    spec = checkpoint.spec
    layout = cache_layout(spec)
    with ThreadPoolExecutor(threads) as pool:
        packer = Packer(checkpoint, weights, pool)
        emitter = _Emitter(spec, packer, layout.group_of_layer)
        emitted = list(emitter.emit())
        operations = gather_early([op for item in emitted for op in _ready(item)])
        packed = packer.packed()
    return CompiledModel(
        operations=operations,
        linear_parts=tuple(
            emitter.parts.get(id(op.weights), ()) for op in operations if isinstance(op, ops.Linear)
        ),
        context=context or spec.context,
        cache_groups=layout.groups,
        prompt_tail=spec.prompt_tail,
        needs_whole_prompt=layout.needs_whole_prompt,
        can_share_prefixes=layout.can_share_prefixes,
        weight_bytes=sum(matrix.nbytes for matrix in packed),
        is_quantized=any(matrix.kind.startswith("int") for matrix in packed),
    )


def _ready(item: _Emitted) -> list[ops.Op]:
    result = item() if callable(item) else item
    return result if isinstance(result, list) else [result]


class _Emitter:
    """Lists operations in order; each `_…` method emits one part of the spec."""

    def __init__(self, spec: ModelSpec, packer: Packer, group_of_layer: Sequence[int]) -> None:
        self._spec = spec
        self._packer = packer
        self._group_of_layer = group_of_layer
        self._num_attentions = 0
        self._num_states = 0
        self._angles: dict[Rotary, tuple[str, ...]] = {}
        self.parts: dict[int, tuple[Part, ...]] = {}  # of packed matrices, by their identity

    def emit(self) -> Iterator[_Emitted]:
        table = self._packer.matrices(None, ("embedding",))
        yield from self._embedding(lambda: _only(table()))
        yield from self._all_angles()
        for number, layer in enumerate(self._spec.layers):
            yield from self._layer(number, layer)
        yield from self._end(lambda: _only(table()))

    # ---- around the layers ---------------------------------------------------------------

    def _embedding(self, table: Callable[[], ops.Weights]) -> Iterator[_Emitted]:
        embedding = self._spec.embedding
        first = RESIDUAL if embedding.projection is None else "embedded"
        yield lambda: ops.Embed(table(), first, embedding.scale)
        yield ops.Inject(first)
        if embedding.projection is not None:
            yield self._linear(None, ("embedding_projection",), first, RESIDUAL)
        channel: ops.Channel = "token" if embedding.block_positions is None else "span"
        if embedding.positions is not None:
            rows = self._packer.array(None, "position_embedding")
            if embedding.token_types is not None:  # every token is of the first type
                rows = rows + self._packer.array(None, "token_type_embedding")[0]
            yield ops.AddPositions(RESIDUAL, rows, embedding.position_offset, channel)
        elif embedding.token_types is not None:
            raise _unsupported(self._spec, "token types without learned positions")
        if embedding.block_positions is not None:
            rows = self._packer.array(None, "block_position_embedding")
            yield ops.AddPositions(RESIDUAL, rows, channel="block")
        if embedding.norm is not None:
            yield self._norm(None, "embedding_norm", embedding.norm, RESIDUAL, RESIDUAL)

    def _all_angles(self) -> Iterator[_Emitted]:
        """Cosine and sine once a step, for all layers that rotate alike."""
        for layer in self._spec.layers:
            rotary = layer.mixer.positions if isinstance(layer.mixer, Attention) else None
            if not isinstance(rotary, Rotary) or rotary in self._angles:
                continue
            frequencies, factor = rotary_frequencies(rotary)
            stretch = rotary_stretch(rotary)
            name = f"angles.{len(self._angles)}"
            if rotary.layout != "two_dimensional":
                self._angles[rotary] = (name,)
                yield ops.Angles(name, frequencies, factor, "token", stretch)
                continue
            self._angles[rotary] = (f"{name}.span", f"{name}.block")
            yield ops.Angles(f"{name}.span", frequencies, factor, "span", stretch)
            yield ops.Angles(f"{name}.block", frequencies, factor, "block", stretch)

    def _end(self, table: Callable[[], ops.Weights]) -> Iterator[_Emitted]:
        spec, head = self._spec, self._spec.head
        if not isinstance(head, Head):
            if spec.final_norm is not None:
                yield self._norm(None, "final_norm", spec.final_norm, RESIDUAL, RESIDUAL)
            yield ops.Pool(RESIDUAL, "pooled", head.kind, head.is_normalised)
            return
        if spec.embedding.projection is not None:
            raise _unsupported(spec, "a head behind a projected embedding")
        yield ops.Gather(RESIDUAL, "gathered")
        if spec.final_norm is not None:
            yield self._norm(None, "final_norm", spec.final_norm, "gathered", "gathered")
        role: Role = "embedding" if head.is_tied else "head"
        if head.is_normalised:
            unit = self._packer.matrices(None, (role,), change=_unit_rows)
            table = lambda: _only(unit())  # noqa: E731
        elif not head.is_tied:
            own = self._packer.matrices(None, (role,))
            table = lambda: _only(own())  # noqa: E731
        bias = self._packer.vector(None, "head", "bias") if head.has_bias else None
        yield lambda: ops.Linear("gathered", "logits", table(), bias)
        if head.scale != 1.0:
            yield ops.Scale("logits", "logits", head.scale)
        if head.soft_cap is not None:
            yield ops.SoftCap("logits", head.soft_cap)

    # ---- residual layouts ----------------------------------------------------------------

    def _layer(self, number: int, layer: LayerSpec) -> Iterator[_Emitted]:
        if layer.stream_norm is not None:
            yield self._norm(number, "stream_norm", layer.stream_norm, RESIDUAL, RESIDUAL)
        residual = layer.residual
        match residual:
            case Serial():
                yield from self._serial(number, layer, residual)
            case Parallel():
                yield from self._parallel(number, layer, residual)
            case Sandwich():
                yield from self._sandwich(number, layer, residual)
            case PostNorm():
                yield from self._post_norm(number, layer, residual)

    def _serial(self, number: int, layer: LayerSpec, residual: Serial) -> Iterator[_Emitted]:
        yield self._norm(number, "mixer_norm", residual.mixer_norm, RESIDUAL, "normed")
        yield from self._branch(
            residual.multiplier, lambda to: self._mixer(number, layer, "normed", to)
        )
        if layer.mlp is None:
            return
        source = RESIDUAL
        if residual.mlp_norm is not None:
            source = "normed"
            yield self._norm(number, "mlp_norm", residual.mlp_norm, RESIDUAL, source)
        yield from self._branch(
            residual.multiplier, lambda to: self._mlp(number, layer, source, to)
        )

    def _branch(
        self, multiplier: float, branch: Callable[[str], Iterator[_Emitted]]
    ) -> Iterator[_Emitted]:
        """Add a branch to the residual stream; without a factor it adds itself."""
        if multiplier == 1.0:
            yield from branch(RESIDUAL)
            return
        yield from branch("branch")
        yield ops.Add("branch", RESIDUAL, multiplier)

    def _parallel(self, number: int, layer: LayerSpec, residual: Parallel) -> Iterator[_Emitted]:
        yield self._norm(number, "mixer_norm", residual.mixer_norm, RESIDUAL, "normed")
        source = "normed"
        if residual.mlp_norm is not None:
            source = "mlp_normed"
            yield self._norm(number, "mlp_norm", residual.mlp_norm, RESIDUAL, source)
        yield from self._mixer(number, layer, "normed", RESIDUAL)
        yield from self._mlp(number, layer, source, RESIDUAL)

    def _sandwich(self, number: int, layer: LayerSpec, residual: Sandwich) -> Iterator[_Emitted]:
        yield self._norm(number, "mixer_norm", residual.mixer_norm, RESIDUAL, "normed")
        yield from self._mixer(number, layer, "normed", "branch")
        yield self._norm(number, "mixer_post_norm", residual.mixer_post_norm, "branch", "branch")
        yield ops.Add("branch", RESIDUAL)
        yield self._norm(number, "mlp_norm", residual.mlp_norm, RESIDUAL, "normed")
        yield from self._mlp(number, layer, "normed", "branch")
        yield self._norm(number, "mlp_post_norm", residual.mlp_post_norm, "branch", "branch")
        yield ops.Add("branch", RESIDUAL)

    def _post_norm(self, number: int, layer: LayerSpec, residual: PostNorm) -> Iterator[_Emitted]:
        halves: tuple[tuple[Role, Norm, _Branch], ...] = (
            ("mixer_norm", residual.mixer_norm, self._mixer),
            ("mlp_norm", residual.mlp_norm, self._mlp),
        )
        for role, norm, branch in halves:
            if residual.is_inner:
                yield self._norm(number, role, norm, RESIDUAL, "normed")
                yield ops.Scale("normed", RESIDUAL, residual.alpha)
                yield from branch(number, layer, "normed", RESIDUAL)
                continue
            yield from branch(number, layer, RESIDUAL, "branch")
            if residual.alpha != 1.0:
                yield ops.Scale(RESIDUAL, RESIDUAL, residual.alpha)
            yield ops.Add("branch", RESIDUAL)
            yield self._norm(number, role, norm, RESIDUAL, RESIDUAL)

    # ---- mixers --------------------------------------------------------------------------

    def _mixer(self, number: int, layer: LayerSpec, source: str, target: str) -> Iterator[_Emitted]:
        if isinstance(layer.mixer, StateSpace):
            return self._state_space(number, layer.mixer, source, target)
        return self._attention(number, layer.mixer, source, target)

    def _attention(
        self, number: int, attention: Attention, source: str, target: str
    ) -> Iterator[_Emitted]:
        heads, kv_heads, size = attention.heads, attention.kv_heads, attention.head_dim
        key_column, value_column = heads * size, (heads + kv_heads) * size
        if attention.query_positions is None:
            yield self._linear(number, ("query", "key", "value"), source, "qkv")
        else:
            rows = self._packer.array(number, "query_positions")
            yield ops.AddPositions("query_source", rows, accumulates=False)
            yield self._linear(number, ("query",), "query_source", "qkv")
            yield self._linear(number, ("key", "value"), source, "qkv", column=key_column)
        if attention.clip_qkv is not None:
            width = (heads + 2 * kv_heads) * size
            yield ops.Clamp("qkv", 0, width, attention.clip_qkv)
        yield from self._head_norm(number, attention, "query_norm", 0, heads)
        yield from self._head_norm(number, attention, "key_norm", key_column, kv_heads)
        yield from self._rotate(attention)
        if attention.log_scale is not None:
            yield ops.LogScale("qkv", 0, heads * size, attention.log_scale.trained_length)
        layer, group = self._num_attentions, self._group_of_layer[number]
        self._num_attentions += 1
        yield ops.WriteKV("qkv", layer, key_column, value_column, kv_heads, size, group)
        scale = attention.scale if attention.scale is not None else 1 / math.sqrt(size)
        slopes = None
        if isinstance(attention.positions, Alibi):
            slopes = alibi_slopes(attention.positions, heads)
            slopes = slopes * np.float32(scale if attention.positions.is_scaled else 1.0)
        attended = f"attended.{heads * size}"
        yield ops.Attention(
            "qkv",
            attended,
            layer,
            heads,
            kv_heads,
            size,
            scale,
            group=group,
            window=attention.window,
            sees_prefix=attention.mask != "causal",
            soft_cap=attention.soft_cap,
            slopes=slopes,
        )
        yield self._linear(number, ("output",), attended, target)

    def _head_norm(
        self, number: int, attention: Attention, role: Role, column: int, heads: int
    ) -> Iterator[_Emitted]:
        norm = attention.query_norm if role == "query_norm" else attention.key_norm
        if norm is None:
            return
        width = attention.head_dim
        if attention.norm_over == "all_heads":
            heads, width = 1, heads * width
        weight, bias = self._norm_vectors(number, role, norm, width)
        yield ops.HeadNorm("qkv", column, heads, width, norm.kind, weight, bias, norm.epsilon)

    def _rotate(self, attention: Attention) -> Iterator[_Emitted]:
        rotary = attention.positions
        if not isinstance(rotary, Rotary):
            return
        # Keys follow queries, so one pass rotates both.
        heads, size = attention.heads + attention.kv_heads, attention.head_dim
        angles = self._angles[rotary]
        if rotary.layout == "two_dimensional":
            half = rotary.dims // 2
            yield ops.Rotary("qkv", angles[0], 0, heads, size, "half", 0)
            yield ops.Rotary("qkv", angles[1], 0, heads, size, "half", half)
        else:
            yield ops.Rotary("qkv", angles[0], 0, heads, size, rotary.layout)

    def _state_space(
        self, number: int, mixer: StateSpace, source: str, target: str
    ) -> Iterator[_Emitted]:
        layer = self._num_states
        self._num_states += 1
        rank, state = mixer.rank, mixer.state
        yield self._linear(number, ("state_input",), source, "state_input")
        weight = self._packer.array(number, "convolution")
        bias = self._packer.bias(number, ("convolution",))
        yield ops.Convolution("state_input", "convolved", layer, weight, bias)
        yield self._linear(number, ("state_parameters",), "convolved", "state_parameters")
        if mixer.inner_norm is not None:
            parts: tuple[tuple[Role, int, int], ...] = (
                ("time_step_norm", 0, rank),
                ("input_matrix_norm", rank, state),
                ("output_matrix_norm", rank + state, state),
            )
            for role, column, width in parts:
                norm = mixer.inner_norm
                gain, shift = self._norm_vectors(number, role, norm, width)
                yield ops.HeadNorm(
                    "state_parameters", column, 1, width, norm.kind, gain, shift, norm.epsilon
                )
        yield ops.Copy("state_parameters", "time_step_rank", 0, rank)
        yield self._linear(number, ("time_step",), "time_step_rank", "time_step")
        yield ops.SelectiveScan(
            "convolved",
            "time_step",
            "state_parameters",
            rank,
            rank + state,
            "state_input",
            mixer.inner,
            "scanned",
            layer,
            -np.exp(self._packer.array(number, "state_matrix")),
            self._packer.vector(number, "skip", "weight"),
        )
        yield self._linear(number, ("state_output",), "scanned", target)

    # ---- MLPs ----------------------------------------------------------------------------

    def _mlp(self, number: int, layer: LayerSpec, source: str, target: str) -> Iterator[_Emitted]:
        mlp = layer.mlp
        if isinstance(mlp, Experts):
            return self._experts(number, mlp, source, target)
        if mlp is None:
            return iter(())
        return self._dense(number, mlp, ("gate", "up", "down"), source, target)

    def _dense(
        self,
        number: int,
        mlp: Plain | Gated,
        roles: tuple[Role, Role, Role],
        source: str,
        target: str,
    ) -> Iterator[_Emitted]:
        gate, up, down = roles
        hidden = f"hidden.{mlp.hidden}"
        if isinstance(mlp, Gated):
            both = f"gate_up.{2 * mlp.hidden}"
            yield self._linear(number, (gate, up), source, both)
            yield ops.Gate(both, hidden, mlp.activation)
        else:
            yield self._linear(number, (up,), source, hidden)
            yield ops.Activate(hidden, mlp.activation)
        yield self._linear(number, (down,), hidden, target)

    def _experts(
        self, number: int, experts: Experts, source: str, target: str
    ) -> Iterator[_Emitted]:
        expert, router_kind = experts.expert, experts.router
        if router_kind == "random" or expert.has_bias:
            raise _unsupported(self._spec, f"layer {number}: experts {experts!r}")
        router = self._packer.matrices(number, ("router",), kind="float32")
        yield lambda: ops.Linear(source, "router", _only(router()))
        if target != RESIDUAL:
            yield ops.Scale(source, target, 0.0)
        is_gated = isinstance(expert, Gated)
        first_roles: tuple[Role, ...] = ("gate", "up") if is_gated else ("up",)
        numbers = range(experts.count)
        first = [self._packer.matrices(number, first_roles, expert=e) for e in numbers]
        second = [self._packer.matrices(number, ("down",), expert=e) for e in numbers]
        yield lambda: ops.Experts(
            source,
            "router",
            target,
            tuple(_only(matrices()) for matrices in first),
            tuple(_only(matrices()) for matrices in second),
            expert.activation,
            is_gated,
            experts.active,
            router_kind,
            experts.is_renormalised,
        )
        if experts.shared is not None:
            roles: tuple[Role, Role, Role] = ("shared_gate", "shared_up", "shared_down")
            if target == RESIDUAL:
                yield from self._dense(number, experts.shared, roles, source, target)
            else:
                yield from self._dense(number, experts.shared, roles, source, "shared")
                yield ops.Add("shared", target)

    # ---- weights -------------------------------------------------------------------------

    def _linear(
        self,
        number: int | None,
        roles: tuple[Role, ...],
        source: str,
        target: str,
        *,
        column: int = 0,
    ) -> _Emitted:
        """Project `source` by matrices side by side; into the residual stream by adding."""
        matrices = self._packer.matrices(number, roles)
        bias = self._packer.bias(number, roles)
        accumulates = target == RESIDUAL and number is not None

        parts = () if number is None else self._packer.parts(number, roles)

        def emit() -> list[ops.Op]:
            result: list[ops.Op] = []
            packed = matrices()
            own = [parts] if len(packed) == 1 else [(part,) for part in parts]
            first = 0
            for index, matrix in enumerate(packed):
                part = None if bias is None else bias[first : first + matrix.outputs]
                place = column + first
                result.append(ops.Linear(source, target, matrix, part, place, accumulates))
                if parts:
                    self.parts[id(matrix)] = own[index]
                first += matrix.outputs
            return result

        return emit

    def _norm(
        self, layer: int | None, role: Role, norm: Norm, source: str, target: str
    ) -> ops.RMSNorm | ops.LayerNorm:
        weight, bias = self._norm_vectors(layer, role, norm, self._spec.width)
        if norm.kind == "rms":
            return ops.RMSNorm(source, target, weight, norm.epsilon)
        return ops.LayerNorm(source, target, weight, bias, norm.epsilon)

    def _norm_vectors(
        self, layer: int | None, role: Role, norm: Norm, width: int
    ) -> tuple[ops.FloatArray, ops.FloatArray | None]:
        weight = np.ones(width, np.float32)
        if norm.has_weight:
            stored = self._packer.vector(layer, role, "weight")
            weight = (stored + np.float32(norm.weight_offset)).astype(np.float32)
        return weight, self._packer.vector(layer, role, "bias") if norm.has_bias else None


def _only(matrices: Sequence[ops.Weights]) -> ops.Weights:
    """The one matrix of a list of one."""
    (matrix,) = matrices
    return matrix


def _unit_rows(values: ops.FloatArray) -> ops.FloatArray:
    """Divide rows by their length, as Baichuan 2's head does."""
    lengths = np.sqrt(np.sum(values.astype(np.float64) ** 2, axis=1, keepdims=True))
    return np.asarray(values / np.maximum(lengths, 1e-12), np.float32)


def _unsupported(spec: ModelSpec, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"the native executor does not compute {what} of family {spec.family!r} yet."
    )
