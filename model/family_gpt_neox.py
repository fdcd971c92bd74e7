"""GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): parallel layers, partly rotary heads."""

from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import Head, ModelConfig
from flaxmill.model.config_json import (
    read_activation,
    read_num_labels,
    read_rope,
    read_token_ids,
    rope_settings,
    write_activation,
    write_num_labels,
    write_rope,
    write_token_ids,
)
from flaxmill.model.family import FamilyDescription
from flaxmill.model.stored_tensors import Stored, TensorMap
from flaxmill.model.tensor_names import fused_tensors, head_tensors, linear_tensors, norm_tensors

_DEFAULTS = {
    "vocab_size": 50432,
    "max_position_embeddings": 2048,
    "hidden_size": 6144,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "rotary_pct": 0.25,
    "attention_bias": True,
    "use_parallel_residual": True,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


def _read_config(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> ModelConfig:
    values = _DEFAULTS | dict(values)
    attention_bias = None if values["attention_bias"] else False
    return ModelConfig(
        family="gpt_neox",
        vocab_size=values["vocab_size"],
        max_positions=values["max_position_embeddings"],
        num_layers=values["num_hidden_layers"],
        embed_dim=values["hidden_size"],
        num_heads=values["num_attention_heads"],
        mlp_dim=values["intermediate_size"],
        causal=True,
        head=head,
        num_labels=read_num_labels(values),
        pooling="last" if head == "classification" else "first",
        norm_epsilon=values["layer_norm_eps"],
        parallel_residual=values["use_parallel_residual"],
        positions="rotary",
        rotary_fraction=_rotary_fraction(values),
        **read_rope(values, theta_key="rotary_emb_base"),
        qkv_bias=attention_bias,
        attention_out_bias=attention_bias,
        activation=read_activation(values, "hidden_act"),
        tie_embeddings=values["tie_word_embeddings"],
        initializer="normal",
        initializer_std=values["initializer_range"],
        dropout=values["hidden_dropout"],
        attention_dropout=values["attention_dropout"],
        **read_token_ids(values),
    )


def _rotary_fraction(values: Mapping[str, Any]) -> float:
    """Beside the other rotary values in transformers 5, of its own in transformers 4."""
    return rope_settings(values).get("partial_rotary_factor", values["rotary_pct"])


def _write_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions or _DEFAULTS["max_position_embeddings"],
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden_dim,
        "hidden_act": write_activation(config),
        "rope_parameters": write_rope(config) | {"partial_rotary_factor": config.rotary_fraction},
        "attention_bias": config.has_bias("qkv"),
        "use_parallel_residual": config.parallel_residual,
        "layer_norm_eps": config.norm_epsilon,
        "initializer_range": config.initializer_std,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout_rate,
        "tie_word_embeddings": config.tie_embeddings,
        **write_token_ids(config),
        **write_num_labels(config),
    }


def _tensors(config: ModelConfig) -> TensorMap:
    body = _body(config)
    layer = f"{body}layers.{{layer}}."
    return {
        "embed/tokens/embedding": Stored(f"{body}embed_in.weight"),
        **norm_tensors("layers/attention_norm", f"{layer}input_layernorm"),
        **fused_tensors(
            tuple(f"layers/attention/{part}" for part in ("query", "key", "value")),
            f"{layer}attention.query_key_value",
            config.has_bias("qkv"),
            interleaved=True,
        ),
        **linear_tensors("layers/attention/out", f"{layer}attention.dense", config.has_bias("attention_out")),
        **norm_tensors("layers/mlp_norm", f"{layer}post_attention_layernorm"),
        **linear_tensors("layers/mlp/up", f"{layer}mlp.dense_h_to_4h"),
        **linear_tensors("layers/mlp/down", f"{layer}mlp.dense_4h_to_h"),
        **norm_tensors("final_norm", f"{body}final_layer_norm"),
        **head_tensors(config, lm="embed_out", tokens="classifier"),
    }


def _tied(config: ModelConfig) -> Mapping[str, str]:
    """transformers 5 writes embed_out but calls it lm_head in memory, and so may files of other tools."""
    embedding = f"{_body(config)}embed_in.weight"
    if config.tie_embeddings:
        return {"embed_out.weight": embedding, "lm_head.weight": embedding}
    return {"lm_head.weight": "embed_out.weight"}


def _body(config: ModelConfig) -> str:
    return "" if config.head == "none" else "gpt_neox."


DESCRIPTION = FamilyDescription(
    model_type="gpt_neox",
    architectures={
        "none": "GPTNeoXModel",
        "lm": "GPTNeoXForCausalLM",
        "classification": "GPTNeoXForSequenceClassification",
        "token_classification": "GPTNeoXForTokenClassification",
        "qa": "GPTNeoXForQuestionAnswering",
    },
    read_config=_read_config,
    write_config=_write_config,
    tensors=_tensors,
    prefixes=("gpt_neox.",),
    ignored=(r"\.attention\.(masked_)?bias$", r"\.rotary_emb\.inv_freq$"),
    tied=_tied,
)
