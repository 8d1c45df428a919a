"""A model as a differentiable PyTorch module: the interpreter of specs that trains.

Its modules and `state_dict` have the names, fusion and shapes of the family's Hugging Face
checkpoints, so adapters and weights made here load elsewhere.

Legend: T tokens of a step, S sequences, V vocabulary, E width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from yearling.core.errors import UnsupportedError
from yearling.models import spec as specs
from yearling.models.families import Family
from yearling.models.places import Place, hugging_face_places
from yearling.models.spec import (
    Attention,
    Head,
    LayerSpec,
    ModelSpec,
    Parallel,
    PostNorm,
    Rotary,
    Sandwich,
    Serial,
    StateSpace,
)
from yearling.models.torch_decoder.attention import Attend, Step, attend, run_attention
from yearling.models.torch_decoder.cache import DecoderCache, FixedKeys
from yearling.models.torch_decoder.leaves import Norm, normalise
from yearling.models.torch_decoder.mlp import run_mlp
from yearling.models.torch_decoder.rotary import angles_of
from yearling.models.torch_decoder.segments import Positions, Segments, positions_of
from yearling.models.torch_decoder.state_space import run_state_space
from yearling.models.torch_decoder.together import lay_side_by_side
from yearling.models.torch_decoder.tree import (
    Wiring,
    is_bare_parameter,
    linear,
    plant,
    project_by,
    slots_of,
)
from yearling.models.weights import Role, Weight, WeightName

__all__ = ["DecoderLayer", "Injection", "TorchDecoder", "norm_of"]

_TABLES = (
    "embedding",
    "position_embedding",
    "block_position_embedding",
    "token_type_embedding",
    "query_positions",
)

_ENTRIES = ("stream_norm", "query_positions")
"""Roles of a layer that some checkpoints keep outside it; they act before it does."""


@dataclass(frozen=True)
class Injection:
    """Embeddings that the caller gives in place of the table's, of an image say.

    Attributes:
        rows: Rows of the batch.
        values: Their embeddings, as they follow the table's scale.
    """

    rows: Int[Tensor, " rows"]
    values: Float[Tensor, "rows width"]


class TorchDecoder(nn.Module):
    """Any decoder or encoder that a spec describes.

    Attributes:
        spec: What the model is.
        places: Where each weight of the spec lies in the `state_dict`.
        uses_checkpointing: Whether layers compute a second time in the backward pass instead
            of keeping what is between; set it to train with less memory.
        attend: Computes attention while the module is in training mode; set it to train with
            another pattern. In evaluation mode attention is what the spec says.
    """

    def __init__(
        self,
        spec: ModelSpec,
        family: Family,
        *,
        device: torch.device | str = "meta",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Make the modules; parameters have memory, but no values, except on `meta`.

        Args:
            family: Names the weights.
            device: Where parameters are; `meta` takes no memory.
            dtype: Their type.
        """
        super().__init__()
        self.spec = spec
        self.uses_checkpointing = False
        self.attend: Attend = attend
        names = family.names(spec)
        self.places: Mapping[Weight, Place] = hugging_face_places(spec, names)
        self._wiring = slots_of(_belonging(self.places, None), "")
        self._layer_paths = [_layer_path(names, n) for n in range(len(spec.layers))]
        self._entries: list[Wiring] = []
        for number, path in enumerate(self._layer_paths):
            own = _belonging(self.places, number)
            entry = {weight: own.pop(weight) for weight in list(own) if weight.role in _ENTRIES}
            self._entries.append(slots_of(entry, ""))
            plant(self, path, DecoderLayer(spec.layers[number], slots_of(own, path), number))
        self._plant_leaves(names, dtype)
        if torch.device(device).type != "meta":
            self.to_empty(device=device)

    def forward(
        self,
        tokens: Int[Tensor, " T"],
        segments: Segments,
        *,
        cache: DecoderCache | None = None,
        injection: Injection | None = None,
    ) -> Float[Tensor, "T E"]:
        """Compute the hidden state of every row, behind the final norm.

        Args:
            tokens: Ids of all sequences, one after another.
            segments: How they divide.
            cache: What earlier steps have left; None for sequences that begin here.
            injection: Rows whose embeddings are given.
        """
        if len(tokens) != segments.num_tokens:
            raise ValueError(f"{len(tokens)} tokens, but segments of {segments.num_tokens}.")
        positions = positions_of(segments, tokens.device)
        angles, sources = self._angles(positions), self._query_sources(positions)
        pattern = self.attend if self.training else attend
        is_shared = cache is None and pattern is attend and len(segments.lengths) > 1
        laid = lay_side_by_side(segments, tokens.device) if is_shared else []
        step = Step(segments, positions, angles, sources, cache, pattern, laid)
        can_repeat = cache is None or isinstance(cache, FixedKeys)
        hidden = self._embed(tokens, positions, injection)
        for number, layer in enumerate(self.iterate_layers()):
            norm = self.spec.layers[number].stream_norm
            hidden = _normed(self, self._entries[number], "stream_norm", norm, hidden)
            if self.uses_checkpointing and torch.is_grad_enabled() and can_repeat:
                hidden = checkpoint(layer, hidden, step, use_reentrant=False)
            else:
                hidden = layer(hidden, step)
        return self._norm("final_norm", self.spec.final_norm, hidden)

    def iterate_layers(self) -> Iterator[nn.Module]:
        """The layers, from first to last, as they are now."""
        for path in self._layer_paths:
            yield self.get_submodule(path)

    def logits(self, hidden: Float[Tensor, "rows E"]) -> Float[Tensor, "rows V"]:
        """Project hidden states to the vocabulary.

        Raises:
            UnsupportedError: the model is an encoder.
        """
        head = self.spec.head
        if not isinstance(head, Head):
            raise UnsupportedError(
                f"a model of family {self.spec.family!r} gives vectors, not logits."
            )
        if head.is_tied:
            bias = self._head_bias() if head.has_bias else None
            logits = project_by(hidden, self._wiring.parameter(self, "embedding"), bias)
        else:
            (logits,) = self._wiring.project(self, ("head",), hidden)
        if head.is_normalised:
            # Dividing the logits spares a second copy of the matrix.
            table = self._wiring.values(self, "embedding" if head.is_tied else "head")
            lengths = torch.linalg.vector_norm(table.float(), dim=1).clamp(min=1e-12)
            logits = logits / lengths.to(logits.dtype)
        if head.scale != 1.0:
            logits = logits * head.scale
        if head.soft_cap is not None:
            logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
        return logits

    def head_table(self) -> Float[Tensor, "V E"] | None:
        """The matrix that makes logits, or None when something else than one matrix does."""
        head = self.spec.head
        if not isinstance(head, Head) or head.has_bias or head.is_normalised:
            return None
        leaf = self._wiring.leaf(self, "embedding" if head.is_tied else "head")
        # A leaf that an adapter or a quantiser has replaced is more than its weight, and a weight
        # that lies across processes is no plain matrix.
        is_plain = type(leaf) in (nn.Embedding, nn.Linear)
        return leaf.weight if is_plain and type(leaf.weight) is nn.Parameter else None

    def pool(self, hidden: Float[Tensor, "T E"], segments: Segments) -> Float[Tensor, "S E"]:
        """Make one vector of each sequence's rows.

        Raises:
            UnsupportedError: the model is no encoder.
        """
        pooling = self.spec.head
        if isinstance(pooling, Head):
            raise UnsupportedError(
                f"a model of family {self.spec.family!r} gives logits, not vectors."
            )
        vectors = []
        for segment in segments:
            rows = hidden[segment.rows].float()
            choices = {"mean": rows.mean(0), "first": rows[0], "last": rows[-1]}
            vectors.append(choices[pooling.kind])
        pooled = torch.stack(vectors)
        return F.normalize(pooled, dim=-1, eps=1e-12) if pooling.is_normalised else pooled

    def _angles(self, positions: Positions) -> "dict[Rotary, tuple[Tensor, Tensor]]":
        rotaries = {
            layer.mixer.positions
            for layer in self.spec.layers
            if isinstance(layer.mixer, Attention) and isinstance(layer.mixer.positions, Rotary)
        }
        return {rotary: angles_of(rotary, positions) for rotary in rotaries}

    def _query_sources(self, positions: Positions) -> "dict[int, Tensor]":
        """What layers that ask by position project their queries from."""
        return {
            number: F.embedding(positions.token, entry.values(self, "query_positions"))
            for number, entry in enumerate(self._entries)
            if entry.has("query_positions")
        }

    def _embed(
        self, tokens: Tensor, positions: Positions, injection: Injection | None
    ) -> Float[Tensor, "T E"]:
        embedding, wiring = self.spec.embedding, self._wiring
        hidden: Tensor = wiring.leaf(self, "embedding")(tokens)
        if embedding.scale != 1.0:
            hidden = hidden * embedding.scale
        if injection is not None:
            hidden = hidden.index_copy(0, injection.rows, injection.values.to(hidden.dtype))
        if embedding.projection is not None:
            (hidden,) = wiring.project(self, ("embedding_projection",), hidden)
        if embedding.positions is not None:
            place = positions.token if embedding.block_positions is None else positions.span
            table = wiring.values(self, "position_embedding")
            hidden = hidden + F.embedding(place + embedding.position_offset, table)
        if embedding.block_positions is not None:
            table = wiring.values(self, "block_position_embedding")
            hidden = hidden + F.embedding(positions.block, table)
        if embedding.token_types is not None:
            hidden = hidden + wiring.values(self, "token_type_embedding")[0]
        return self._norm("embedding_norm", embedding.norm, hidden)

    def _head_bias(self) -> Tensor:
        bias = self._wiring.leaf(self, "head").bias
        assert isinstance(bias, Tensor)
        return bias

    def _norm(self, role: Role, norm: specs.Norm | None, hidden: Tensor) -> Tensor:
        return _normed(self, self._wiring, role, norm, hidden)

    def _plant_leaves(self, names: Mapping[Role, WeightName], dtype: torch.dtype) -> None:
        """Make every leaf once, with a bias when some weight of it has one."""
        by_name = {place.name: weight for weight, place in self.places.items()}
        for name, weight in by_name.items():
            place = self.places[weight]
            if is_bare_parameter(weight, place):
                empty = torch.empty(place.shape, device="meta", dtype=dtype)
                plant(self, name, nn.Parameter(empty))
                continue
            path = name.rpartition(".")[0]
            if weight.part == "weight" or f"{path}.weight" not in by_name:
                has_bias = f"{path}.bias" in by_name
                plant(self, path, self._new_leaf(weight, place, has_bias, dtype))

    def _new_leaf(
        self, weight: Weight, place: Place, has_bias: bool, dtype: torch.dtype
    ) -> nn.Module:
        role = weight.role
        if role.endswith("_norm"):
            return Norm(norm_of(self.spec, weight), place.shape[0], dtype)
        if weight.part == "bias":  # of a tied head
            leaf = nn.Module()
            empty = torch.empty(place.shape, device="meta", dtype=dtype)
            leaf.register_parameter("bias", nn.Parameter(empty))
            return leaf
        if role in _TABLES:
            rows, width = place.shape
            return nn.Embedding(rows, width, device="meta", dtype=dtype)
        if role == "convolution":
            inner, _, taps = place.shape
            return nn.Conv1d(
                inner, inner, taps, groups=inner, bias=has_bias, device="meta", dtype=dtype
            )
        return linear(place.shape, is_transposed=place.is_transposed, bias=has_bias, dtype=dtype)


