"""The newest versions that all quick tests have passed with, by `make test` or `make newest`."""

PYTHON = "3.13"
NEWEST = {
    "jax": "0.12.0.1",
    "flax": "0.12.12",
    "optax": "0.2.8",
    "tensorstore": "0.1.86",
    "orbax-checkpoint": "0.12.8",
    "tensorflow-datasets": "4.9.10",
    "array-record": "0.8.6",
    "tokenizers": "0.23.3",
    "safetensors": "0.8.0",
    "numpy": "2.5.5",
    "tyro": "1.0.17",
    "rich": "15.0.0",
}
