"""Saved tokenizers: AutoTokenizer reads them without a word of warning and gives the same ids."""

import logging

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from flaxmill.model.config import ModelConfig
from flaxmill.model.tokenizer_files import special_tokens, token_ids, write_tokenizer
from flaxmill.model.weight_writing import PartialFiles

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


def reload(tokenizer: tokenizers.Tokenizer, config: ModelConfig, directory, caplog):
    with PartialFiles(directory) as files:
        write_tokenizer(files, tokenizer.to_str(), config)
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
        (["<|endoftext|>"], {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
        (
            ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            {
                "unk_token": "<unk>",
                "pad_token": "<pad>",
                "mask_token": "<mask>",
                "cls_token": "<s>",
                "sep_token": "</s>",
                "bos_token": "<s>",
                "eos_token": "</s>",
            },
        ),
        (["<unk>", "<s>", "</s>"], {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}),
        (["<pad>", "</s>", "<unk>"], {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}),
    ],
    ids=["gpt2", "roberta", "llama", "t5"],
)
def test_special_tokens_are_known_by_their_names(specials, roles):
    assert special_tokens(byte_level(specials).to_str()) == roles


def test_ids_are_those_of_the_roles():
    assert token_ids(byte_level(["<unk>", "<s>", "</s>"]).to_str()) == {"bos_id": 1, "eos_id": 2}
    assert token_ids(word_piece().to_str()) == {"pad_id": 0}