class DecoderLayer(nn.Module):
    """One layer; its leaves hang below it by Hugging Face's names.

    Attributes:
        spec: What the layer is.
        number: From 0.
    """

    def __init__(self, spec: LayerSpec, wiring: Wiring, number: int) -> None:
        super().__init__()
        self.spec = spec
        self.number = number
        self._wiring = wiring

    def forward(self, hidden: Float[Tensor, "T E"], step: Step) -> Float[Tensor, "T E"]:
        """Add what the layer computes to the residual stream."""
        residual = self.spec.residual
        match residual:
            case Serial():
                scale = residual.multiplier
                branch = self._mix(self._norm("mixer_norm", residual.mixer_norm, hidden), step)
                hidden = hidden + (branch if scale == 1.0 else branch * scale)
                if self.spec.mlp is None:
                    return hidden
                branch = self._mlp(self._norm("mlp_norm", residual.mlp_norm, hidden))
                return hidden + (branch if scale == 1.0 else branch * scale)
            case Parallel():
                normed = self._norm("mixer_norm", residual.mixer_norm, hidden)
                own = residual.mlp_norm
                source = normed if own is None else self._norm("mlp_norm", own, hidden)
                return hidden + self._mix(normed, step) + self._mlp(source)
            case Sandwich():
                branch = self._mix(self._norm("mixer_norm", residual.mixer_norm, hidden), step)
                hidden = hidden + self._norm("mixer_post_norm", residual.mixer_post_norm, branch)
                branch = self._mlp(self._norm("mlp_norm", residual.mlp_norm, hidden))
                return hidden + self._norm("mlp_post_norm", residual.mlp_post_norm, branch)
            case PostNorm():
                return self._post_norm(residual, hidden, step)

    def _post_norm(self, residual: PostNorm, hidden: Tensor, step: Step) -> Tensor:
        alpha = residual.alpha
        if residual.is_inner:
            hidden = self._norm("mixer_norm", residual.mixer_norm, hidden)
            hidden = alpha * hidden + self._mix(hidden, step)
            hidden = self._norm("mlp_norm", residual.mlp_norm, hidden)
            return alpha * hidden + self._mlp(hidden)
        hidden = alpha * hidden + self._mix(hidden, step)
        hidden = self._norm("mixer_norm", residual.mixer_norm, hidden)
        hidden = alpha * hidden + self._mlp(hidden)
        return self._norm("mlp_norm", residual.mlp_norm, hidden)

    def _mix(self, values: Tensor, step: Step) -> Tensor:
        mixer = self.spec.mixer
        if isinstance(mixer, StateSpace):
            return run_state_space(self, self._wiring, mixer, values, step, self.number)
        return run_attention(self, self._wiring, mixer, values, step, self.number)

    def _mlp(self, values: Tensor) -> Tensor:
        if self.spec.mlp is None:
            return torch.zeros_like(values)
        return run_mlp(self, self._wiring, self.spec.mlp, values)

    def _norm(self, role: Role, norm: specs.Norm | None, hidden: Tensor) -> Tensor:
        return _normed(self, self._wiring, role, norm, hidden)


