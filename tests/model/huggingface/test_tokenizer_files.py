"""Saved tokenizers: AutoTokenizer reads them without a word of warning and gives the same ids."""

import json
import logging

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from flaxmill.data.examples.framing import framed_json
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface.tokenizer_files import write_tokenizer
from flaxmill.model.huggingface.writing import PartialFiles

TEXTS = ["the quick brown fox jumps over the lazy dog", "a fox, the Dog; and 123 naïve things"]
WORDPIECE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GPT = ModelConfig(vocab_size=300, max_positions=24)
BERT = ModelConfig(vocab_size=300, max_positions=24, num_segments=2)


def byte_level(specials) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def word_piece() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[arg-type]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=WORDPIECE, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def reload(inner: tokenizers.Tokenizer, config: ModelConfig, directory, caplog):
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(inner.to_str()))
    with PartialFiles(directory) as files:
        write_tokenizer(files, framed_json(tokenizer, "template"), tokenizer.settings_with_roles(), config)
        files.commit()
    (directory / "config.json").write_text(
        '{"model_type": "%s"}' % ("bert" if config.num_segments else "gpt2")
    )
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        return AutoTokenizer.from_pretrained(directory)
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)


def test_a_byte_level_tokenizer_gives_the_same_ids(tmp_path, caplog):
    ours = byte_level(["<|endoftext|>", "<|mask|>"])
    theirs = reload(ours, GPT, tmp_path, caplog)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text).ids
        assert theirs.decode(theirs(text)["input_ids"]) == text
    assert (theirs.eos_token, theirs.bos_token, theirs.mask_token) == ("<|endoftext|>",) * 2 + ("<|mask|>",)
    assert theirs.model_max_length == 24
    assert theirs.model_input_names == ["input_ids", "attention_mask"]
    assert caplog.records == []


def test_a_wordpiece_tokenizer_gives_the_same_ids_between_cls_and_sep(tmp_path, caplog):
    ours = word_piece()
    theirs = reload(ours, BERT, tmp_path, caplog)
    first, second = (ours.encode(text).ids for text in TEXTS)
    assert theirs(TEXTS[0], add_special_tokens=False)["input_ids"] == first
    pair = theirs(*TEXTS)
    assert pair["input_ids"] == [2, *first, 3, *second, 3]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert [theirs.pad_token_id, theirs.unk_token_id, theirs.mask_token_id] == [0, 1, 4]
    assert theirs.eos_token is None
    assert caplog.records == []


@pytest.mark.parametrize(
    ("specials", "roles"),
    [
        (["<|endoftext|>"], {"bos": 0, "eos": 0}),
        (
            ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            {"bos": 0, "eos": 2, "unk": 3, "sep": 2, "pad": 1, "cls": 0, "mask": 4},
        ),
        (["<unk>", "<s>", "</s>"], {"bos": 1, "eos": 2, "unk": 0}),
        (["<pad>", "</s>", "<unk>"], {"eos": 1, "unk": 2, "pad": 0}),
    ],
    ids=["gpt2", "roberta", "llama", "t5"],
)
def test_special_tokens_without_settings_are_known_by_their_names(specials, roles):
    assert Tokenizer(byte_level(specials)).roles == roles


def test_the_models_ids_name_the_roles_that_no_settings_name(tmp_path):
    tokenizer = byte_level(["<unk>", "<s>", "</s>"])
    config = ModelConfig(vocab_size=300, max_positions=24, bos_id=1, eos_id=2)
    with PartialFiles(tmp_path) as files:
        write_tokenizer(files, tokenizer.to_str(), {"eos_token": "<unk>"}, config)
        files.commit()
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (written["bos_token"], written["eos_token"]) == ("<s>", "<unk>")
