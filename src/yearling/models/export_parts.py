"""The parts of a spec that a file states once for all layers, for whoever writes such a file."""

from yearling.core.errors import ModelFormatError
from yearling.models.spec import Attention, Experts, Gated, Head, ModelSpec, Norm, Plain, Rotary

__all__ = ["is_tied", "rotary_of", "shared_parts"]


def shared_parts(spec: ModelSpec) -> tuple[Attention, Gated | Plain, Norm]:
    """Give the attention and the MLP that all layers share, and the norm.

    Raises:
        ModelFormatError: layers differ, as with windows in some, or have no such part.
    """
    attention, mlp, norm = spec.layers[0].mixer, spec.layers[0].mlp, spec.final_norm
    if (
        set(spec.layers) != {spec.layers[0]}
        or not isinstance(attention, Attention)
        or mlp is None
        or isinstance(mlp, Experts)
        or attention.window is not None
        or norm is None
    ):
        raise ModelFormatError(
            f"a model of family {spec.family} with experts, or with windows on attention, is not "
            "converted yet."
        )
    return attention, mlp, norm


def rotary_of(attention: Attention) -> Rotary:
    """Give the rotary positions of an attention.

    Raises:
        ModelFormatError: it has others.
    """
    if not isinstance(attention.positions, Rotary):
        raise ModelFormatError(
            f"attention with {type(attention.positions).__name__} instead of rotary positions is "
            "not converted for this family."
        )
    return attention.positions


def is_tied(spec: ModelSpec) -> bool:
    """Whether the head uses the embedding's weights."""
    return isinstance(spec.head, Head) and spec.head.is_tied
