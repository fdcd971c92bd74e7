"""How files are changed: the keys and words of each kind, some of them meant for another place."""

from fuzz_mutations import change_bytes, change_json, change_lines

from flaxmill.data.tokenizer.settings import MEANINGLESS_KEYS, READ_KEYS
from flaxmill.model.config_json.notes import GENERATION_KEYS
from flaxmill.model.config_json.rope import ROPE_KEYS
from flaxmill.model.config_json.values import _ACTIVATIONS
from flaxmill.model.families.table import FAMILIES
from flaxmill.model.huggingface.sentence_modules import _FLAGS
from flaxmill.train.experiment import Experiment, flatten

CONFIG_KEYS = sorted({key for family in FAMILIES.values() for key in [*family.settings.keys()]})
ROPE_NAMES = sorted({*ROPE_KEYS, *(key for keys in ROPE_KEYS.values() for key in keys), "rope_theta", "type"})
WORDS = sorted({*_ACTIVATIONS, *ROPE_KEYS, *FAMILIES, "full_attention", "sliding_attention", "mean", "cls"})
ARCHITECTURES = sorted({name for family in FAMILIES.values() for name in family.architectures.values()})
change_config = change_json([*CONFIG_KEYS, *ROPE_NAMES], [*WORDS, *ARCHITECTURES])
change_settings = change_json(
    sorted({*READ_KEYS, *MEANINGLESS_KEYS, *GENERATION_KEYS, "image_token"}),
    ["[CLS]", "<s>", "</s>", "<unk>", "BertTokenizer", "GPT2Tokenizer", "RobertaTokenizer", "left", "right"],
)
TOKENIZER_KEYS = (
    *("model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "truncation"),
    *("padding", "type", "vocab", "merges", "unk_token", "unk_id", "dropout", "byte_fallback", "pattern"),
    *("Regex", "String", "behavior", "content", "single", "pair", "special_tokens", "ids", "tokens", "id"),
    *("max_input_chars_per_word", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk"),
    *("normalizers", "pretokenizers", "precompiled_charsmap", "prepend_scheme", "replacement", "split"),
    *("add_prefix_space", "trim_offsets", "use_regex", "lowercase", "strip_accents", "normalized", "special"),
    *("max_length", "stride", "strategy", "direction", "pad_id", "pad_token", "ignore_merges", "invert"),
)
TOKENIZER_WORDS = (
    *("BPE", "WordPiece", "WordLevel", "Unigram", "BertNormalizer", "Sequence", "NFC", "Replace", "Prepend"),
    *("Precompiled", "Strip", "Nmt", "ByteLevel", "Metaspace", "Split", "Digits", "Punctuation"),
    *(
        "Whitespace",
        "UnicodeScripts",
        "FixedLength",
        "CharDelimiterSplit",
        "TemplateProcessing",
        "BertProcessing",
        "CTC",
    ),
    *("RobertaProcessing", "Fuse", "ByteFallback", "BPEDecoder", "Isolated", "Removed", "MergedWithNext"),
    *("(a+)+$", "(.*)*x", "(?=", "\\p{L}+|", "[", "(a|a)*b", "^", "$", "", "(.|\\s)*?z", "\\1", "(?<=a*)b"),
    *("[CLS]", "<s>", "[UNK]", "Ġ", "##", "AAAA", "/wAA", "ALIgAACEAAAA"),
)
change_tokenizer = change_json(TOKENIZER_KEYS, TOKENIZER_WORDS)
change_rows = change_json(
    ["text", "label", "pair", "target", "n", "question", "context", "answers", "answer_start", "data", "qas"],
    ["a", "b", "a|b", "B-PER", "I-", "O", "the", "fox", "|", "||"],
)
change_chats = change_json(
    ["messages", "conversations", "role", "content", "from", "value", "tool_calls", "name"],
    ["system", "user", "assistant", "tool", "human", "gpt", "<|im_end|>", "\ufdd0", "</think>"],
)
CHANGE_TEXT = (change_bytes, change_bytes, change_lines)
change_modules = change_json(
    [*("type", "path", "max_seq_length", "pooling_mode", "default_prompt_name", "use_residual"), *_FLAGS],
    [
        "x.Dense",
        "x.Normalize",
        "x.Pooling",
        "../x",
        "/",
        "1_Pooling",
        "",
        "cls",
        "lasttoken",
        "torch.nn.GELU",
    ],
)
DATASET_NAMES = (
    *("shards", "settings", "layout", "statistics", "labels", "vocab_size", "sequence_length", "train"),
)
change_row = change_json(["step", "loss", "eval_loss", "batch_offset", "num_tokens"])
change_reported = change_json(
    ["step", "sample", "prediction", "label", "statistics", "lengths", "train", "valid", "skipped_steps"],
    ["a", "b", "rollback_from", "spike_loss", "skipped_batches", "eval_loss", "label_counts"],
)
change_experiment = change_json(
    sorted(name.rpartition(".")[2] for name in flatten(Experiment())),
    ["bytes", "bpe", "causal", "mlm", "lora"],
)
