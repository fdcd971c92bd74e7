"""ModernBERT (Warner et al. 2024): config.json and tensors as transformers' ModernBert classes have them."""

from collections.abc import Mapping
from typing import Any, Literal

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.labels import read_labels, write_labels_of
from flaxmill.model.config_json.rope import (
    object_of,
    read_scaling,
    write_max_positions,
    write_rope,
    write_scaling,
)
from flaxmill.model.config_json.settings import (
    ABANDONED,
    DRAWING,
    DROPOUTS,
    SPEED,
    Settings,
    depth,
    fill_in,
    finite,
    flag,
    number,
    other,
    refuse,
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
from flaxmill.model.families.tensor_names import fused_tensors, linear_tensors, norm_tensors
from flaxmill.model.fields import Head, LayerKind
from flaxmill.model.layer_plan import layer_kinds

_SETTINGS = with_common(
    Settings(
        read={
            "vocab_size": whole(50368),
            "hidden_size": whole(768),
            "intermediate_size": whole(1152),
            "num_hidden_layers": depth(22),
            "num_attention_heads": whole(12),
            "hidden_activation": word("gelu"),
            "max_position_embeddings": whole(8192),
            "initializer_range": number(0.02),
            "norm_eps": number(1e-5),
            "norm_bias": flag(False),
            "pad_token_id": token(50283),
            "eos_token_id": token(50282),
            "bos_token_id": token(50281),
            "attention_bias": flag(False),
            "attention_dropout": number(0.0),
            "layer_types": other(),
            "global_attn_every_n_layers": whole(3),
            "local_attention": whole(128),
            "rope_parameters": other(),
            "rope_scaling": other(),
            "global_rope_theta": number(160_000.0),
            "local_rope_theta": number(10_000.0),
            "mlp_bias": flag(False),
            "mlp_dropout": number(0.0),
            "decoder_bias": flag(True),
            "classifier_pooling": word("cls"),
            "classifier_bias": flag(False),
            "classifier_activation": word("gelu"),
            "tie_word_embeddings": flag(True),
        },
        only={"position_embedding_type": "absolute", "head_dim": None, "sliding_window": None},
        unused={
            DROPOUTS: ("embedding_dropout", "classifier_dropout"),
            DRAWING: ("initializer_cutoff_factor",),
            SPEED: ("deterministic_flash_attn", "reference_compile", "repad_logits_with_grad"),
            "what a call returns": ("sparse_prediction", "sparse_pred_ignore_index"),
            ABANDONED: ("layer_norm_eps",),
        },
        depths={"num_hidden_layers": "layers."},
    )
)
_KINDS: dict[str, LayerKind] = {"full_attention": "global", "sliding_attention": "local"}
_THETA_KEYS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
_POOLINGS: dict[str, Literal["first", "mean"]] = {"cls": "first", "mean": "mean"}


def _read_config(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> ModelConfig:
    values = fill_in(_SETTINGS, values)
    _refuse_unsupported(values, head)
    return ModelConfig(
        family="modernbert",
        head=head,
        causal=False,
        vocab_size=values["vocab_size"],
        max_positions=values["max_position_embeddings"],
        num_layers=values["num_hidden_layers"],
        embed_dim=values["hidden_size"],
        num_heads=values["num_attention_heads"],
        mlp_dim=values["intermediate_size"],
        **read_labels(values, head),
        pooling=_POOLINGS[values["classifier_pooling"]] if head == "classification" else "first",
        pooler="transform" if head in ("classification", "token_classification", "qa") else "none",
        norm_epsilon=values["norm_eps"],
        embedding_norm=True,
        first_attention_norm=False,
        positions="rotary",
        **_read_rope(values),
        activation=read_activation(values, "hidden_activation"),
        gated_mlp=True,
        use_bias=values["classifier_bias"],
        qkv_bias=values["attention_bias"],
        attention_out_bias=values["attention_bias"],
        mlp_bias=values["mlp_bias"],
        norm_bias=values["norm_bias"],
        tie_embeddings=values["tie_word_embeddings"],
        initializer="bert",
        initializer_std=values["initializer_range"],
        dropout=values["mlp_dropout"],
        attention_dropout=values["attention_dropout"],
        **layer_fields(_read_kinds(values), values["local_attention"]),
        **read_token_ids(values),
    )


def _refuse_unsupported(values: Mapping[str, Any], head: Head) -> None:
    if head == "mlm":
        refuse(values, {"decoder_bias": True})
    if head != "none":  # the head's own activation
        read_activation(values, "hidden_activation")
        refuse(values, {"classifier_activation": values["hidden_activation"]})
    if values["classifier_pooling"] not in _POOLINGS:
        raise ValueError(
            f"config.json: classifier_pooling={values['classifier_pooling']!r} is not supported; "
            "use cls or mean"
        )


def _read_kinds(values: Mapping[str, Any]) -> tuple[LayerKind, ...]:
    """The kind of each layer: `layer_types` of transformers 5, or every n-th layer global."""
    types, depth = values.get("layer_types"), values["num_hidden_layers"]
    if types is None:
        every = values["global_attn_every_n_layers"]
        return tuple("local" if index % every else "global" for index in range(depth))
    if len(types) != depth or not set(types) <= set(_KINDS):
        raise ValueError(
            f"config.json: layer_types={shown(types)} must name {depth} layers (num_hidden_layers), each "
            f"{' or '.join(_KINDS)}"
        )
    return tuple(_KINDS[kind] for kind in types)


def _read_rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Each kind of layer has its own values: in `rope_parameters`, or its theta under a separate key."""
    of_all = object_of("rope_scaling", values["rope_scaling"])
    by_kind = object_of("rope_parameters", values["rope_parameters"])
    if unknown := [name for name in by_kind if name not in _KINDS]:
        raise ValueError(
            f"config.json: rope_parameters.{unknown[0]} is not supported: {' and '.join(_KINDS)} have an "
            "object each"
        )
    thetas, scalings = [], []
    for kind, key in _THETA_KEYS.items():
        rope = object_of(f"rope_parameters.{kind}", by_kind.get(kind)) | of_all
        thetas.append(finite(key, rope.get("rope_theta", values[key])))
        # transformers computes with these two values, whatever the file says.
        refuse(rope, {"partial_rotary_factor": 1.0, "truncate": True})
        original = rope.get("original_max_position_embeddings")
        scalings.append(read_scaling(rope, values["max_position_embeddings"], original))
    full, sliding = scalings
    if sliding and sliding != full:
        raise ValueError(
            "config.json: sliding_attention and full_attention have different rotary scaling, which is not "
            "supported; give both the same, or sliding_attention none"
        )
    scaled = "all" if sliding == full else "global"
    return {"rope_theta": thetas[0], "local_rope_theta": thetas[1], "rope_scaled_layers": scaled, **full}


def _write_config(config: ModelConfig) -> dict[str, Any]:
    names = {kind: name for name, kind in _KINDS.items()}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_activation": write_activation(config),
        "max_position_embeddings": write_max_positions(config, _SETTINGS),
        "initializer_range": config.initializer_std,
        "norm_eps": config.norm_epsilon,
        "norm_bias": config.has_bias("norm"),
        "attention_bias": config.has_bias("qkv"),
        "attention_dropout": config.attention_dropout_rate,
        "layer_types": [names[kind] for kind in layer_kinds(config)],
        "rope_parameters": _write_rope(config),
        **({} if config.window is None else {"local_attention": config.window}),
        "embedding_dropout": config.dropout,
        "mlp_bias": config.has_bias("mlp"),
        "mlp_dropout": config.dropout,
        "decoder_bias": True,
        "classifier_pooling": "mean" if config.pooled_place == "mean" else "cls",
        "classifier_dropout": config.dropout,
        "classifier_bias": config.use_bias,
        "classifier_activation": write_activation(config),
        "tie_word_embeddings": config.tie_embeddings,
        **write_token_ids(config),
        "cls_token_id": config.bos_id,
        "sep_token_id": config.eos_id,
        **write_labels_of(config),
    }


def _write_rope(config: ModelConfig) -> dict[str, Any]:
    local_theta = config.rope_theta if config.local_rope_theta is None else config.local_rope_theta
    local_scaling = write_scaling(config) if config.rope_scaled_layers == "all" else {}
    return {
        "full_attention": write_rope(config),
        "sliding_attention": {"rope_type": "default", "rope_theta": local_theta} | local_scaling,
    }


def _tensors(config: ModelConfig) -> TensorMap:
    body = "" if config.head == "none" else "model."
    layer = f"{body}layers.{{layer}}"
    norm_bias, mlp_bias = config.has_bias("norm"), config.has_bias("mlp")
    qkv = tuple(f"layers/attention/{name}" for name in ("query", "key", "value"))
    return {
        "embed/tokens/embedding": StoredTensor(f"{body}embeddings.tok_embeddings.weight"),
        **norm_tensors("embed/norm", f"{body}embeddings.norm", norm_bias),
        **norm_tensors("layers/attention_norm", f"{layer}.attn_norm", norm_bias),
        **fused_tensors(qkv, f"{layer}.attn.Wqkv", config.has_bias("qkv")),
        **linear_tensors("layers/attention/out", f"{layer}.attn.Wo", config.has_bias("attention_out")),
        **norm_tensors("layers/mlp_norm", f"{layer}.mlp_norm", norm_bias),
        # torch calls the half that it activates `input` and the other one `gate`.
        **fused_tensors(("layers/mlp/gate", "layers/mlp/up"), f"{layer}.mlp.Wi", mlp_bias),
        **linear_tensors("layers/mlp/down", f"{layer}.mlp.Wo", mlp_bias),
        **norm_tensors("final_norm", f"{body}final_norm", norm_bias),
        **_head_tensors(config),
    }


def _head_tensors(config: ModelConfig) -> TensorMap:
    if config.head == "none":
        return {}
    path = "mlm" if config.head == "mlm" else "pooler"
    transform = {
        **linear_tensors(f"{path}/transform", "head.dense", config.use_bias),
        **norm_tensors(f"{path}/norm", "head.norm", config.has_bias("norm")),
    }
    if config.head != "mlm":
        return transform | linear_tensors("classifier", "classifier")
    untied = {} if config.tie_embeddings else {"mlm/kernel": StoredTensor("decoder.weight")}
    return transform | {"mlm/bias": StoredTensor("decoder.bias")} | untied


def _tied(config: ModelConfig) -> Mapping[str, str]:
    tied = config.head == "mlm" and config.tie_embeddings
    return {"decoder.weight": "model.embeddings.tok_embeddings.weight"} if tied else {}


DESCRIPTION = FamilyDescription(
    model_type="modernbert",
    architectures={
        "none": "ModernBertModel",
        "mlm": "ModernBertForMaskedLM",
        "classification": "ModernBertForSequenceClassification",
        "token_classification": "ModernBertForTokenClassification",
        "qa": "ModernBertForQuestionAnswering",
    },
    read_config=_read_config,
    write_config=_write_config,
    settings=_SETTINGS,
    tensors=_tensors,
    prefixes=("model.",),
    ignored=(r"rotary_emb\.",),
    tied=_tied,
)
