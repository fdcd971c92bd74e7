"""Checks the fields of a ModelConfig; each error names the value, the rule and the fix."""

import difflib
import functools
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flaxmill.model.fields import LAYER_TENSORS, ModelFields

_OF_EXPERTS = (
    *("experts_per_token", "expert_dim", "normalize_top_k", "expert_capacity", "shared_experts"),
    *("moe_every", "load_balance_loss", "router_z_loss"),
)
LARGEST = 3.4e38
"""Nearly the largest float32."""
REMAT_ACTIONS = ("save", "recompute", "offload")


def check_model(config: ModelFields) -> None:
    """Raises ValueError where fields are out of range or contradict each other."""
    _check_choices(config)
    _check_numbers(config)
    _check_heads(config)
    _check_positions(config)
    _check_rotary_scaling(config)
    _check_layers(config)
    _check_experts(config)
    _check_head(config)
    _check_lora(config)
    _check_prefix(config)
    _check_remat(config)
    if config.encoder_layers is not None:
        _check_encoder(config)


def _check_remat(config: ModelFields) -> None:
    require(
        config.remat != "none" or not config.remat_tensors,
        f"model.remat_tensors={' '.join(config.remat_tensors)} changes what remat=dots or full keeps, but "
        "model.remat is none; set it, or leave remat_tensors out",
    )
    seen = set()
    for entry in config.remat_tensors:
        name, _, how = entry.partition("=")
        require(
            name in LAYER_TENSORS,
            f"model.remat_tensors={entry}: a layer has no tensor {name!r}; "
            f"{_hint(name, LAYER_TENSORS)}there are {', '.join(LAYER_TENSORS)}",
        )
        require(
            how in REMAT_ACTIONS,
            f"model.remat_tensors={entry} does not say what to do; write {name}=save, {name}=recompute or "
            f"{name}=offload",
        )
        require(name not in seen, f"model.remat_tensors names {name} twice; name it once")
        seen.add(name)


def _check_choices(config: ModelFields) -> None:
    for name, choices in _choices(type(config)).items():
        value = getattr(config, name)
        require(
            value in choices,
            f"model.{name}={value!r} is unknown; use one of {', '.join(map(str, choices))}",
        )


@functools.cache
def _choices(cls: type[ModelFields]) -> dict[str, tuple[Any, ...]]:
    """The words that each Literal field may have, and None if the field may be None."""
    found = {}
    for name, hint in get_type_hints(cls).items():
        parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
        if words:
            found[name] = (*words, *([None] if type(None) in parts else []))
    return found


def _check_numbers(config: ModelFields) -> None:
    for name in ("num_layers", "embed_dim", "num_heads", "rope_original_positions"):
        require(getattr(config, name) >= 1, f"model.{name}={getattr(config, name)} must be at least 1")
    for name in (
        "vocab_size",
        "max_positions",
        "num_kv_heads",
        "head_dim",
        "mlp_dim",
        "encoder_layers",
        "encoder_num_heads",
        "encoder_mlp_dim",
        "window",
        "num_labels",
        "lora_rank",
    ):
        value = getattr(config, name)
        require(value is None or value >= 1, f"model.{name}={value} must be at least 1 or None")
    for name in ("dropout", "attention_dropout"):
        value = getattr(config, name)
        require(value is None or 0 <= value < 1, f"model.{name}={value} must be in [0, 1)")
    for name in ("num_segments", "position_offset"):
        require(getattr(config, name) >= 0, f"model.{name}={getattr(config, name)} must be 0 or more")
    require(config.norm_epsilon > 0, f"model.norm_epsilon={config.norm_epsilon} must be positive")
    for name in (
        "initializer_std",
        "rope_theta",
        "local_rope_theta",
        "rope_factor",
        "rope_attention_factor",
        "rope_beta_slow",
        "attention_scale",
        "lora_alpha",
    ):
        value = getattr(config, name)
        require(value is None or 0 < value < float("inf"), f"model.{name}={value} must be a positive number")
    for name, value in vars(config).items():
        numbers = value if isinstance(value, tuple) else (value,)
        fit = all(abs(number) <= LARGEST for number in numbers if isinstance(number, float))
        require(fit, f"model.{name}={value} is beyond float32, which the model computes in; give less")