def _normed(
    owner: nn.Module, wiring: Wiring, role: Role, norm: specs.Norm | None, hidden: Tensor
) -> Tensor:
    if norm is None:
        return hidden
    if not wiring.has(role):  # a norm without parameters has no leaf
        return normalise(hidden, norm)
    normed = wiring.leaf(owner, role)(hidden)
    assert isinstance(normed, Tensor)
    return normed


def _belonging(places: Mapping[Weight, Place], layer: int | None) -> dict[Weight, Place]:
    return {weight: place for weight, place in places.items() if weight.layer == layer}


def _layer_path(names: Mapping[Role, WeightName], number: int) -> str:
    """Dotted path of a layer, which all its weights' names begin with."""
    templates = (name.hugging_face for name in names.values())
    before = next(template for template in templates if "{layer}" in template)
    return before.split("{layer}")[0] + str(number)


def norm_of(spec: ModelSpec, weight: Weight) -> specs.Norm:
    """Find the settings of the norm that a weight belongs to."""
    norm: specs.Norm | None
    if weight.layer is None:
        norm = spec.embedding.norm if weight.role == "embedding_norm" else spec.final_norm
    else:
        layer = spec.layers[weight.layer]
        mixer = layer.mixer
        if weight.role in ("query_norm", "key_norm"):
            norm = getattr(mixer, weight.role)
        elif weight.role == "stream_norm":
            norm = layer.stream_norm
        elif isinstance(mixer, StateSpace) and weight.role not in ("mixer_norm", "mlp_norm"):
            norm = mixer.inner_norm
        else:
            norm = getattr(layer.residual, weight.role)
    assert norm is not None, f"the spec has no {weight.role}"
    return norm
