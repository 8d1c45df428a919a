"""Which modules of a decoder an adapter is for: by what they do, or by their names."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from torch import nn

from yearling.core.errors import ConfigError
from yearling.models.torch_decoder import TorchDecoder
from yearling.models.torch_decoder.leaves import TransposedLinear
from yearling.models.torch_decoder.tree import is_bare_parameter
from yearling.models.weights import Role
from yearling.training.nf4 import NF4Linear

__all__ = ["ALL_LINEAR", "find_linear", "find_whole", "leaf_roles", "linear_leaves"]

ALL_LINEAR: Final = "all-linear"

LINEAR_KINDS = (nn.Linear, TransposedLinear, NF4Linear)

_NOT_OF_ALL: frozenset[Role] = frozenset({"head", "state_output"})
"""PEFT's `all-linear` leaves the head out, and refuses the output of a state space."""

_GROUPS: Mapping[str, frozenset[Role]] = {
    "embeddings": frozenset({"embedding", "position_embedding", "block_position_embedding"})
}


def leaf_roles(decoder: TorchDecoder) -> dict[str, set[Role]]:
    """Give the roles that every leaf module holds, by its dotted name."""
    leaves: dict[str, set[Role]] = {}
    for weight, place in decoder.places.items():
        if not is_bare_parameter(weight, place):
            leaves.setdefault(place.name.rpartition(".")[0], set()).add(weight.role)
    return leaves


def linear_leaves(decoder: TorchDecoder) -> dict[str, set[Role]]:
    """Give the linear leaves as they are now, and their roles."""
    return {
        name: roles
        for name, roles in leaf_roles(decoder).items()
        if isinstance(decoder.get_submodule(name), LINEAR_KINDS)
    }


def find_linear(decoder: TorchDecoder, targets: str | Sequence[str]) -> list[str]:
    """Name the linear leaves that are meant.

    Args:
        targets: `all-linear`, which means all but the head; or roles (`query`, `down`) and names
            of modules, whole (`model.layers.0.mlp.up_proj`) or from a dot on (`up_proj`). A fused
            leaf is found by each of its roles.
    Raises:
        ConfigError: one of the targets is no linear leaf.
    """
    leaves = linear_leaves(decoder)
    if targets == ALL_LINEAR:
        return [name for name, roles in leaves.items() if not roles & _NOT_OF_ALL]
    words = [targets] if isinstance(targets, str) else targets
    return _find(leaves, words, "targets", "linear layer")


def find_whole(decoder: TorchDecoder, words: Sequence[str]) -> list[str]:
    """Name the leaves that are to be trained whole.

    Args:
        words: `embeddings`, `norms`, roles, and names of modules as for `find_linear`.
    Raises:
        ConfigError: one of the words is no leaf.
    """
    return _find(leaf_roles(decoder), words, "trained_whole", "layer")


def _find(
    leaves: Mapping[str, set[Role]], words: Iterable[str], option: str, what: str
) -> list[str]:
    found: dict[str, None] = {}
    for word in words:
        matches = [name for name, roles in leaves.items() if _is_meant(word, name, roles)]
        if not matches:
            raise ConfigError(_no_match(leaves, word, option, what))
        found.update(dict.fromkeys(matches))
    return [name for name in leaves if name in found]


def _is_meant(word: str, name: str, roles: set[Role]) -> bool:
    if word == "norms":
        return any(role.endswith("_norm") for role in roles)
    if word in _GROUPS:
        return bool(roles & _GROUPS[word])
    return word in roles or name == word or name.endswith(f".{word}")


def _no_match(leaves: Mapping[str, set[Role]], word: str, option: str, what: str) -> str:
    roles = sorted({role for held in leaves.values() for role in held})
    names = sorted({name.rpartition(".")[2] for name in leaves})
    near = get_close_matches(word, {*roles, *names}, n=3)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    return (
        f"{option}: {word!r} is no {what} of this model.{hint}\n"
        f"  By role there are {', '.join(roles)}; by name {', '.join(names)}."
    )
