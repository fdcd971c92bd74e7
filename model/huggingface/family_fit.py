"""Finds the family for a model: its config.json, written and read back, must describe the same model."""

import dataclasses
import logging
from typing import Any

from flaxmill.model.config import ModelConfig, encoder_config
from flaxmill.model.families.description import FamilyDescription
from flaxmill.model.families.table import FAMILIES
from flaxmill.model.functional import abstract_params
from flaxmill.model.huggingface.places import tensor_key
from flaxmill.model.layer_plan import layer_kinds
from flaxmill.model.layers.lora import LORA_FIELDS
from flaxmill.model.layers.rotary_scaling import rotary_factor
from flaxmill.model.params import flatten

LOGGER = logging.getLogger("flaxmill.weights")

_ONLY_TRAINING = {
    "family", "dtype", "attention", "remat", "remat_tensors", "scan_layers",
    "initializer", "initializer_std", "dropout", "attention_dropout", *LORA_FIELDS,
    "load_balance_loss", "router_z_loss",
}  # fmt: skip
_YARN_FIELDS = ("rope_attention_factor", "rope_beta_fast", "rope_beta_slow", "rope_truncate")
_SCALING_FIELDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "linear": ("rope_factor", "rope_scaled_layers"),
    "dynamic": ("rope_factor", "rope_scaled_layers", "rope_original_positions"),
    "llama3": (
        *("rope_factor", "rope_scaled_layers", "rope_original_positions"),
        *("rope_low_frequency_factor", "rope_high_frequency_factor"),
    ),
    "yarn": ("rope_factor", "rope_scaled_layers", "rope_original_positions", *_YARN_FIELDS),
    "longrope": (
        *("rope_scaled_layers", "rope_original_positions"),
        *("rope_attention_factor", "rope_short_factors", "rope_long_factors"),
    ),
}
_ROTARY_FIELDS = {name for names in _SCALING_FIELDS.values() for name in names}
_IDS = ("pad_id", "bos_id", "eos_id", "eos_ids", "decoder_start_id")


def fit_family(config: ModelConfig) -> tuple[FamilyDescription, ModelConfig]:
    """The family to write (`config.family`, or the first that fits) and the model as it is written.

    A hybrid model (its lm head serves both masks) is written as its causal half, and the log says so.

    Raises:
      ValueError: no family can hold this model; names the nearest and the fields in which it differs.
    """
    if config.lora_rank is not None:
        raise ValueError(
            f"model.lora_rank={config.lora_rank}: a family's files have no place for adapters; "
            "merge them first (merge_lora)"
        )
    if config.head == "lm" and config.causal is False:
        LOGGER.warning(
            "a hybrid model is exported as its causal half: files have one mask, not one for each row"
        )
        config = dataclasses.replace(config, causal=True)
    if config.expert_capacity is not None:
        LOGGER.warning(
            "experts are exported without a capacity: in transformers they take all tokens that come"
        )
        config = dataclasses.replace(config, expert_capacity=None)
    candidates = list(FAMILIES.values()) if config.family is None else [FAMILIES[config.family]]
    having_head = [family for family in candidates if config.head in family.architectures]
    if not having_head:
        heads = {head for family in candidates for head in family.architectures}
        raise ValueError(
            f"model.head={config.head} does not exist in files of {config.family or 'any family'}; "
            f"use one of {', '.join(sorted(heads))}"
        )
    refusals = {}
    for family in having_head:
        reasons = _refusal(family, config)
        if not reasons:
            return family, dataclasses.replace(config, family=family.model_type)
        refusals[family.model_type] = reasons
    # A family that cannot even write the model down is further off than a family with other values.
    nearest = min(refusals, key=lambda name: (not _is_written(FAMILIES[name], config), len(refusals[name])))
    raise ValueError(
        f"no Hugging Face family holds this model; the nearest is {nearest}, where "
        f"{'; '.join(refusals[nearest])}"
    )


def read_back(family: FamilyDescription, config: ModelConfig) -> ModelConfig:
    """The model that the family reads from the config.json that it writes for this one."""
    paths = {tensor_key(path) for path in flatten(abstract_params(config))}
    names = [stored.in_layer(0) for key, stored in family.tensors(config).items() if key in paths]
    assert config.head is not None
    return family.read_config(family.write_config(config), config.head, frozenset(names))


