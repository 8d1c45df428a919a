"""Checks the shapes that signatures of the torch decoder state, while these tests run."""

from importlib.util import find_spec

_MODULES = (
    "attention", "decoder", "leaves", "loss", "mlp", "rotary", "segments", "state_space", "tree",
)  # fmt: skip

if find_spec("beartype") and find_spec("jaxtyping"):
    from jaxtyping import install_import_hook

    # Nothing is imported here: modules are checked from when they are first imported on.
    install_import_hook(
        [f"yearling.models.torch_decoder.{m}" for m in _MODULES], "beartype.beartype"
    )
