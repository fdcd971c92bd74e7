"""flaxmill's side of parity: outputs, loss, gradients and AdamW steps, in float32 or float64."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.table import FAMILIES
from flaxmill.model.functional import apply
from flaxmill.model.huggingface.directory import stored_tensors
from flaxmill.model.params import Params
from flaxmill.model.transformer import complete_batch
from flaxmill.train.optimizer.optimizers import OptimizerConfig, clip_gradients, make_optimizer
from flaxmill.train.parity.batches import ParityBatch
from flaxmill.train.parity.loss import parity_loss
from flaxmill.train.parity.torch_side import Arrays, Measured


class Flaxmill:
    """A model whose programs are compiled once for all batches of one shape."""

    def __init__(self, config: ModelConfig, params: Params) -> None:
        self.config = dataclasses.replace(config, dropout=0.0, attention_dropout=None)
        self.params = params
        self._frozen = _frozen_paths(self.config)
        self._outputs = jax.jit(lambda params, batch: apply(self.config, params, batch))
        self._gradients = jax.jit(jax.value_and_grad(self._loss_and_outputs, has_aux=True))

    def in_precision(self, precision: str) -> "Flaxmill":
        """The same model computing in another dtype; float64 needs `jax.enable_x64`, and widens params."""
        config = dataclasses.replace(self.config, dtype=precision)
        if precision != "float64":
            return Flaxmill(config, self.params)
        return Flaxmill(config, jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), self.params))

    def measure(self, batch: ParityBatch) -> Measured:
        """Measure what `measure_reference` measures, on the same batch."""
        (loss, outputs), gradients = self._gradients(self.params, self._complete(batch))
        return Measured(_at_places(outputs, batch), float(loss), self._named(gradients))

    def outputs(self, batch: ParityBatch) -> Arrays:
        """The outputs alone."""
        return _at_places(self._outputs(self.params, self._complete(batch)), batch)

    def parameters(self) -> Arrays:
        """The parameters that torch trains, by their names in a Hugging Face file."""
        return self._named(self.params)

    def train(self, batch: ParityBatch, config: OptimizerConfig, num_steps: int) -> Iterator[float]:
        """Train by AdamW at a constant learning rate; yields the loss before each step."""
        optimizer = make_optimizer(config, self.params)
        update = jax.jit(_make_update(optimizer, config, self._frozen))
        state, inputs = jax.jit(optimizer.init)(self.params), self._complete(batch)
        for _ in range(num_steps):
            (loss, _), gradients = self._gradients(self.params, inputs)
            self.params, state = update(self.params, state, gradients)
            yield float(loss)

    def _loss_and_outputs(self, params: Params, batch: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        # The loss runs the model too, by training's own code; the compiler joins the equal halves.
        return parity_loss(self.config, params, batch), apply(self.config, params, batch)

    def _complete(self, batch: ParityBatch) -> dict[str, jax.Array]:
        # Before the compiled part, so that padded and packed batches have the same arrays.
        return complete_batch(self.config, {name: jnp.asarray(value) for name, value in batch.ours.items()})

    def _named(self, tree: Params) -> Arrays:
        named = dict(stored_tensors(self.config, tree))
        return {name: value for name, value in named.items() if name not in _buffers(self.config)}


def _make_update(
    optimizer: optax.GradientTransformation, config: OptimizerConfig, frozen: frozenset[str]
) -> Callable[[Params, Any, Params], tuple[Params, Any]]:
    def update(params: Params, state: Any, gradients: Params) -> tuple[Params, Any]:
        gradients = jax.tree_util.tree_map_with_path(
            lambda path, g: jnp.zeros_like(g) if _name(path) in frozen else g, gradients
        )
        clipped = clip_gradients(gradients, optax.tree.norm(gradients), config.clip_norm)
        updates, state = optimizer.update(clipped, state, params)
        return jax.tree.map(lambda p, u: p + config.learning_rate * u, params, updates), state

    return update


def _frozen_paths(config: ModelConfig) -> frozenset[str]:
    """Parameters that torch keeps as buffers and so does not train; all are biases, which do not decay."""
    assert config.family is not None
    tensors = FAMILIES[config.family].tensors(config)
    return frozenset(path for path, stored in tensors.items() if stored.name in _buffers(config))


def _buffers(config: ModelConfig) -> tuple[str, ...]:
    assert config.family is not None
    return FAMILIES[config.family].buffers


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _at_places(outputs: dict[str, jax.Array], batch: ParityBatch) -> Arrays:
    """The outputs of tokens at the real tokens alone, the other outputs whole."""
    rows_and_tokens = outputs["hidden"].shape[:2]
    picked: Arrays = {}
    for name, value in outputs.items():
        wide = np.asarray(value.astype(jnp.float32) if value.dtype == jnp.bfloat16 else value)
        if name == "encoder_hidden":
            assert batch.encoder_places is not None
            wide = wide[batch.encoder_places.ours]
        elif value.shape[:2] == rows_and_tokens:
            wide = wide[batch.places.ours]
        picked[name] = wide
    return picked