def _is_written(family: FamilyDescription, config: ModelConfig) -> bool:
    try:
        read_back(family, config)
    except ValueError:
        return False
    return True


def describe_config(config: ModelConfig) -> dict[str, Any]:
    """The fields that decide what a model computes from its parameters, with their defaults filled in.

    Fields that nothing reads (the window of a model without local layers) are left out.
    """
    fields = {name: value for name, value in vars(config).items() if name not in _ONLY_TRAINING}
    fields |= _filled_in(config)
    kinds = fields["layer_pattern"]
    unread = {"use_bias"}  # the four below it are filled in, and the rest shows in the parameters
    if config.positions != "learned":
        unread |= {"max_positions", "position_offset"}
    if config.positions != "rotary":
        unread |= {name for name in fields if name.startswith(("rope_", "local_rope_", "rotary_"))}
    if config.positions != "relative":
        unread |= {name for name in fields if name.startswith("relative_")}
    unread |= _ROTARY_FIELDS - set(_SCALING_FIELDS[config.rope_scaling])
    if config.num_experts is not None and config.moe_every == 1:
        unread |= {"mlp_dim", "mlp_bias"}  # all layers have experts, which have no biases
    if "local" not in kinds:
        unread |= {"window", "local_rope_theta", "rope_scaled_layers"}
    if config.num_classes is None or config.head == "qa":
        unread |= {"num_labels"}
    if config.head != "classification":
        unread |= {"pooling", "problem_type"}
    if config.head not in ("lm", "mlm", "mlm_nsp"):
        unread |= {"tie_embeddings"}
    if config.head != "lm":
        unread |= {"scale_head", "head_bias"}
    return {name: value for name, value in fields.items() if name not in unread}


def _filled_in(config: ModelConfig) -> dict[str, Any]:
    encoder = None if config.encoder_layers is None else encoder_config(config)
    return {
        "num_kv_heads": config.kv_heads,
        "head_dim": config.dim_per_head,
        "mlp_dim": config.hidden_dim,
        "expert_dim": None if config.num_experts is None else config.expert_hidden_dim,
        "encoder_num_heads": encoder and encoder.num_heads,
        "encoder_mlp_dim": encoder and encoder.hidden_dim,
        "num_labels": config.num_classes,
        "problem_type": config.problem,
        "pooling": config.pooled_place,
        "pooler": config.pooler_kind,
        "scale_embeddings": config.scales_embeddings,
        "local_rope_theta": config.local_rope_theta or config.rope_theta,
        "rope_attention_factor": rotary_factor(config, "global"),
        "rotary_fraction": config.rotary_dim / config.dim_per_head,
        "attention_scale": config.logits_factor,
        "layer_pattern": layer_kinds(config),
        **{f"{part}_bias": config.has_bias(part) for part in ("qkv", "attention_out", "mlp")},
        "norm_bias": config.norm == "layernorm" and config.has_bias("norm"),
    }


def _refusal(family: FamilyDescription, config: ModelConfig) -> list[str]:
    """Why the family's files cannot hold this model, empty where they can."""
    try:
        written = read_back(family, config)
    except ValueError as error:
        return [str(error)]
    ours, theirs = describe_config(config), describe_config(written)
    unset = {name for name in _IDS if ours[name] in (None, ()) or theirs[name] in (None, ())}
    differing = [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]
    value_of = lambda told, model, name: told.get(name, getattr(model, name))  # noqa: E731
    reasons = [
        f"{name} is {value_of(theirs, written, name)} and not {value_of(ours, config, name)}"
        for name in sorted(differing)
        if name not in unset
    ]
    if not reasons and _shapes(config) != _shapes(written):
        differing = _shapes(config).items() ^ _shapes(written).items()
        return [f"the parameters {', '.join(sorted({'/'.join(path) for path, _ in differing})[:8])} differ"]
    return reasons


def _shapes(config: ModelConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: value.shape for path, value in flatten(abstract_params(config)).items()}
