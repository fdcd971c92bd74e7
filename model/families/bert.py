"""BERT (Devlin et al. 2019): its config.json and tensors as transformers' Bert classes have them."""

from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.labels import read_labels, write_labels_of
from flaxmill.model.config_json.settings import (
    ABANDONED,
    DROPOUTS,
    Settings,
    depth,
    fill_in,
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
from flaxmill.model.families.tensor_names import linear_tensors, norm_tensors
from flaxmill.model.fields import Head

SETTINGS = with_common(
    Settings(
        read={
            "vocab_size": whole(30522),
            "hidden_size": whole(768),
            "num_hidden_layers": depth(12),
            "num_attention_heads": whole(12),
            "intermediate_size": whole(3072),
            "hidden_act": word("gelu"),
            "hidden_dropout_prob": number(0.1),
            "attention_probs_dropout_prob": number(0.1),
            "max_position_embeddings": whole(512),
            "type_vocab_size": whole(2),
            "initializer_range": number(0.02),
            "layer_norm_eps": number(1e-12),
            "pad_token_id": token(0),
            "bos_token_id": token(None),
            "eos_token_id": token(None),
            "tie_word_embeddings": flag(True),
        },
        only={"position_embedding_type": "absolute"},
        unused={
            DROPOUTS: ("classifier_dropout",),
            ABANDONED: (
                *("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
                *("pooler_size_per_head", "pooler_type"),
            ),
        },
        depths={"num_hidden_layers": "encoder.layer."},
    )
)

UNREAD = "mlm/unread_bias"
"""Not a parameter: with an untied decoder, which has its own bias, torch keeps this but never reads it."""


def _read_config(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> ModelConfig:
    values = fill_in(SETTINGS, values)
    return ModelConfig(
        family="bert", max_positions=values["max_position_embeddings"], **read_encoder(values, head, names)
    )


def read_encoder(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> dict[str, Any]:
    """The fields that BERT and RoBERTa share, from a config.json with its defaults filled in.

    Raises ValueError for activations that the model does not have.
    """
    return dict(
        head=head,
        causal=False,
        vocab_size=values["vocab_size"],
        num_layers=values["num_hidden_layers"],
        embed_dim=values["hidden_size"],
        num_heads=values["num_attention_heads"],
        mlp_dim=values["intermediate_size"],
        **read_labels(values, head),
        pooler=_read_pooler(head, names),
        norm_position="post",
        norm_epsilon=values["layer_norm_eps"],
        embedding_norm=True,
        num_segments=values["type_vocab_size"],
        activation=read_activation(values, "hidden_act"),
        tie_embeddings=values["tie_word_embeddings"],
        initializer="bert",
        initializer_std=values["initializer_range"],
        dropout=values["hidden_dropout_prob"],
        attention_dropout=values["attention_probs_dropout_prob"],
        **read_token_ids(values),
    )


def _read_pooler(head: Head, names: frozenset[str]) -> str | None:
    """A bare encoder has a pooler, unless its file shows that it was made without; None under other heads."""
    if head != "none":
        return None
    has_pooler = not names or any(name.endswith("pooler.dense.weight") for name in names)
    return "tanh" if has_pooler else "none"


def _write_config(config: ModelConfig) -> dict[str, Any]:
    return {"max_position_embeddings": config.max_positions, **write_encoder(config)}


def write_encoder(config: ModelConfig) -> dict[str, Any]:
    """The keys of config.json that BERT and RoBERTa share."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden_dim,
        "hidden_act": write_activation(config, tanh="gelu_new"),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout_rate,
        "type_vocab_size": max(config.num_segments, 1),  # both need at least one
        "initializer_range": config.initializer_std,
        "layer_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tie_embeddings,
        **write_token_ids(config),
        **write_labels_of(config),
    }


def _tensors(config: ModelConfig) -> TensorMap:
    body = "" if config.head == "none" else "bert."
    pooled = config.pooler_kind == "tanh"
    return {
        **encoder_tensors(body),
        **(linear_tensors("pooler/transform", f"{body}pooler.dense") if pooled else {}),
        **_head_tensors(config),
    }


def encoder_tensors(body: str) -> TensorMap:
    """The tensors of embeddings and layers, which RoBERTa names the same way; `body` is their prefix."""
    layer = f"{body}encoder.layer.{{layer}}"
    tables = {"tokens": "word", "positions": "position", "segments": "token_type"}
    return {
        **{
            f"embed/{path}/embedding": StoredTensor(f"{body}embeddings.{name}_embeddings.weight")
            for path, name in tables.items()
        },
        **norm_tensors("embed/norm", f"{body}embeddings.LayerNorm"),
        **linear_tensors("layers/attention/query", f"{layer}.attention.self.query"),
        **linear_tensors("layers/attention/key", f"{layer}.attention.self.key"),
        **linear_tensors("layers/attention/value", f"{layer}.attention.self.value"),
        **linear_tensors("layers/attention/out", f"{layer}.attention.output.dense"),
        **norm_tensors("layers/attention_norm", f"{layer}.attention.output.LayerNorm"),
        **linear_tensors("layers/mlp/up", f"{layer}.intermediate.dense"),
        **linear_tensors("layers/mlp/down", f"{layer}.output.dense"),
        **norm_tensors("layers/mlp_norm", f"{layer}.output.LayerNorm"),
    }


def _head_tensors(config: ModelConfig) -> TensorMap:
    match config.head:
        case "mlm":
            return _mlm_tensors(config)
        case "mlm_nsp":
            return _mlm_tensors(config) | linear_tensors("nsp", "cls.seq_relationship")
        case "classification" | "token_classification":
            return linear_tensors("classifier", "classifier")
        case "qa":
            return linear_tensors("classifier", "qa_outputs")
    return {}


def _mlm_tensors(config: ModelConfig) -> TensorMap:
    transform = {
        **linear_tensors("mlm/transform", "cls.predictions.transform.dense"),
        **norm_tensors("mlm/norm", "cls.predictions.transform.LayerNorm"),
    }
    if config.tie_embeddings:
        return transform | {"mlm/bias": StoredTensor("cls.predictions.bias")}
    return transform | {
        "mlm/bias": StoredTensor("cls.predictions.decoder.bias"),
        "mlm/kernel": StoredTensor("cls.predictions.decoder.weight"),
        UNREAD: StoredTensor("cls.predictions.bias"),
    }


def _tied(config: ModelConfig) -> Mapping[str, str]:
    if config.head not in ("mlm", "mlm_nsp") or not config.tie_embeddings:
        return {}
    return {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


DESCRIPTION = FamilyDescription(
    model_type="bert",
    architectures={
        "none": "BertModel",
        "mlm_nsp": "BertForPreTraining",
        "mlm": "BertForMaskedLM",
        "classification": "BertForSequenceClassification",
        "token_classification": "BertForTokenClassification",
        "qa": "BertForQuestionAnswering",
    },
    read_config=_read_config,
    write_config=_write_config,
    settings=SETTINGS,
    tensors=_tensors,
    prefixes=("bert.",),
    ignored=(r"embeddings\.(position|token_type)_ids$",),
    tied=_tied,
)
