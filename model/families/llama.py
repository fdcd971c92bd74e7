"""LLaMA (Touvron et al. 2023), and families that differ from it in settings or have experts: Mistral,
Mixtral, Qwen2, Qwen3 and Qwen3-MoE."""

import functools
from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.labels import read_labels, write_labels_of
from flaxmill.model.config_json.rope import (
    read_rope,
    rope_settings,
    write_max_positions,
    write_rope,
)
from flaxmill.model.config_json.settings import fill_in, refuse, shown
from flaxmill.model.config_json.values import (
    layer_fields,
    read_activation,
    read_token_ids,
    write_activation,
    write_token_ids,
)
from flaxmill.model.families.description import FamilyDescription
from flaxmill.model.families.llama_experts import (
    NUM_EXPERTS,
    apart,
    expert_tensors,
    read_experts,
    write_experts,
)
from flaxmill.model.families.llama_settings import SETTINGS, LlamaLike
from flaxmill.model.families.stored_tensors import StoredTensor, TensorMap
from flaxmill.model.families.tensor_names import head_tensors, linear_tensors, norm_tensors
from flaxmill.model.fields import Head, LayerKind
from flaxmill.model.layer_plan import layer_kinds


def _read_config(
    values: Mapping[str, Any], head: Head, names: frozenset[str], family: LlamaLike
) -> ModelConfig:
    values = fill_in(SETTINGS[family], values)
    refuse(rope_settings(values), {"partial_rotary_factor": 1.0})
    return ModelConfig(
        family=family,
        vocab_size=values["vocab_size"],
        max_positions=values["max_position_embeddings"],
        num_layers=values["num_hidden_layers"],
        embed_dim=values["hidden_size"],
        num_heads=values["num_attention_heads"],
        **_read_heads(values),
        mlp_dim=values["intermediate_size"],
        causal=True,
        head=head,
        **read_labels(values, head),
        pooling="last" if head == "classification" else "first",
        norm="rmsnorm",
        norm_epsilon=values["rms_norm_eps"],
        positions="rotary",
        **read_rope(values),
        **layer_fields(_layer_kinds(values, family), values.get("sliding_window")),
        qk_norm=family in ("qwen3", "qwen3_moe"),
        activation=read_activation(values, "hidden_act"),
        gated_mlp=True,
        **(read_experts(values, family, head) if family in ("mixtral", "qwen3_moe") else {}),
        use_bias=False,
        **_read_biases(values, family),
        tie_embeddings=values["tie_word_embeddings"],
        initializer="normal",
        initializer_std=values["initializer_range"],
        attention_dropout=values["attention_dropout"],
        **read_token_ids(values),
    )


