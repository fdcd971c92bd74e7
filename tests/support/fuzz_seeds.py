"""Valid files and directories that fuzzing begins with, each as small as its kind can be."""

import bz2
import gzip
import json
import lzma
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chats import HEADERS, INSTRUCTIONS, MARKED, THOUGHTS, WITHOUT_SYSTEM, write_jsonl, write_tokenizer
from small_tokenizers import directory_of

TEXT = "the quick brown fox jumps over a lazy dog while rain falls on old stones\n\nwho knows? not I\n\n"

# The tokenizer in each model's directory.
MODELS = {
    "bert": "bert", "bert_pretraining": "bert", "bert_classification": "bert", "bert_multi_label": "bert",
    "bert_qa": "bert", "roberta": "roberta", "roberta_tokens": "roberta", "modernbert": "bert",
    "modernbert_yarn_rope": "bert", "gpt2": "gpt2", "gpt2_classification": "gpt2", "gpt_neo": "gpt2",
    "gpt_neox": "gpt2", "llama": "llama", "llama3_rope": "llama", "llama_yarn_rope": "llama",
    "llama_longrope": "llama", "qwen2_window": "gpt2", "qwen3": "gpt2", "mixtral": "llama",
    "qwen3_moe": "gpt2", "t5": "t5", "t5_v1_1": "t5", "marian": "t5",
}  # fmt: skip
_SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "d_ff"), 8),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 8),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("decoder_attention_heads",), 2),
    **dict.fromkeys(("head_dim", "d_kv"), 4),
    **{"num_decoder_layers": 1, "num_key_value_heads": 1, "vocab_size": 330},
    **{"attention_types": [[["local"], 1]]},
}


def write_models(directory: Path) -> list[Path]:
    """Write a directory for each of MODELS, with one layer of width 8 and its tokenizer."""
    from flaxmill.train.parity.small_models import SMALL, make_reference

    made = []
    for name, kind in MODELS.items():
        small = SMALL[name]
        settings = {key: _SIZES.get(key, value) for key, value in small.settings.items()}
        if name == "llama_longrope":
            settings["rope_parameters"] = settings["rope_parameters"] | {
                "short_factor": [1.0, 1.5],
                "long_factor": [1.5, 4.0],
            }
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SMALL, name, small._replace(settings=settings))
            make_reference(name, directory / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(directory_of(kind) / file, directory / name / file)
        made.append(directory / name)
    return made


def write_sentence_modules(models: list[Path], directory: Path) -> list[Path]:
    """Write the models as sentence-transformers does, with a projection."""
    from safetensors.numpy import save_file

    made = []
    for model in models:
        target = shutil.copytree(model, directory / model.name)
        modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
        files: dict[str, Any] = {
            "modules": [
                {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for n, (path, kind) in enumerate(modules.items())
            ],
            "sentence_bert_config": {"max_seq_length": 24, "do_lower_case": True},
            "config_sentence_transformers": {"prompts": {"query": "q: "}, "default_prompt_name": "query"},
            "1_Pooling/config": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            "2_Dense/config": {"activation_function": "torch.nn.modules.activation.Tanh"},
        }
        for name, values in files.items():
            (target / name).parent.mkdir(exist_ok=True)
            (target / f"{name}.json").write_text(json.dumps(values))
        save_file({"linear.weight": np.ones((3, 16), np.float32)}, target / "2_Dense" / "model.safetensors")
        made.append(target)
    return made


def write_sharded(models: list[Path], directory: Path) -> list[Path]:
    """Write the models with their tensors in two files, and an index of these."""
    from safetensors.numpy import load_file, save_file

    made = []
    for model in models:
        target = shutil.copytree(model, directory / model.name)
        tensors = load_file(target / "model.safetensors")
        (target / "model.safetensors").unlink()
        names = sorted(tensors)
        halves = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
        for file, held in halves.items():
            save_file({name: tensors[name] for name in held}, target / file)
        weight_map = {name: file for file, held in halves.items() for name in held}
        index = {"metadata": {"total_size": 100}, "weight_map": weight_map}
        (target / "model.safetensors.index.json").write_text(json.dumps(index))
        made.append(target)
    return made


def write_tokenizers(directory: Path) -> list[Path]:
    """Write a directory with a text and a tokenizer.json for each common kind."""
    made = []
    for kind in ("bert", "roberta", "gpt2", "llama", "t5"):
        target = shutil.copytree(directory_of(kind), directory / f"tokenizer-{kind}")
        _write_examples(target)
        made.append(target)
    return made


def _write_examples(directory: Path) -> None:
    """Write the examples that each objective reads."""
    (directory / "text.txt").write_text(TEXT)
    (directory / "rows.jsonl").write_bytes(json_lines(ROWS))
    (directory / "tagged.jsonl").write_bytes(json_lines(TAGGED))
    (directory / "squad.json").write_text(json.dumps(QUESTIONS))
    write_jsonl(directory / "chats.jsonl", *CHATS)


def write_chats(directory: Path) -> list[Path]:
    """Write conversations, and a tokenizer with each of several chat templates."""
    made = []
    for number, template in enumerate((HEADERS, INSTRUCTIONS, MARKED, THOUGHTS)):
        target = write_tokenizer(directory / f"chats-{number}")
        (target / "chat_template.jinja").write_text(template)
        write_jsonl(target / "chats.jsonl", *CHATS)
        made.append(target)
    return made


def write_vocabularies(directory: Path) -> list[Path]:
    """Write vocab.txt with BERT's settings, and vocab.json with merges.txt with GPT-2's and RoBERTa's."""
    import tokenizers

    made = []
    for name, kind, class_name in (
        ("words", "bert", "BertTokenizer"),
        ("gpt2", "gpt2", "GPT2Tokenizer"),
        ("roberta", "roberta", "RobertaTokenizer"),
    ):
        (target := directory / f"vocabulary-{name}").mkdir(parents=True)
        inner = tokenizers.Tokenizer.from_file(str(directory_of(kind) / "tokenizer.json"))
        inner.model.save(str(target))
        settings = {"tokenizer_class": class_name}
        (target / "tokenizer_config.json").write_text(json.dumps(settings))
        _write_examples(target)
        made.append(target)
    return made


def write_sentence_pieces(directory: Path) -> list[Path]:
    """Write SentencePiece models of both kinds, which stand alone."""
    import sentencepiece

    made = []
    for kind in ("bpe", "unigram"):
        (target := directory / f"pieces-{kind}").mkdir(parents=True)
        sentencepiece.SentencePieceTrainer.train(  # type: ignore[attr-defined]
            sentence_iterator=iter(TEXT.splitlines() * 9),
            model_prefix=str(target / "tokenizer"),
            model_type=kind,
            vocab_size=300,
            hard_vocab_limit=False,
            byte_fallback=True,
            minloglevel=2,
        )
        (target / "tokenizer.vocab").unlink()
        _write_examples(target)
        made.append(target)
    return made


CHATS = [
    WITHOUT_SYSTEM,
    [{"from": "human", "value": "who jumps?"}, {"from": "gpt", "value": "<think>the fox</think>fox"}],
    [
        {"role": "user", "content": "Déjà"},
        {"role": "assistant", "content": "vu 鉄 😀", "name": "x", "weight": 1},
    ],
    [{"role": "user", "content": ""}, {"role": "assistant", "content": " "}],
]
ROWS = [
    {"text": "the mill stands by the river", "label": "a", "pair": "it turns", "target": "mühle", "n": 0.5},
    {"text": 'the "wheel", it turns', "label": "b", "pair": "all day", "target": "rad", "n": -1},
    {"text": "rain falls\non stones", "label": "a", "pair": "who knows", "target": "regen", "n": 2e3},
    {"text": "a dog; a fox | a cat", "label": "b", "pair": "not I", "target": "hund", "n": 7},
    {"text": "Déjà vu 鉄", "label": "a", "pair": "😀", "target": "x", "n": None},
]
TAGGED = [
    {"text": ["Ana", "sings", "in", "Porto"], "label": ["B-PER", "O", "O", "B-LOC"]},
    {"text": ["rain", "falls"], "label": ["O", "O"]},
    {"text": ["Fox", "\u00a0", "dog"], "label": ["B-PER", "O", "O"]},
    {"text": ["who", "knows"], "label": ["O", "O"]},
]
QUESTIONS = {
    "version": "2.0",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": f"the {animal} jumps over a lazy dog",
                    "qas": [
                        {
                            "id": f"{animal}{number}",
                            "question": "who jumps?",
                            "answers": [{"text": animal, "answer_start": 4}] if number else [],
                            "is_impossible": not number,
                        }
                        for number in range(2)
                    ],
                }
                for animal in ("fox", "cat")
            ],
        }
    ],
}


