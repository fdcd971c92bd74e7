"""GPT-2 (Radford et al. 2019): its config.json and tensors as transformers' GPT2 classes have them."""

from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.labels import read_labels, write_labels_of
from flaxmill.model.config_json.settings import (
    A_DECODER,
    ABANDONED,
    DROPOUTS,
    OTHER_HEADS,
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
from flaxmill.model.families.tensor_names import head_tensors, norm_tensors
from flaxmill.model.fields import Head

_SETTINGS = with_common(
    Settings(
        read={
            "vocab_size": whole(50257),
            "n_positions": whole(1024),
            "n_embd": whole(768),
            "n_layer": depth(12),
            "n_head": whole(12),
            "n_inner": whole(None),
            "resid_pdrop": number(0.1),
            "attn_pdrop": number(0.1),
            "layer_norm_epsilon": number(1e-5),
            "activation_function": word("gelu_new"),
            "initializer_range": number(0.02),
            "scale_attn_weights": flag(True),
            "pad_token_id": token(None),
            "bos_token_id": token(50256),
            "eos_token_id": token(50256),
            "tie_word_embeddings": flag(True),
        },
        only={"scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False},
        unused={
            DROPOUTS: ("embd_pdrop", "classifier_dropout", "hidden_dropout"),
            OTHER_HEADS: (
                *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
                *("summary_first_dropout", "summary_last_dropout"),
            ),
            ABANDONED: ("n_ctx", "n_special", "predict_special_tokens"),
            A_DECODER: ("is_decoder",),
        },
        aliases={
            "hidden_size": "n_embd",
            "max_position_embeddings": "n_positions",
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
        },
        depths={"n_layer": "h."},
    )
)


def _read_config(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> ModelConfig:
    values = fill_in(_SETTINGS, values)
    return ModelConfig(
        family="gpt2",
        vocab_size=values["vocab_size"],
        max_positions=values["n_positions"],
        num_layers=values["n_layer"],
        embed_dim=values["n_embd"],
        num_heads=values["n_head"],
        mlp_dim=values["n_inner"],
        causal=True,
        head=head,
        **read_labels(values, head),
        pooling="last" if head == "classification" else "first",
        norm_epsilon=values["layer_norm_epsilon"],
        attention_scale=None if values["scale_attn_weights"] else 1.0,
        activation=read_activation(values, "activation_function"),
        tie_embeddings=values["tie_word_embeddings"],
        initializer="gpt2",
        initializer_std=values["initializer_range"],
        dropout=values["resid_pdrop"],
        attention_dropout=values["attn_pdrop"],
        **read_token_ids(values),
    )


def _write_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.max_positions,
        "n_layer": config.num_layers,
        "n_embd": config.embed_dim,
        "n_head": config.num_heads,
        "n_inner": config.mlp_dim,
        "activation_function": write_activation(config, tanh="gelu_new"),
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout_rate,
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": config.initializer_std,
        "scale_attn_weights": config.attention_scale != 1.0,
        "tie_word_embeddings": config.tie_embeddings,
        **write_token_ids(config),
        **write_labels_of(config),
    }


def _tensors(config: ModelConfig) -> TensorMap:
    body = _body(config)
    layer = f"{body}h.{{layer}}."
    tensors = {
        "embed/tokens/embedding": StoredTensor(f"{body}wte.weight"),
        "embed/positions/embedding": StoredTensor(f"{body}wpe.weight"),
        **norm_tensors("layers/attention_norm", f"{layer}ln_1"),
        **norm_tensors("layers/mlp_norm", f"{layer}ln_2"),
        **norm_tensors("final_norm", f"{body}ln_f"),
        **head_tensors(config, lm="lm_head", tokens="classifier"),
    }
    # GPT-2's Conv1D stores [in, out] as this project does: nothing is transposed.
    for part, name in enumerate(("query", "key", "value")):
        for leaf, stored in (("kernel", "weight"), ("bias", "bias")):
            place = StoredTensor(f"{layer}attn.c_attn.{stored}", part=part, parts=3)
            tensors[f"layers/attention/{name}/{leaf}"] = place
    for path, name in (("attention/out", "attn.c_proj"), ("mlp/up", "mlp.c_fc"), ("mlp/down", "mlp.c_proj")):
        tensors[f"layers/{path}/kernel"] = StoredTensor(f"{layer}{name}.weight")
        tensors[f"layers/{path}/bias"] = StoredTensor(f"{layer}{name}.bias")
    return tensors


def _tied(config: ModelConfig) -> Mapping[str, str]:
    return {"lm_head.weight": f"{_body(config)}wte.weight"} if config.tie_embeddings else {}


def _body(config: ModelConfig) -> str:
    return "" if config.head == "none" else "transformer."


DESCRIPTION = FamilyDescription(
    model_type="gpt2",
    architectures={
        "none": "GPT2Model",
        "lm": "GPT2LMHeadModel",
        "classification": "GPT2ForSequenceClassification",
        "token_classification": "GPT2ForTokenClassification",
        "qa": "GPT2ForQuestionAnswering",
    },
    read_config=_read_config,
    write_config=_write_config,
    settings=_SETTINGS,
    tensors=_tensors,
    prefixes=("transformer.",),
    ignored=(r"\.attn\.(masked_)?bias$",),
    tied=_tied,
)
