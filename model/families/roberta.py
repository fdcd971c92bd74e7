"""RoBERTa (Liu et al. 2019): BERT's encoder, with positions that begin after the padding's id."""

from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.settings import fill_in, token, whole
from flaxmill.model.families import bert
from flaxmill.model.families.bert import UNREAD, encoder_tensors, read_encoder, write_encoder
from flaxmill.model.families.description import FamilyDescription
from flaxmill.model.families.stored_tensors import StoredTensor, TensorMap
from flaxmill.model.families.tensor_names import linear_tensors, norm_tensors
from flaxmill.model.fields import Head

_SETTINGS = bert.SETTINGS._replace(
    read=bert.SETTINGS.read
    | {
        "vocab_size": whole(50265),
        "pad_token_id": whole(1, or_null=True, least=0),
        "bos_token_id": token(0),
        "eos_token_id": token(2),
    }
)


def _read_config(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> ModelConfig:
    values = fill_in(_SETTINGS, values)
    if values["pad_token_id"] is None:
        raise ValueError(
            "config.json: pad_token_id=null leaves open where positions begin; give the padding's id"
        )
    fields = read_encoder(values, head, names)
    if head == "mlm" and fields["activation"] != "gelu":
        raise ValueError(
            f"config.json: hidden_act={values['hidden_act']!r} is not supported with a masked-language-model "
            "head, whose own activation is gelu in RoBERTa; read it with head='none'"
        )
    offset = values["pad_token_id"] + 1
    return ModelConfig(
        family="roberta",
        position_offset=offset,
        max_positions=values["max_position_embeddings"] - offset,
        **fields,
    )


def _write_config(config: ModelConfig) -> dict[str, Any]:
    offset = max(config.position_offset, 1)  # one more than the padding's id
    rows = {} if config.max_positions is None else {"max_position_embeddings": config.max_positions + offset}
    return {**write_encoder(config), **rows, "pad_token_id": offset - 1}


def _tensors(config: ModelConfig) -> TensorMap:
    body = "" if config.head == "none" else "roberta."
    return encoder_tensors(body) | _head_tensors(config)


def _head_tensors(config: ModelConfig) -> TensorMap:
    match config.head:
        case "none" if config.pooler_kind == "tanh":
            return linear_tensors("pooler/transform", "pooler.dense")
        case "mlm":
            return _mlm_tensors(config)
        case "classification":
            return {
                **linear_tensors("pooler/transform", "classifier.dense"),
                **linear_tensors("classifier", "classifier.out_proj"),
            }
        case "token_classification":
            return linear_tensors("classifier", "classifier")
        case "qa":
            return linear_tensors("classifier", "qa_outputs")
    return {}


def _mlm_tensors(config: ModelConfig) -> TensorMap:
    transform = {
        **linear_tensors("mlm/transform", "lm_head.dense"),
        **norm_tensors("mlm/norm", "lm_head.layer_norm"),
    }
    if config.tie_embeddings:
        return transform | {"mlm/bias": StoredTensor("lm_head.bias")}
    return transform | {
        "mlm/bias": StoredTensor("lm_head.decoder.bias"),
        "mlm/kernel": StoredTensor("lm_head.decoder.weight"),
        UNREAD: StoredTensor("lm_head.bias"),
    }


def _tied(config: ModelConfig) -> Mapping[str, str]:
    if config.head != "mlm" or not config.tie_embeddings:
        return {}
    return {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }


DESCRIPTION = FamilyDescription(
    model_type="roberta",
    architectures={
        "none": "RobertaModel",
        "mlm": "RobertaForMaskedLM",
        "classification": "RobertaForSequenceClassification",
        "token_classification": "RobertaForTokenClassification",
        "qa": "RobertaForQuestionAnswering",
    },
    read_config=_read_config,
    write_config=_write_config,
    settings=_SETTINGS,
    tensors=_tensors,
    prefixes=("roberta.",),
    ignored=(r"embeddings\.(position|token_type)_ids$",),
    tied=_tied,
)
