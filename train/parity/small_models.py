"""Small random models of every family, built by transformers, on which parity is shown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

PERTURBATION = (
    0.1  # at initialisation norms are 1, biases 0 and activations small: many mistakes would not show
)


class SmallModel(NamedTuple):
    """One model: the classes of transformers that make it, and its sizes."""

    config: str
    architecture: str
    settings: Mapping[str, Any]


# Sizes are odd and differ from each other, so that a swapped dimension cannot pass; depths are not a multiple
# of the pattern of local layers, and windows are shorter than the rows that parity reads.
_BERT = {
    "vocab_size": 101,
    "hidden_size": 30,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "intermediate_size": 44,
    "max_position_embeddings": 40,
}
_ROBERTA = _BERT | {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 42}
_MODERNBERT = _BERT | {
    "num_hidden_layers": 5,
    "local_attention": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "cls_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
}
_GPT2 = {
    "vocab_size": 101,
    "n_embd": 30,
    "n_layer": 3,
    "n_head": 5,
    "n_inner": 44,
    "n_positions": 40,
    "bos_token_id": 100,
    "eos_token_id": 100,
}
_GPT_NEO = {
    "vocab_size": 101,
    "hidden_size": 30,
    "num_layers": 3,
    "attention_types": [[["global", "local"], 1], [["global"], 1]],
    "num_heads": 5,
    "intermediate_size": 44,
    "window_size": 5,
    "max_position_embeddings": 40,
    "bos_token_id": 100,
    "eos_token_id": 100,
}
_GPT_NEOX = {
    "vocab_size": 101,
    "hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "intermediate_size": 52,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5},
    "max_position_embeddings": 40,
    "bos_token_id": 100,
    "eos_token_id": 100,
}
_LLAMA = {
    "vocab_size": 101,
    "hidden_size": 30,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 44,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    "max_position_embeddings": 40,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Qwen2 has no head_dim of its own: 36 / 6.
_QWEN2 = {name: value for name, value in _LLAMA.items() if name != "head_dim"} | {"hidden_size": 36}
_MIXTRAL = _LLAMA | {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 14}
_QWEN3_MOE = _LLAMA | {
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 14,
    "norm_topk_prob": True,
}
_BALANCED = {"output_router_logits": True, "router_aux_loss_coef": 0.1}
_T5 = {
    "vocab_size": 101,
    "d_model": 30,
    "d_kv": 8,
    "d_ff": 44,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
}
_MARIAN = {
    "vocab_size": 101,
    "d_model": 30,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 5,
    "encoder_ffn_dim": 44,
    "decoder_ffn_dim": 52,
    "max_position_embeddings": 40,
    "activation_function": "swish",
    "scale_embedding": True,
    "pad_token_id": 100,
    "decoder_start_token_id": 100,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
_YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10.0,
    "factor": 4.0,
    "original_max_position_embeddings": 10,
    "beta_fast": 0.8,  # so that some of the few turns lie between the two limits
    "beta_slow": 0.2,
}
_DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 3.0}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "original_max_position_embeddings": 12,
    "factor": 4.0,
    "short_factor": [1.0, 1.1, 1.2, 1.5],
    "long_factor": [1.5, 2.0, 3.0, 4.5],
}
_PADDED = {"pad_token_id": 0, "num_labels": 3}  # classification finds a row's end by its padding

SMALL: dict[str, SmallModel] = {
    "bert": SmallModel("BertConfig", "BertForMaskedLM", _BERT),
    "bert_pretraining": SmallModel("BertConfig", "BertForPreTraining", _BERT),
    "bert_classification": SmallModel(
        "BertConfig", "BertForSequenceClassification", _BERT | {"num_labels": 3}
    ),
    "bert_multi_label": SmallModel(
        "BertConfig",
        "BertForSequenceClassification",
        _BERT | {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "bert_qa": SmallModel("BertConfig", "BertForQuestionAnswering", _BERT),
    "bert_tokens": SmallModel("BertConfig", "BertForTokenClassification", _BERT | {"num_labels": 3}),
    "bert_encoder": SmallModel("BertConfig", "BertModel", _BERT),
    "bert_gelu_new": SmallModel("BertConfig", "BertForMaskedLM", _BERT | {"hidden_act": "gelu_new"}),
    "roberta": SmallModel("RobertaConfig", "RobertaForMaskedLM", _ROBERTA),
    "roberta_classification": SmallModel(
        "RobertaConfig", "RobertaForSequenceClassification", _ROBERTA | {"num_labels": 3}
    ),
    "roberta_regression": SmallModel(
        "RobertaConfig", "RobertaForSequenceClassification", _ROBERTA | {"num_labels": 1}
    ),
    "roberta_tokens": SmallModel(
        "RobertaConfig", "RobertaForTokenClassification", _ROBERTA | {"num_labels": 3}
    ),
    "roberta_qa": SmallModel("RobertaConfig", "RobertaForQuestionAnswering", _ROBERTA),
    "roberta_encoder": SmallModel("RobertaConfig", "RobertaModel", _ROBERTA),
    "modernbert": SmallModel("ModernBertConfig", "ModernBertForMaskedLM", _MODERNBERT),
    "modernbert_classification": SmallModel(
        "ModernBertConfig", "ModernBertForSequenceClassification", _MODERNBERT | {"num_labels": 3}
    ),
    "modernbert_mean": SmallModel(
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        _MODERNBERT | {"num_labels": 3, "classifier_pooling": "mean"},
    ),
    "modernbert_tokens": SmallModel(
        "ModernBertConfig", "ModernBertForTokenClassification", _MODERNBERT | {"num_labels": 3}
    ),
    "modernbert_qa": SmallModel("ModernBertConfig", "ModernBertForQuestionAnswering", _MODERNBERT),
    "modernbert_yarn_rope": SmallModel(
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        _MODERNBERT
        | {
            "rope_parameters": {
                "full_attention": _YARN_ROPE,
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            }
        },
    ),
    "modernbert_encoder": SmallModel("ModernBertConfig", "ModernBertModel", _MODERNBERT),
    "gpt2": SmallModel("GPT2Config", "GPT2LMHeadModel", _GPT2),
    "gpt2_classification": SmallModel("GPT2Config", "GPT2ForSequenceClassification", _GPT2 | _PADDED),
    "gpt2_regression": SmallModel(
        "GPT2Config", "GPT2ForSequenceClassification", _GPT2 | _PADDED | {"problem_type": "regression"}
    ),
    "gpt2_encoder": SmallModel("GPT2Config", "GPT2Model", _GPT2),
    "gpt_neo": SmallModel("GPTNeoConfig", "GPTNeoForCausalLM", _GPT_NEO),
    "gpt_neo_classification": SmallModel(
        "GPTNeoConfig", "GPTNeoForSequenceClassification", _GPT_NEO | _PADDED
    ),
    "gpt_neox": SmallModel("GPTNeoXConfig", "GPTNeoXForCausalLM", _GPT_NEOX),
    "gpt_neox_sequential": SmallModel(
        "GPTNeoXConfig", "GPTNeoXForCausalLM", _GPT_NEOX | {"use_parallel_residual": False}
    ),
    "gpt_neox_yarn_rope": SmallModel(
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        _GPT_NEOX | {"rope_parameters": _YARN_ROPE | {"partial_rotary_factor": 0.5}},
    ),
    "gpt_neox_classification": SmallModel(
        "GPTNeoXConfig", "GPTNeoXForSequenceClassification", _GPT_NEOX | _PADDED
    ),
    "llama": SmallModel("LlamaConfig", "LlamaForCausalLM", _LLAMA),
    "llama3_rope": SmallModel("LlamaConfig", "LlamaForCausalLM", _LLAMA | {"rope_parameters": _LLAMA3_ROPE}),
    "llama_linear_rope": SmallModel(
        "LlamaConfig", "LlamaForCausalLM", _LLAMA | {"rope_parameters": _LINEAR_ROPE}
    ),
    "llama_yarn_rope": SmallModel(
        "LlamaConfig", "LlamaForCausalLM", _LLAMA | {"rope_parameters": _YARN_ROPE}
    ),
    "llama_dynamic_rope": SmallModel(
        "LlamaConfig",
        "LlamaForCausalLM",
        _LLAMA | {"rope_parameters": _DYNAMIC_ROPE, "max_position_embeddings": 12},
    ),
    "llama_longrope": SmallModel("LlamaConfig", "LlamaForCausalLM", _LLAMA | {"rope_parameters": _LONGROPE}),
    "llama_tied": SmallModel(
        "LlamaConfig",
        "LlamaForCausalLM",
        _LLAMA | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama_classification": SmallModel("LlamaConfig", "LlamaForSequenceClassification", _LLAMA | _PADDED),
    "mistral": SmallModel("MistralConfig", "MistralForCausalLM", _LLAMA | {"sliding_window": 5}),
    "qwen2": SmallModel("Qwen2Config", "Qwen2ForCausalLM", _QWEN2),
    "qwen2_window": SmallModel(
        "Qwen2Config",
        "Qwen2ForCausalLM",
        _QWEN2 | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": SmallModel("Qwen3Config", "Qwen3ForCausalLM", _LLAMA | {"tie_word_embeddings": True}),
    "qwen3_classification": SmallModel("Qwen3Config", "Qwen3ForSequenceClassification", _LLAMA | _PADDED),
    "mixtral": SmallModel("MixtralConfig", "MixtralForCausalLM", _MIXTRAL | _BALANCED),
    "mixtral_window": SmallModel("MixtralConfig", "MixtralForCausalLM", _MIXTRAL | {"sliding_window": 5}),
    "qwen3_moe": SmallModel("Qwen3MoeConfig", "Qwen3MoeForCausalLM", _QWEN3_MOE | _BALANCED),
    "qwen3_moe_every_second": SmallModel(
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        _QWEN3_MOE | {"decoder_sparse_step": 2, "norm_topk_prob": False, "tie_word_embeddings": True},
    ),
    "t5": SmallModel("T5Config", "T5ForConditionalGeneration", _T5 | {"feed_forward_proj": "relu"}),
    "t5_v1_1": SmallModel(
        "T5Config",
        "T5ForConditionalGeneration",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "marian": SmallModel("MarianConfig", "MarianMTModel", _MARIAN),
}


def make_reference(name: str, directory: Path | str, *, seed: int = 0) -> Any:
    """Build SMALL[name] with transformers, save it below `directory`, and return the torch model.

    The model has float32, eager attention and experts, and no dropout; every weight and stored buffer is
    moved by normal noise of `PERTURBATION`. This needs torch and transformers (the extra `parity`).
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    small = SMALL[name]
    torch.manual_seed(seed)
    config = getattr(transformers, small.config)(**small.settings)
    config._attn_implementation = config._experts_implementation = "eager"
    model = getattr(transformers, small.architecture)(config).eval()
    if small.settings.get("tie_word_embeddings") is False and model.get_output_embeddings() is not None:
        # transformers ties every T5 that it makes; files of T5 1.1 have a head of their own.
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    with torch.no_grad():
        for tensor in _stored(model):
            tensor.add_(torch.randn_like(tensor), alpha=PERTURBATION)
    model.save_pretrained(directory)
    return model


def _stored(model: Any) -> list[Any]:
    """Trained parameters, and Marian's bias of the logits: a buffer that files hold."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return trained + [buffer for name, buffer in model.named_buffers() if name == "final_logits_bias"]
