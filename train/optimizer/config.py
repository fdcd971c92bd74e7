"""The settings of the optimizer and of its schedule."""

from dataclasses import dataclass
from typing import Literal, get_args

OptimizerName = Literal["adamw", "lamb", "adafactor", "lion", "muon"]
ScheduleName = Literal["linear", "cosine", "wsd", "constant", "bert"]

StoredDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer, its learning-rate schedule and the clipping of gradients."""

    name: OptimizerName = "adamw"
    """adamw (Loshchilov and Hutter 2019), lamb (You et al. 2020), adafactor (Shazeer and Stern 2018), lion
    (Chen et al. 2023) or muon (Jordan et al. 2024)."""
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
    """Decay of the mean of squared gradients; lion: of its momentum; adafactor derives it from the step."""
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
    gradient_dtype: StoredDtype = "float32"
    """In which devices send each other gradients; bfloat16 is half of the traffic, and is rounded before sums
    over devices."""
    moment_dtype: StoredDtype = "float32"
    """In which the optimizer keeps its moments; bfloat16 takes half of the memory, and is rounded
    stochastically, so that their means stay exact."""
    offload: bool = False
    """Keep the moments in the memory of the host between updates; devices fetch those of one layer at a time.
    Numbers change by rounding alone, and a run may turn it on or off when it continues."""
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
    for field, choices in (
        ("name", get_args(OptimizerName)),
        ("schedule", get_args(ScheduleName)),
        ("gradient_dtype", get_args(StoredDtype)),
        ("moment_dtype", get_args(StoredDtype)),
    ):
        value = getattr(config, field)
        if value not in choices:
            raise ValueError(f"optimizer.{field}={value!r} is unknown; use one of {', '.join(choices)}")
    for field, unset in (("moment_dtype", "float32"), ("offload", False)):
        value = getattr(config, field)
        if value != unset and config.name == "adafactor":
            raise ValueError(
                f"optimizer.{field}={value} has no meaning for optimizer.name=adafactor, whose moments are "
                f"factored and small; leave it {unset}, or use adamw, lamb, lion or muon"
            )
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
