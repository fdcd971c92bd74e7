"""GPT-Neo (Black et al. 2021): GPT-2 with local attention in every other layer and unscaled logits."""

from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import Head, LayerKind, ModelConfig
from flaxmill.model.config_json import (
    layer_fields,
    read_activation,
    read_num_labels,
    read_token_ids,
    write_activation,
    write_num_labels,
    write_token_ids,
)
from flaxmill.model.family import FamilyDescription
from flaxmill.model.stored_tensors import Stored, TensorMap
from flaxmill.model.tensor_names import head_tensors, linear_tensors, norm_tensors

_DEFAULTS = {
    "vocab_size": 50257,
    "max_position_embeddings": 2048,
    "hidden_size": 2048,
    "num_layers": 24,
    "attention_types": None,
    "num_heads": 16,
    "intermediate_size": None,
    "window_size": 256,
    "resid_dropout": 0.0,
    "attention_dropout": 0.0,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "initializer_range": 0.02,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "tie_word_embeddings": True,
}


def _read_config(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> ModelConfig:
    values = _DEFAULTS | dict(values)
    return ModelConfig(
        family="gpt_neo",
        vocab_size=values["vocab_size"],
        max_positions=values["max_position_embeddings"],
        num_layers=values["num_layers"],
        embed_dim=values["hidden_size"],
        num_heads=values["num_heads"],
        mlp_dim=values["intermediate_size"],
        causal=True,
        head=head,
        num_labels=read_num_labels(values),
        pooling="last" if head == "classification" else "first",
        norm_epsilon=values["layer_norm_epsilon"],
        attention_scale=1.0,
        qkv_bias=False,
        activation=read_activation(values, "activation_function"),
        tie_embeddings=values["tie_word_embeddings"],
        initializer="normal",
        initializer_std=values["initializer_range"],
        dropout=values["resid_dropout"],
        attention_dropout=values["attention_dropout"],
        **layer_fields(_layer_kinds(values), values["window_size"]),
        **read_token_ids(values),
    )


def _layer_kinds(values: Mapping[str, Any]) -> tuple[LayerKind, ...]:
    """[[["global", "local"], 2]] says global, local, global, local."""
    types = values["attention_types"] or [[["global", "local"], 12]]
    kinds = tuple(kind for pattern, repeats in types for kind in list(pattern) * repeats)
    if len(kinds) != values["num_layers"]:
        raise ValueError(
            f"config.json: attention_types={types} describes {len(kinds)} layers but "
            f"num_layers={values['num_layers']}; make them agree"
        )
    if not set(kinds) <= {"global", "local"}:
        raise ValueError(f"config.json: attention_types={types} is not supported; use 'global' and 'local'")
    return kinds


def _write_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "hidden_size": config.embed_dim,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "attention_types": _attention_types(config),
        "window_size": config.window or _DEFAULTS["window_size"],
        "activation_function": write_activation(config, tanh="gelu_new"),
        "resid_dropout": config.dropout,
        "embed_dropout": config.dropout,
        "attention_dropout": config.attention_dropout_rate,
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": config.initializer_std,
        "tie_word_embeddings": config.tie_embeddings,
        **write_token_ids(config),
        **write_num_labels(config),
    }


def _attention_types(config: ModelConfig) -> list[list[Any]]:
    pattern = list(config.layer_pattern or ("global",))
    repeats, rest = divmod(config.num_layers, len(pattern))
    whole = [[pattern, repeats]] if repeats else []
    return whole + ([[pattern[:rest], 1]] if rest else [])


def _tensors(config: ModelConfig) -> TensorMap:
    body = _body(config)
    layer = f"{body}h.{{layer}}."
    return {
        "embed/tokens/embedding": Stored(f"{body}wte.weight"),
        "embed/positions/embedding": Stored(f"{body}wpe.weight"),
        **norm_tensors("layers/attention_norm", f"{layer}ln_1"),
        **linear_tensors("layers/attention/query", f"{layer}attn.attention.q_proj", has_bias=False),
        **linear_tensors("layers/attention/key", f"{layer}attn.attention.k_proj", has_bias=False),
        **linear_tensors("layers/attention/value", f"{layer}attn.attention.v_proj", has_bias=False),
        **linear_tensors("layers/attention/out", f"{layer}attn.attention.out_proj"),
        **norm_tensors("layers/mlp_norm", f"{layer}ln_2"),
        **linear_tensors("layers/mlp/up", f"{layer}mlp.c_fc"),
        **linear_tensors("layers/mlp/down", f"{layer}mlp.c_proj"),
        **norm_tensors("final_norm", f"{body}ln_f"),
        **head_tensors(config, lm="lm_head", tokens="classifier"),
    }


def _tied(config: ModelConfig) -> Mapping[str, str]:
    return {"lm_head.weight": f"{_body(config)}wte.weight"} if config.tie_embeddings else {}


def _body(config: ModelConfig) -> str:
    return "" if config.head == "none" else "transformer."


DESCRIPTION = FamilyDescription(
    model_type="gpt_neo",
    architectures={
        "none": "GPTNeoModel",
        "lm": "GPTNeoForCausalLM",
        "classification": "GPTNeoForSequenceClassification",
        "token_classification": "GPTNeoForTokenClassification",
        "qa": "GPTNeoForQuestionAnswering",
    },
    read_config=_read_config,
    write_config=_write_config,
    tensors=_tensors,
    prefixes=("transformer.",),
    ignored=(r"\.attn\.attention\.(masked_)?bias$",),
    tied=_tied,
)
