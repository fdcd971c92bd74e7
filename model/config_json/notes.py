"""Keys of a config.json that no model computes with: decoding, which has its own file, and notes."""

GENERATION_KEYS = (
    "assistant_confidence_threshold", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens",
    "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty", "epsilon_cutoff", "eos_token_ids", "eta_cutoff",
    "exponential_decay_length_penalty", "force_bos_token_to_be_generated", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "max_length", "max_new_tokens", "min_length",
    "no_repeat_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty",
    "return_dict_in_generate", "suppress_tokens", "target_lookbehind", "temperature", "top_k", "top_p",
    "typical_p",
)  # fmt: skip
NOTES = (
    "custom_pipelines", "finetuning_task", "language", "name", "name_or_path", "output_past", "prefix",
    "task_specific_params", "tf_legacy_loss", "transformers.js_config", "transformers_version",
    "unsloth_fixed", "unsloth_version", "xla_device",
)  # fmt: skip
