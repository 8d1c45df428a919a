import numpy as np
import pytest

from tests.kernels.programs import KERNELS, available


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> str:
    """Every instruction set this build has; what this processor lacks is skipped by name."""
    if not available(request.param):
        pytest.skip(f"this processor cannot run the {request.param} kernels")
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2023)
