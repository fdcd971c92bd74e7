"""GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): parallel layers, partly rotary heads."""

from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.labels import read_labels, write_labels_of
from flaxmill.model.config_json.rope import (
    ROPE_SETTINGS,
    read_rope,
    rope_settings,
    write_max_positions,
    write_rope,
)
from flaxmill.model.config_json.settings import (
    A_DECODER,
    DROPOUTS,
    Settings,
    depth,
    fill_in,
    finite,
    flag,
    number,
    token,
    whole,
    with_common,
    word,
)
from flaxmill.model.config_json.values import (
    read_activation,
    read_token_ids,
    write_activation,
    write_token_ids,
)
from flaxmill.model.families.description import FamilyDescription
from flaxmill.model.families.stored_tensors import StoredTensor, TensorMap
from flaxmill.model.families.tensor_names import fused_tensors, head_tensors, linear_tensors, norm_tensors
from flaxmill.model.fields import Head

_SETTINGS = with_common(
    Settings(
        read={
            "vocab_size": whole(50432),
            "max_position_embeddings": whole(2048),
            "hidden_size": whole(6144),
            "num_hidden_layers": depth(44),
            "num_attention_heads": whole(64),
            "intermediate_size": whole(24576),
            "rotary_pct": number(0.25),
            "rotary_emb_base": number(10_000.0),
            **ROPE_SETTINGS,
            "attention_bias": flag(True),
            "use_parallel_residual": flag(True),
            "layer_norm_eps": number(1e-5),
            "hidden_act": word("gelu"),
            "initializer_range": number(0.02),
            "hidden_dropout": number(0.0),
            "attention_dropout": number(0.0),
            "pad_token_id": token(None),
            "bos_token_id": token(0),
            "eos_token_id": token(2),
            "tie_word_embeddings": flag(False),
        },
        only={"head_dim": None},
        unused={DROPOUTS: ("classifier_dropout",), A_DECODER: ("is_decoder",)},
        depths={"num_hidden_layers": "layers."},
    )
)


def _read_config(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> ModelConfig:
    values = fill_in(_SETTINGS, values)
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
        **read_labels(values, head),
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
    """transformers 5 keeps it among the other rotary values, transformers 4 under a key of its own."""
    fraction = rope_settings(values).get("partial_rotary_factor")
    return values["rotary_pct"] if fraction is None else finite("partial_rotary_factor", fraction)


def _write_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": write_max_positions(config, _SETTINGS),
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
        **write_labels_of(config),
    }


def _tensors(config: ModelConfig) -> TensorMap:
    body = _body(config)
    layer = f"{body}layers.{{layer}}."
    return {
        "embed/tokens/embedding": StoredTensor(f"{body}embed_in.weight"),
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
    """transformers 5 writes embed_out but calls it lm_head in memory; files of other tools may too."""
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
    settings=_SETTINGS,
    tensors=_tensors,
    prefixes=("gpt_neox.",),
    ignored=(r"\.attention\.(masked_)?bias$", r"\.rotary_emb\.inv_freq$"),
    tied=_tied,
)
