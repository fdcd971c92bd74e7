"""Layer-wise decay of the learning rate: the nearer a layer is to the input, the less it moves.

Howard and Ruder 2018 (discriminative fine-tuning); Clark et al. 2020 (ELECTRA).
"""

import jax
import numpy as np
import optax

from flaxmill.model.params import LeafPath, Params, flatten, group_of, names_of
from flaxmill.train.optimizer.freezing import layer_numbers, refuse_mixed_depths


def scale_by_depth(decay: float, params: Params) -> optax.GradientTransformation:
    """Multiply updates, weight decay included, by the factors of `depth_factors`."""
    factors = depth_factors(decay, params)

    def scale(path: tuple, update: jax.Array) -> jax.Array:
        factor = factors[names_of(path)]
        return update * factor.reshape(-1, *(1,) * (update.ndim - 1)) if factor.ndim else update * factor

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def depth_factors(decay: float, params: Params) -> dict[LeafPath, np.ndarray]:
    """The factor of each array's learning rate, float32: [L] for stacked layers, else a scalar.

    Layer l of a stack of L, counted from 0, has decay**(L - l); each stack of an encoder-decoder counts its
    own layers. Embeddings and relative positions, below the first layer, have decay**(L + 1), with the L of
    the deeper stack if both read them. The final norm and the head, above the last layer, have 1.
    """
    refuse_mixed_depths(flatten(params), f"optimizer.layer_decay={decay}")
    numbers = layer_numbers(params)
    depths: dict[LeafPath, int] = {}
    for path, layers in numbers.items():
        group = group_of(path)
        assert group is not None
        depths[group[:-1]] = max(depths.get(group[:-1], 0), layers.stop)

    def factor(path: LeafPath) -> np.ndarray:
        if path in numbers:
            stack = path[:1] if path[0] == "encoder" else ()
            return np.float32(decay) ** np.array([depths[stack] - n for n in numbers[path]], np.float32)
        if path[0] == "embed":
            return np.asarray(decay ** (max(depths.values()) + 1), np.float32)
        if "relative_bias" in path:
            return np.asarray(decay ** (depths[path[: path.index("relative_bias")]] + 1), np.float32)
        return np.ones((), np.float32)

    return {path: factor(path) for path in flatten(params)}
