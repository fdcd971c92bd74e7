"""What the tests on a GPU share: they skip without one."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def _needs_gpu() -> None:
    if jax.default_backend() != "gpu":
        pytest.skip(f"JAX computes on the {jax.default_backend()}: `make gpu` where there is an NVIDIA GPU")
