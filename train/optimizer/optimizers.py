"""The optimizer: from clipped gradients to updates for a learning rate of 1.

The training step multiplies the updates by the schedule, so that a skipped step needs no counter here.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from flaxmill.model.layer_plan import LAYER_GROUPS
from flaxmill.model.params import names_of
from flaxmill.train.optimizer.adam import scale_by_adam, scale_by_uncorrected_adam
from flaxmill.train.optimizer.config import OptimizerConfig, OptimizerName, ScheduleName
from flaxmill.train.optimizer.freezing import Trainable, choose_trainable
from flaxmill.train.optimizer.layer_decay import scale_by_depth
from flaxmill.train.optimizer.low_moments import low_moments
from flaxmill.train.optimizer.offload import Offloaded, layer_by_layer
from flaxmill.train.optimizer.per_layer import per_layer

__all__ = [
    "OptimizerConfig",
    "OptimizerName",
    "ScheduleName",
    "clip_gradients",
    "decay_mask",
    "make_optimizer",
]

MUON_RMS = 0.2  # scales Muon's updates to AdamW's usual size, so that one learning rate serves both


def make_optimizer(config: OptimizerConfig, abstract_params: Any) -> optax.GradientTransformation:
    """The transformation from gradients to updates for a learning rate of 1, sign included.

    Gradients are expected already clipped. Weight decay is part of the updates. Whatever looks at a whole
    tensor treats the layers of a stacked group one by one. Frozen parameters have no state and get no
    updates; whatever is passed in for them is left out.

    lamb is the optimizer of You et al. 2020 as NVIDIA trains BERT with it (apex's FusedLAMB): each tensor of
    a layer is scaled by |weight| / |update|, or by 1 where either is zero. Its normalisation of the gradients
    beforehand is clip_norm=1.0, and like the authors' code it leaves biases and norm scales unscaled;
    FusedLAMB's use_nvlamb=True, which scales those too, is not offered.

    Args:
      abstract_params: nested dict of arrays or of their shapes; names decide which weights decay.

    Raises:
      ValueError: a pattern of config.freeze fits none of them, or all are frozen.
    """
    trainable = choose_trainable(config.freeze, abstract_params)
    trained, _ = trainable.split(abstract_params)
    decays = decay_mask(trained)
    make_direction = {
        "adamw": _scale_by_adam,
        "lamb": _scale_by_adam,
        "adafactor": _scale_by_adafactor,
        "lion": _scale_by_lion,
        "muon": _scale_by_muon,
    }[config.name]
    direction = make_direction(config)
    if config.moment_dtype == "bfloat16":
        direction = low_moments(direction)
    if config.offload:
        direction = layer_by_layer(direction)
    parts = [direction, optax.add_decayed_weights(config.weight_decay, decays)]
    if config.name == "lamb":
        # The authors' code adapts no bias or norm scale; the trust ratio sees the decay of the others.
        parts.append(optax.masked(per_layer(optax.scale_by_trust_ratio()), decays))
    parts.append(optax.scale(-1.0))
    if config.layer_decay != 1:
        parts.append(scale_by_depth(config.layer_decay, abstract_params))
    optimizer = optax.chain(*parts)
    optimizer = _on_trained(trainable, optimizer) if trainable.frozen else optimizer
    return Offloaded(*optimizer) if config.offload else optimizer


def clip_gradients(gradients: Any, norm: jax.Array, clip_norm: float | None) -> Any:
    """Gradients of global norm `norm`, scaled down to `clip_norm` if that is smaller; None: as they are."""
    if clip_norm is None:
        return gradients
    scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-16))
    return jax.tree.map(lambda g: g * scale, gradients)


def decay_mask(params: Any) -> Any:
    """The tree of params with True where weights decay: everything but biases and norm scales."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: names_of(path)[-1] not in ("bias", "scale"), params
    )