def _check_heads(config: ModelFields) -> None:
    require(
        config.head_dim is not None or config.embed_dim % config.num_heads == 0,
        f"model.embed_dim={config.embed_dim} does not divide over model.num_heads={config.num_heads}; "
        "use a multiple or set model.head_dim",
    )
    require(
        config.num_heads % config.kv_heads == 0,
        f"model.num_heads={config.num_heads} is not a multiple of model.num_kv_heads={config.num_kv_heads}; "
        "each key-value head serves a whole group of heads",
    )


def _check_prefix(config: ModelFields) -> None:
    require(
        not config.bidirectional_prefix or config.causal is not False,
        f"model.bidirectional_prefix=True needs a causal model, and model.causal={config.causal}; leave one "
        "None",
    )


def _check_encoder(config: ModelFields) -> None:
    """Checks the encoder's heads by the names that users give; `encoder_config` checks its other sizes."""
    num_heads = config.encoder_num_heads or config.num_heads
    require(
        config.head_dim is not None or config.embed_dim % num_heads == 0,
        f"model.embed_dim={config.embed_dim} does not divide over model.encoder_num_heads={num_heads}; "
        "use a multiple or set model.head_dim",
    )


def _check_positions(config: ModelFields) -> None:
    fraction = config.rotary_fraction
    require(0 < fraction <= 1, f"model.rotary_fraction={fraction} must be above 0 and at most 1")
    require(
        config.positions != "rotary" or (config.rotary_dim % 2 == 0 and config.rotary_dim > 0),
        f"model.head_dim={config.dim_per_head} * model.rotary_fraction={fraction} = {config.rotary_dim}; "
        "rotary positions turn pairs, so it must be even",
    )
    require(
        config.positions != "sinusoidal" or config.embed_dim % 2 == 0,
        f"model.embed_dim={config.embed_dim} is odd; sinusoidal positions need an even one",
    )
    buckets, distance = config.relative_buckets, config.relative_max_distance
    require(
        buckets >= 4 and buckets % 4 == 0 and distance > buckets // 2,
        f"model.relative_buckets={buckets} must be a multiple of 4, and "
        f"model.relative_max_distance={distance} above half of it: half of the buckets are single distances",
    )


