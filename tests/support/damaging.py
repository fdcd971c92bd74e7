"""Small checkpoints, and ways to damage them."""

from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints

CONFIG = CheckpointConfig(keep_last=4)
STATE = {
    "params": {
        "embed": {"tokens": jnp.arange(2_000, dtype=jnp.float32).reshape(100, 20)},
        "half": jnp.full((40, 50), 1.5, jnp.bfloat16),
    },
    "optimizer": {"0": {"mu": jnp.linspace(0, 1, 900)}},
    "step": jnp.int32(7),
}
WANTED = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(jax.devices()[0])), STATE
)
PARAMS = "params/embed/tokens, params/half"

DATA = "params/ocdbt.process_0/d/*"
"""Pattern of the file below a checkpoint that holds the params."""
TOKENS_END = 8_020
"""The byte of that file at which the first array and its index end."""


def write_checkpoints(directory: Path, steps: tuple[int, ...] = (10, 20, 30)) -> Path:
    with Checkpoints(directory, CONFIG) as checkpoints:
        for step in steps:
            checkpoints.save(step, STATE, {"step": step})
    return directory


def one_file(directory: Path, pattern: str = DATA) -> Path:
    (found,) = directory.glob(pattern)
    return found


def cut(file: Path) -> None:
    """Lose the second half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path, place: int) -> None:
    """Change one bit."""
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(data)
