"""A process of its own that starts JAX and says what it found: bad flags end it, and a busy device holds it.

    python -m flaxmill.train.doctor.device_probe

prints one JSON object: `devices`, or `refusal`, a line; and `product`, the speed of a matrix product.
"""

import json
import sys
import time
from typing import Any

from flaxmill.train.jax_environment import explain

# The size of the square factors, and how many products one program computes: an accelerator then needs a
# hundredth of a second for it, and starting it is no part of the time; a CPU, some hundredths.
_SIZES = {"cpu": (1024, 1)}
_SIZE_OF_ACCELERATORS = (8192, 10)
_SECONDS = 0.5


def main() -> None:
    """Print what this machine's JAX has."""
    print(json.dumps(_look()), flush=True)


def _look() -> dict[str, Any]:
    try:
        import jax

        devices = jax.local_devices()
    except Exception as error:  # whatever it is, the one who asks wants to read it
        refusal = explain(error)
        text = " ".join(str(error).split()) or type(error).__name__
        return {"refusal": refusal.text if refusal else f"JAX does not start: {text}"}
    found = [
        {
            "platform": device.platform,
            "kind": device.device_kind,
            "bytes": (device.memory_stats() or {}).get("bytes_limit"),
        }
        for device in devices
    ]
    return {"devices": found, "tpu_chips": _count_tpu_chips(), "product": measure_product(devices[0])}


def _count_tpu_chips() -> int:
    from jax._src.hardware_utils import num_available_tpu_chips_and_device_id  # JAX's own list of PCI numbers

    return num_available_tpu_chips_and_device_id()[0]


def measure_product(device: Any, seconds: float = _SECONDS) -> dict[str, Any]:
    """FLOP/s of the fastest of some products of square matrices, bfloat16 on accelerators, else float32."""
    import jax
    import jax.numpy as jnp

    size, repeats = _SIZES.get(device.platform, _SIZE_OF_ACCELERATORS)
    dtype = jnp.float32 if device.platform == "cpu" else jnp.bfloat16
    x, y = (jax.random.normal(key, (size, size)) for key in jax.random.split(jax.random.key(0)))
    x, y = jax.device_put(((x).astype(dtype), (y * size**-0.5).astype(dtype)), device)

    @jax.jit
    def multiply(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, repeats, lambda _, x: x @ y, x)

    multiply(x, y).block_until_ready()  # compiles
    best, ends = float("inf"), time.monotonic() + seconds
    while time.monotonic() < ends:
        started = time.perf_counter()
        multiply(x, y).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return {"dtype": dtype.__name__, "size": size, "flops": 2.0 * size**3 * repeats / best}


if __name__ == "__main__":
    sys.exit(main())
