"""One thread for all tests of training: tiny models are fastest on it, and always the same."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
