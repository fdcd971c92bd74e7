"""GPT-Neo (Black et al. 2021): GPT-2 with local attention in every other layer and unscaled logits."""

from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.labels import read_labels, write_labels_of
from flaxmill.model.config_json.settings import (
    A_DECODER,
    DROPOUTS,
    OTHER_HEADS,
    Settings,
    checked,
    depth,
    fill_in,
    flag,
    number,
    other,
    shown,
    token,
    whole,
    with_common,
    word,
)
from flaxmill.model.config_json.values import (
    layer_fields,
    read_activation,
    read_token_ids,
    write_activation,
    write_token_ids,
)
from flaxmill.model.families.description import FamilyDescription
from flaxmill.model.families.stored_tensors import StoredTensor, TensorMap
from flaxmill.model.families.tensor_names import head_tensors, linear_tensors, norm_tensors
from flaxmill.model.fields import Head, LayerKind

_SETTINGS = with_common(
    Settings(
        read={
            "vocab_size": whole(50257),
            "max_position_embeddings": whole(2048),
            "hidden_size": whole(2048),
            "num_layers": depth(24),
            "attention_types": other(),
            "attention_layers": other(),
            "num_heads": whole(16),
            "intermediate_size": whole(None),
            "window_size": whole(256),
            "resid_dropout": number(0.0),
            "attention_dropout": number(0.0),
            "layer_norm_epsilon": number(1e-5),
            "activation_function": word("gelu_new"),
            "initializer_range": number(0.02),
            "pad_token_id": token(None),
            "bos_token_id": token(50256),
            "eos_token_id": token(50256),
            "tie_word_embeddings": flag(True),
        },
        only={},
        unused={
            DROPOUTS: ("embed_dropout", "classifier_dropout"),
            OTHER_HEADS: (
                *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
                "summary_first_dropout",
            ),
            A_DECODER: ("is_decoder",),
        },
        aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
        depths={"num_layers": "h."},
    )
)


def _read_config(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> ModelConfig:
    values = fill_in(_SETTINGS, values)
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
        **read_labels(values, head),
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
    """The kind of each layer; [[["global", "local"], 2]] means global, local, global, local.

    Files of transformers 5 also have a list of the layers, which then takes precedence.
    """
    types = values["attention_types"] or [[["global", "local"], 12]]
    key = "attention_types" if values["attention_layers"] is None else "attention_layers"
    given = types if values["attention_layers"] is None else [[values["attention_layers"], 1]]
    # Count before writing them out: a file may ask for any number of layers.
    count = sum(len(pattern) * checked(key, repeats, whole(1)) for pattern, repeats in given)
    if count != values["num_layers"]:
        raise ValueError(
            f"config.json: {key}={shown(values[key] or types)} describes {count} layers but "
            f"num_layers={values['num_layers']}; make them agree"
        )
    kinds = tuple(kind for pattern, repeats in given for kind in list(pattern) * repeats)
    if not set(kinds) <= {"global", "local"}:
        raise ValueError(
            f"config.json: {key}={shown(values[key])} is not supported; use 'global' and 'local'"
        )
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
        "window_size": config.window or _SETTINGS.read["window_size"].default,
        "activation_function": write_activation(config, tanh="gelu_new"),
        "resid_dropout": config.dropout,
        "embed_dropout": config.dropout,
        "attention_dropout": config.attention_dropout_rate,
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": config.initializer_std,
        "tie_word_embeddings": config.tie_embeddings,
        **write_token_ids(config),
        **write_labels_of(config),
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
        "embed/tokens/embedding": StoredTensor(f"{body}wte.weight"),
        "embed/positions/embedding": StoredTensor(f"{body}wpe.weight"),
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
    settings=_SETTINGS,
    tensors=_tensors,
    prefixes=("transformer.",),
    ignored=(r"\.attn\.attention\.(masked_)?bias$",),
    tied=_tied,
)
