"""Small causal models with random weights and a tokenizer, as directories of Hugging Face."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import small_tokenizers

from flaxmill.model import ModelConfig, init_params, save_huggingface

MAX_POSITIONS = 96
_SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": dict(
        family="llama",
        norm="rmsnorm",
        positions="rotary",
        activation="silu",
        gated_mlp=True,
        use_bias=False,
        tie_embeddings=False,
    ),
}


@functools.cache
def causal_directory(kind: str = "gpt2") -> Path:
    """A directory with config.json, weights and the tokenizer of this kind."""
    vocab_size = small_tokenizers.ours(kind).vocab_size
    config = ModelConfig(
        num_layers=2,
        embed_dim=32,
        num_heads=2,
        vocab_size=vocab_size,
        max_positions=MAX_POSITIONS,
        causal=True,
        head="lm",
        **_SHAPES[kind],
    )
    # Weights are drawn so small that every token would be about as likely as any other.
    params = jax.tree.map(lambda x: x * (10 if x.ndim > 1 else 1), init_params(config, jax.random.key(0)))
    directory = Path(tempfile.mkdtemp(prefix=f"flaxmill-random-{kind}-"))
    save_huggingface(directory, config, params)
    for path in small_tokenizers.directory_of(kind).iterdir():
        shutil.copy(path, directory)
    return directory