def _check_rotary_scaling(config: ModelFields) -> None:
    kind, original = config.rope_scaling, config.rope_original_positions
    low, high = config.rope_low_frequency_factor, config.rope_high_frequency_factor
    require(
        kind != "llama3" or 0 < low < high,
        f"model.rope_low_frequency_factor={low} must be positive and below "
        f"model.rope_high_frequency_factor={high}",
    )
    slow, fast = config.rope_beta_slow, config.rope_beta_fast
    require(
        kind != "yarn" or slow <= fast < float("inf"),
        f"model.rope_beta_slow={slow} must be at most model.rope_beta_fast={fast}, which must be finite",
    )
    theta = min(config.rope_theta, config.local_rope_theta or config.rope_theta)
    require(kind != "yarn" or theta > 1, f"rope_scaling=yarn needs a model.rope_theta above 1, not {theta}")
    require(
        kind != "dynamic" or config.rotary_dim > 2,
        f"model.head_dim={config.dim_per_head} has a single turn, which rope_scaling=dynamic cannot stretch; "
        "use more dimensions, or rope_scaling=linear",
    )
    for name in ("rope_short_factors", "rope_long_factors"):
        factors = getattr(config, name)
        require(
            kind != "longrope"
            or (len(factors) == config.rotary_dim // 2 and all(0 < f < float("inf") for f in factors)),
            f"model.{name} has {len(factors)} numbers; rope_scaling=longrope needs one above 0 for each of "
            f"the {config.rotary_dim // 2} turns",
        )
    require(
        kind != "longrope" or original > 1,
        f"model.rope_original_positions={original} must be at least 2 for rope_scaling=longrope",
    )


def _check_layers(config: ModelFields) -> None:
    kinds = ("global", "local")
    require(
        all(kind in kinds for kind in config.layer_pattern),
        f"model.layer_pattern={config.layer_pattern} must be made of {' and '.join(kinds)}",
    )
    require(
        "local" not in config.layer_pattern or config.window is not None,
        f"model.layer_pattern={config.layer_pattern} has local layers but model.window is None; set it",
    )
    require(
        config.norm_position == "pre" or (config.first_attention_norm and not config.parallel_residual),
        "model.norm_position=post needs model.first_attention_norm=True and model.parallel_residual=False; "
        "or use pre",
    )
    require(
        config.encoder_layers is None or not config.parallel_residual,
        "model.parallel_residual=True has no place for attention to an encoder; "
        "use False, or model.encoder_layers=None",
    )
    is_decoder = config.encoder_layers is None or (config.causal is not False and config.head in (None, "lm"))
    require(
        is_decoder,
        f"model.encoder_layers={config.encoder_layers} needs a causal decoder with the lm head, not "
        f"model.causal={config.causal} and model.head={config.head}",
    )


def _check_experts(config: ModelFields) -> None:
    experts = config.num_experts
    if experts is None:
        defaults = ModelFields()
        changed = [name for name in _OF_EXPERTS if getattr(config, name) != getattr(defaults, name)]
        for name in changed[:1]:
            value = getattr(config, name)
            raise ValueError(
                f"model.{name}={value} is about experts, but model.num_experts is None; set it, or "
                f"leave {name} out"
            )
        return
    for name in ("num_experts", "experts_per_token", "moe_every", "expert_dim"):
        value = getattr(config, name)
        require(value is None or value >= 1, f"model.{name}={value} must be at least 1")
    for name in ("shared_experts", "load_balance_loss", "router_z_loss"):
        value = getattr(config, name)
        require(0 <= value < float("inf"), f"model.{name}={value} must be 0 or more")
    capacity = config.expert_capacity
    require(
        capacity is None or 0 < capacity < float("inf"),
        f"model.expert_capacity={capacity} must be a positive number, or None: experts take all that come",
    )
    require(
        config.experts_per_token <= experts,
        f"model.experts_per_token={config.experts_per_token} is more than model.num_experts={experts}; use "
        "less",
    )
    require(
        config.moe_every <= config.num_layers,
        f"model.moe_every={config.moe_every} is more than model.num_layers={config.num_layers}, so that no "
        "layer has experts; use less",
    )
    require(
        config.encoder_layers is None,
        f"model.num_experts={experts} with model.encoder_layers={config.encoder_layers}: an encoder-decoder "
        "has no experts; leave one None",
    )
    of_mlp = [target for target in config.lora_targets if target in ("up", "gate", "down")]
    require(
        config.lora_rank is None or not of_mlp,
        f"model.lora_targets={' '.join(of_mlp)} with model.num_experts={experts}: experts have no factors; "
        "use query, key, value and out",
    )


def _check_head(config: ModelFields) -> None:
    require(
        config.head != "mlm_nsp" or config.pooler_kind == "tanh",
        f"model.pooler={config.pooler} contradicts model.head=mlm_nsp, which needs tanh; leave it None",
    )
    require(
        config.problem_type != "single_label_classification" or config.num_labels != 1,
        "model.problem_type=single_label_classification has nothing to choose from with model.num_labels=1; "
        "use regression, or 2 labels",
    )
    require(
        not (config.scale_head or config.head_bias) or config.head in (None, "lm"),
        f"model.scale_head and model.head_bias belong to the lm head, not to model.head={config.head}; "
        "leave them False",
    )


def _check_lora(config: ModelFields) -> None:
    rank, targets = config.lora_rank, config.lora_targets
    known = get_args(get_args(get_type_hints(type(config))["lora_targets"])[0])
    if unknown := [target for target in targets if target not in known]:
        raise ValueError(
            f"model.lora_targets={unknown[0]} is unknown; {_hint(unknown[0], known)}there are "
            f"{', '.join(known)}"
        )
    require(
        len(set(targets)) == len(targets),
        f"model.lora_targets={' '.join(targets)} names a projection twice; name each once",
    )
    require(
        "gate" not in targets or config.gated_mlp,
        "model.lora_targets=gate needs model.gated_mlp=True: this MLP has no gate; leave it out",
    )
    require(
        rank is None or rank <= config.embed_dim,
        f"model.lora_rank={rank} is more than model.embed_dim={config.embed_dim}, the full rank; use less",
    )


def require(condition: bool, message: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}? " if near else ""