def _read_heads(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of the heads; None where transformers writes a size that follows from the others."""
    num_heads, num_kv_heads = values["num_attention_heads"], values["num_key_value_heads"]
    head_dim = values["head_dim"]
    follows = head_dim is not None and head_dim * num_heads == values["hidden_size"]
    return {
        "num_kv_heads": None if num_kv_heads == num_heads else num_kv_heads,
        "head_dim": None if follows else head_dim,
    }


def _read_biases(values: Mapping[str, Any], family: LlamaLike) -> dict[str, Any]:
    """Mistral and Qwen2 have no settings for this: Mistral has no biases, Qwen2 always those of qkv."""
    if family in ("mistral", "mixtral", "qwen2"):
        return {"qkv_bias": True} if family == "qwen2" else {}
    attention = True if values["attention_bias"] else None
    mlp = True if values.get("mlp_bias") and family == "llama" else None
    return {"qkv_bias": attention, "attention_out_bias": attention, "mlp_bias": mlp}


def _layer_kinds(values: Mapping[str, Any], family: LlamaLike) -> tuple[LayerKind, ...]:
    num_layers = values["num_hidden_layers"]
    if family == "llama":
        return ("global",) * num_layers
    slides = values.get("use_sliding_window", True) and values["sliding_window"] is not None
    if family in ("mistral", "mixtral", "qwen3_moe"):
        return (("local",) if slides else ("global",)) * num_layers
    types = values.get("layer_types")
    if types is None:
        first = values["max_window_layers"] if slides else num_layers
        types = ["full_attention" if layer < first else "sliding_attention" for layer in range(num_layers)]
    known: dict[str, LayerKind] = {"full_attention": "global"}
    known |= {"sliding_attention": "local"} if slides else {}
    if len(types) != num_layers or not set(types) <= set(known):
        raise ValueError(
            f"config.json: layer_types={shown(types)} with use_sliding_window={values['use_sliding_window']} "
            f"and sliding_window={values['sliding_window']} is not supported; give num_hidden_layers="
            f"{num_layers} entries of {' or '.join(known)}"
        )
    return tuple(known[name] for name in types)


def _write_config(config: ModelConfig, family: LlamaLike) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": write_max_positions(config, SETTINGS[family]),
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.hidden_dim,
        "hidden_act": write_activation(config),
        "rope_parameters": write_rope(config),
        "rms_norm_eps": config.norm_epsilon,
        "initializer_range": config.initializer_std,
        "attention_dropout": config.attention_dropout_rate,
        "tie_word_embeddings": config.tie_embeddings,
        **_write_head_dim(config, family),
        **_write_biases(config, family),
        **_write_window(config, family),
        **write_token_ids(config),
        **write_labels_of(config),
        **(write_experts(config, family) if family in ("mixtral", "qwen3_moe") else {}),
    }


def _write_head_dim(config: ModelConfig, family: LlamaLike) -> dict[str, int]:
    """head_dim, left out where it follows from the other sizes; Qwen3 always needs it."""
    follows = config.head_dim is None and family != "qwen3"
    return {} if follows else {"head_dim": config.dim_per_head}


def _write_biases(config: ModelConfig, family: LlamaLike) -> dict[str, bool]:
    if family in ("mistral", "mixtral", "qwen2"):
        return {}
    mlp = {"mlp_bias": config.has_bias("mlp")} if family == "llama" else {}
    return {"attention_bias": config.has_bias("qkv")} | mlp


def _write_window(config: ModelConfig, family: LlamaLike) -> dict[str, Any]:
    kinds = layer_kinds(config)
    if family == "llama":
        return {}
    slides = {"sliding_window": config.window if "local" in kinds else None}
    if family in ("mistral", "mixtral"):
        return slides
    if family == "qwen3_moe":
        return {"use_sliding_window": "local" in kinds, **slides}
    names = {"global": "full_attention", "local": "sliding_attention"}
    return {
        "use_sliding_window": "local" in kinds,
        **slides,
        "max_window_layers": kinds.index("local") if "local" in kinds else config.num_layers,
        "layer_types": [names[kind] for kind in kinds],
    }


_OWN_BODY = ("mistral", "mixtral")


def _body(config: ModelConfig, family: LlamaLike) -> str:
    """The body's prefix: transformers calls a question answerer's body `transformer`, but not these."""
    if config.head == "none":
        return ""
    return "transformer." if config.head == "qa" and family not in _OWN_BODY else "model."


def _tensors(config: ModelConfig, family: LlamaLike) -> TensorMap:
    body = _body(config, family)
    layer = f"{body}layers.{{layer}}."
    attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
    tensors = {
        "embed/tokens/embedding": StoredTensor(f"{body}embed_tokens.weight"),
        **norm_tensors("layers/attention_norm", f"{layer}input_layernorm", has_bias=False),
        **linear_tensors("layers/attention/out", f"{attention}o_proj", config.has_bias("attention_out")),
        **norm_tensors("layers/mlp_norm", f"{layer}post_attention_layernorm", has_bias=False),
        **norm_tensors("final_norm", f"{body}norm", has_bias=False),
        **head_tensors(config, lm="lm_head", tokens="score"),
    }
    for path in ("query", "key", "value"):
        name = f"{attention}{path[0]}_proj"
        tensors |= linear_tensors(f"layers/attention/{path}", name, config.has_bias("qkv"))
    for path in ("up", "gate", "down"):
        tensors |= linear_tensors(f"layers/mlp/{path}", f"{mlp}{path}_proj", config.has_bias("mlp"))
    if family in ("mixtral", "qwen3_moe"):
        tensors |= expert_tensors(layer, family)
    if config.qk_norm:
        tensors |= norm_tensors("layers/attention/query_norm", f"{attention}q_norm", has_bias=False)
        tensors |= norm_tensors("layers/attention/key_norm", f"{attention}k_norm", has_bias=False)
    return tensors


def _tied(config: ModelConfig, family: LlamaLike) -> Mapping[str, str]:
    embedding = f"{_body(config, family)}embed_tokens.weight"
    return {"lm_head.weight": embedding} if config.tie_embeddings else {}


def _describe(family: LlamaLike, class_prefix: str) -> FamilyDescription:
    return FamilyDescription(
        model_type=family,
        architectures={
            "none": f"{class_prefix}Model",
            "lm": f"{class_prefix}ForCausalLM",
            "classification": f"{class_prefix}ForSequenceClassification",
            "token_classification": f"{class_prefix}ForTokenClassification",
            "qa": f"{class_prefix}ForQuestionAnswering",
        },
        read_config=functools.partial(_read_config, family=family),
        write_config=functools.partial(_write_config, family=family),
        settings=SETTINGS[family],
        tensors=functools.partial(_tensors, family=family),
        prefixes=("model.", "transformer."),
        ignored=(r"\.rotary_emb\.inv_freq$",),
        tied=functools.partial(_tied, family=family),
        unfused=functools.partial(apart, family=family) if family in NUM_EXPERTS else dict,
    )


LLAMA = _describe("llama", "Llama")
MISTRAL = _describe("mistral", "Mistral")
QWEN2 = _describe("qwen2", "Qwen2")
QWEN3 = _describe("qwen3", "Qwen3")
MIXTRAL = _describe("mixtral", "Mixtral")
QWEN3_MOE = _describe("qwen3_moe", "Qwen3Moe")