def _on_trained(
    trainable: Trainable, inner: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """Show `inner` what is trained, and nothing else."""

    def init(params: optax.Params) -> optax.OptState:
        return inner.init(_trained(params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **more: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        assert params is not None, "weight decay needs them"
        return inner.update(_trained(updates), state, _trained(params), **more)

    def _trained(tree: Any) -> Any:
        return trainable.split(tree)[0]

    return optax.GradientTransformationExtraArgs(init, update)


def _scale_by_adam(config: OptimizerConfig) -> optax.GradientTransformation:
    if config.bias_correction:
        return scale_by_adam(config.beta1, config.beta2, config.epsilon)
    return scale_by_uncorrected_adam(config.beta1, config.beta2, config.epsilon)


def _scale_by_lion(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_lion(config.beta1, config.beta2)


def _scale_by_adafactor(config: OptimizerConfig) -> optax.GradientTransformation:
    """Factored second moments, clipped to RMS 1, times the RMS of the weight (Shazeer and Stern 2018)."""
    del config  # its decay rate follows from the step, its epsilon is a floor and not a setting
    steps = optax.chain(
        optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
    )
    return _on_matrices(per_layer(steps))


def _on_matrices(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Show `inner` attention kernels as matrices: factoring over a head's dim would save no memory."""

    def init(params: optax.Params) -> optax.OptState:
        return inner.init(jax.tree_util.tree_map_with_path(_as_matrix, params))

    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        view = jax.tree_util.tree_map_with_path
        scaled, state = inner.update(view(_as_matrix, updates), state, view(_as_matrix, params))
        return jax.tree.map(lambda new, old: new.reshape(old.shape), scaled, updates), state

    return optax.GradientTransformation(init, update)


def _as_matrix(path: tuple, x: jax.Array) -> jax.Array:
    if not _is_layer_kernel(path) or _is_of_experts(path):  # an expert's are matrices already
        return x
    rows, _ = _matrix_dims_of(path, x)
    return x.reshape(x.shape[0], math.prod(x.shape[dim] for dim in rows), -1)


def _scale_by_muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Muon on the matrices of the layers (Jordan et al. 2024; scale of Liu et al. 2025), Adam elsewhere."""
    muon = optax.chain(
        contrib.scale_by_muon(beta=config.momentum, weight_dimension_numbers=_matrix_dims),
        optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(_to_adam_size, updates)),
    )
    return optax.partition({"muon": muon, "adam": _scale_by_adam(config)}, _muon_labels)


def _muon_labels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "muon" if _is_layer_kernel(path) else "adam", params
    )


def _matrix_dims(updates: Any) -> Any:
    """Which dims each kernel sums over and which it writes; layers and experts stay batch dims."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: contrib.MuonDimensionNumbers(*_matrix_dims_of(path, x)), updates
    )


def _matrix_dims_of(path: tuple, x: jax.Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert x.ndim in (3, 4), f"{'/'.join(names_of(path))}: a layer's kernel of shape {x.shape}"
    if x.ndim == 3:
        return (1,), (2,)
    if _is_of_experts(path):
        return (2,), (3,)
    return ((1, 2), (3,)) if _reads_heads(path) else ((1,), (2, 3))


def _to_adam_size(path: tuple, x: jax.Array) -> jax.Array:
    rows, columns = _matrix_dims_of(path, x)
    longer = max(math.prod(x.shape[dim] for dim in dims) for dims in (rows, columns))
    return MUON_RMS * math.sqrt(longer) * x


def _is_layer_kernel(path: tuple) -> bool:
    names = names_of(path)
    return names[-1] == "kernel" and any(name in LAYER_GROUPS for name in names)


def _is_of_experts(path: tuple) -> bool:
    """True for the experts' kernels [L, E, in, out]; a router's and those of shared experts have no E."""
    return names_of(path)[-3] == "moe" and names_of(path)[-2] != "router"


def _reads_heads(path: tuple) -> bool:
    """True for attention's output kernel [L, N, H, D]; query, key and value are [L, D, N, H]."""
    return names_of(path)[-2] == "out"
