import os
import subprocess
import sys

COMPILE_ONE = """
import sys, pathlib, jax, jax.numpy as jnp
from jax import monitoring
from flaxmill.train.compilation_cache import enable_compilation_cache

events = []
monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
enable_compilation_cache(pathlib.Path(sys.argv[1]))
jax.block_until_ready(jax.jit(jax.grad(lambda x: jnp.tanh(x @ x).sum()))(jnp.ones((64, 64))))
print(events.count("cache_hits"), events.count("cache_misses"))
"""


def start(cache) -> tuple[int, int, str]:
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_ONE, str(cache)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    hits, misses = map(int, done.stdout.split())
    return hits, misses, done.stderr


def test_second_start_compiles_nothing_and_is_quiet(tmp_path):
    hits, misses, _ = start(tmp_path)
    assert hits == 0
    assert misses > 0
    assert start(tmp_path) == (misses, 0, "")
