"""The optimizer: from clipped gradients to updates for a learning rate of 1.

The training step multiplies the updates by the schedule, so that a skipped step needs no counter here.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from flaxmill.model.layer_plan import LAYER_GROUPS
from flaxmill.train.adam import scale_by_adam, scale_by_uncorrected_adam
from flaxmill.train.layer_decay import scale_by_depth
from flaxmill.train.per_layer import per_layer
from flaxmill.train.trainable import Trainable, choose_trainable, names_of

OptimizerName = Literal["adamw", "lamb", "adafactor", "lion", "muon"]
ScheduleName = Literal["linear", "cosine", "wsd", "constant", "bert"]

MUON_RMS = 0.2  # scales Muon's updates to AdamW's usual size, so that one learning rate serves both


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer, its learning-rate schedule and the clipping of gradients."""

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    schedule: ScheduleName = "cosine"
    """Shape after warm-up; wsd: warm-up, stable, decay; bert: the warm-up and decay of Google's BERT."""
    warmup_fraction: float = 0.1
    """Share of the steps over which the learning rate rises linearly to its peak."""
    decay_fraction: float = 0.2
    """wsd only: share of the steps, at the end, over which it falls."""
    final_fraction: float = 0.0
    """Learning rate at the end / at the peak; constant stays at its peak."""
    beta1: float = 0.9
    """Decay of the mean of gradients; adafactor keeps none."""
    beta2: float = 0.95
    """Decay of the mean of squared gradients; lion: of its momentum. Adafactor's follows from the step."""
    epsilon: float = 1e-8
    """Added to the root of the second moment (adamw, lamb, muon's AdamW part)."""
    weight_decay: float = 0.1
    """Decoupled: a step takes learning_rate * weight_decay of a weight. None on biases and norm scales."""
    bias_correction: bool = True
    """False: Adam's moments as they are, as in Google's BERT (adamw, lamb, muon's AdamW part)."""
    momentum: float = 0.95
    """muon only: decay of the momentum that is orthogonalised."""
    clip_norm: float | None = 1.0
    """Gradients with a larger global norm are scaled down to it; None: no clipping."""
    layer_decay: float = 1.0
    """Layer l of L, from 0, learns at learning_rate * layer_decay**(L - l), embeddings slower still."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by patterns of their names: embed/* layers.0-5/* */bias."""

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                f"optimizer.warmup_fraction={self.warmup_fraction} and optimizer.decay_fraction="
                f"{self.decay_fraction} add up to more than 1; lower one"
            )


def _check_choices(config: OptimizerConfig) -> None:
    for field, choices in (("name", get_args(OptimizerName)), ("schedule", get_args(ScheduleName))):
        value = getattr(config, field)
        if value not in choices:
            raise ValueError(f"optimizer.{field}={value!r} is unknown; use one of {', '.join(choices)}")
    if not config.bias_correction and config.name in ("adafactor", "lion"):
        raise ValueError(
            f"optimizer.bias_correction=False has no meaning for optimizer.name={config.name}, "
            "which corrects nothing; leave it True, or use adamw, lamb or muon"
        )


def _check_ranges(config: OptimizerConfig) -> None:
    for field in ("learning_rate", "epsilon", "clip_norm"):
        value = getattr(config, field)
        # Written so that NaN fails too.
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"optimizer.{field}={value} must be a positive number")
    for field in ("warmup_fraction", "decay_fraction", "final_fraction"):
        value = getattr(config, field)
        if not 0 <= value <= 1:
            raise ValueError(f"optimizer.{field}={value} must lie between 0 and 1: it is a share")
    for field in ("beta1", "beta2", "momentum"):
        value = getattr(config, field)
        if not 0 <= value < 1:
            raise ValueError(f"optimizer.{field}={value} must be at least 0 and below 1")
    if not 0 < config.layer_decay <= 1:
        raise ValueError(f"optimizer.layer_decay={config.layer_decay} must be above 0 and at most 1")
    if not 0 <= config.weight_decay < float("inf"):
        raise ValueError(f"optimizer.weight_decay={config.weight_decay} must be 0 or a positive number")


def make_optimizer(config: OptimizerConfig, abstract_params: Any) -> optax.GradientTransformation:
    """The transformation from gradients to updates for a learning rate of 1, sign included.

    Gradients are expected already clipped. Weight decay is part of the updates. Whatever looks at a whole
    tensor treats the layers of a stacked group one by one. Of frozen parameters it keeps no state, and
    returns no updates; what it gets of them it leaves out.

    lamb is that of You et al. 2020 as NVIDIA trains BERT with it (apex's FusedLAMB): each tensor of a layer
    is scaled by |weight| / |update|, or by 1 where either is zero. Its normalisation of the gradients ahead
    is clip_norm=1.0, and like the authors' code it leaves biases and norm scales unscaled; FusedLAMB's
    use_nvlamb=True, which scales those too, is not offered.

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
    parts = [make_direction(config), optax.add_decayed_weights(config.weight_decay, decays)]
    if config.name == "lamb":
        # The authors' code adapts no bias or norm scale; the trust ratio sees the decay of the others.
        parts.append(optax.masked(per_layer(optax.scale_by_trust_ratio()), decays))
    parts.append(optax.scale(-1.0))
    if config.layer_decay != 1:
        parts.append(scale_by_depth(config.layer_decay, abstract_params))
    optimizer = optax.chain(*parts)
    return _on_trained(trainable, optimizer) if trainable.frozen else optimizer


def clip_gradients(gradients: Any, norm: jax.Array, clip_norm: float | None) -> Any:
    """Gradients of global norm `norm`, scaled down to `clip_norm` if theirs is larger; None: as they are."""
    if clip_norm is None:
        return gradients
    scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-16))
    return jax.tree.map(lambda g: g * scale, gradients)


def decay_mask(params: Any) -> Any:
    """The tree of params with True where weights decay: everything but biases and norm scales."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: names_of(path)[-1] not in ("bias", "scale"), params
    )


def _on_trained(trainable: Trainable, inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Show `inner` what is trained, and nothing else."""

    def init(params: optax.Params) -> optax.OptState:
        return inner.init(_trained(params))

    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        assert params is not None, "weight decay needs them"
        return inner.update(_trained(updates), state, _trained(params))

    def _trained(tree: Any) -> Any:
        return trainable.split(tree)[0]

    return optax.GradientTransformation(init, update)


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
    if not _is_layer_kernel(path):
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
    """Which dims each kernel sums over and which it writes; the layer dim stays a batch dim."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: contrib.MuonDimensionNumbers(*_matrix_dims_of(path, x)), updates
    )


def _matrix_dims_of(path: tuple, x: jax.Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert x.ndim in (3, 4), f"{'/'.join(names_of(path))}: a layer's kernel of shape {x.shape}"
    if x.ndim == 3:
        return (1,), (2,)
    return ((1, 2), (3,)) if _reads_heads(path) else ((1,), (2, 3))


def _to_adam_size(path: tuple, x: jax.Array) -> jax.Array:
    rows, columns = _matrix_dims_of(path, x)
    longer = max(math.prod(x.shape[dim] for dim in dims) for dims in (rows, columns))
    return MUON_RMS * math.sqrt(longer) * x


def _is_layer_kernel(path: tuple) -> bool:
    names = names_of(path)
    return names[-1] == "kernel" and any(name in LAYER_GROUPS for name in names)


def _reads_heads(path: tuple) -> bool:
    """True for attention's output kernel [L, N, H, D]; query, key and value are [L, D, N, H]."""
    return names_of(path)[-2] == "out"