def delimited(delimiter: str) -> bytes:
    """ROWS under a header, quoted where they must be."""

    def field(value: Any) -> str:
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if set(text) & set('"\n\t,;') else text

    lines = [delimiter.join(ROWS[0]), *(delimiter.join(map(field, row.values())) for row in ROWS)]
    return ("\n".join(lines) + "\n").encode()


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


CONLL = "\n".join(
    "".join(f"{word}\t_\t{tag}\n" for word, tag in zip(row["text"], row["label"], strict=True))
    for row in TAGGED
).encode()
TABLES: Mapping[str, tuple[bytes, ...]] = {
    "csv": (delimited(","), delimited(";"), b"text,label\nthe mill,a\nthe cat,b\na fox,a\na dog,b\n"),
    "tsv": (delimited("\t"), delimited("\t").replace(b"\n", b"\r\n")),
    "jsonl": (json_lines(ROWS), json_lines(TAGGED)),
    "json": (json.dumps(ROWS).encode(), json.dumps(TAGGED, indent=1).encode(), json_lines(ROWS)),
    "conll": (b"-DOCSTART- -X- O\n\n" + CONLL, b"# id 1\tdomain=en\n" + CONLL.replace(b"\t", b" ")),
    "squad": (json.dumps(QUESTIONS).encode(), json.dumps(QUESTIONS, indent=1).encode()),
}
PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def parquet_tables() -> tuple[bytes, ...]:
    """ROWS with and without compression and dictionaries, and tagged sentences."""
    import io

    import pyarrow
    import pyarrow.parquet

    made = []
    kinds: list[tuple[list, dict[str, Any]]] = [
        (ROWS, {"compression": "none", "use_dictionary": False}),
        (ROWS, {"compression": "snappy", "data_page_version": "2.0"}),
        (ROWS, {"compression": "gzip", "write_page_index": True, "row_group_size": 2}),
        (TAGGED, {"compression": "zstd"}),
    ]
    for rows, settings in kinds:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file := io.BytesIO(), **settings)
        made.append(file.getvalue())
    return tuple(made)
