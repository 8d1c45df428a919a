"""Checks the shapes that signatures of the methods state, while these tests run."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

if find_spec("beartype") and find_spec("jaxtyping"):
    from jaxtyping import install_import_hook

    # Nothing is imported here: modules are checked from when they are first imported on.
    install_import_hook(["yearling.training.methods.dpo"], "beartype.beartype")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny models on one core, where they are fastest and always the same."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
