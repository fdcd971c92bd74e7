"""Small files of labelled examples, one for each task."""

import json
from pathlib import Path

import numpy as np

from flaxmill.data.config import DataConfig, LabelType

TEXT = "the quick brown fox jumps over a lazy dog while rain falls on old stones"
WORDS = TEXT.split()
LABELS = ("animal", "other", "weather")
TASKS = (
    *("classification", "multi_label", "regression", "pairs", "tagging", "answers"),
    *("translation", "prompts"),
)
"""What `write_task` writes; each is an objective with its settings."""

_OBJECTIVES: dict[str, str] = {
    "tagging": "token_classification",
    "answers": "question_answering",
    "translation": "seq2seq",
    "prompts": "seq2seq",
}


_LABEL_TYPES: dict[str, LabelType] = {"regression": "number", "multi_label": "multi_label"}


def objective_of(task: str) -> str:
    return _OBJECTIVES.get(task, "classification")


def has_encoder(task: str) -> bool:
    return task == "translation"


def write_task(directory: Path, task: str, num: int = 60, seed: int = 0) -> DataConfig:
    """Write the file; returns the config that reads it: rows of 24 tokens, or of 64 for seq2seq, so that its
    texts are never cut."""
    rng = np.random.default_rng(seed)
    rows = [_make_row(task, number, rng) for number in range(num)]
    path = directory / f"{task}{seed}.{'json' if task == 'answers' else 'jsonl'}"
    if task == "answers":
        path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": rows}]}))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(
        files=(str(path),),
        pair_column="pair" if task == "pairs" else None,
        label_type=_LABEL_TYPES.get(task, "category"),
        tokenizer="bpe" if task in ("translation", "prompts") else "wordpiece",
        vocab_size=300,
        sequence_length=64 if task in ("translation", "prompts") else 24,
        target_length=24,
        stride=6,
        valid_fraction=0.2,
    )


def _make_row(task: str, number: int, rng: np.random.Generator) -> dict:
    words = rng.choice(WORDS, rng.integers(3, 12)).tolist()
    text = " ".join(words)
    match task:
        case "regression":
            return {"text": text, "label": len(words) / 4}
        case "multi_label":
            return {
                "text": text,
                "label": [label for place, label in enumerate(LABELS) if number >> place & 1],
            }
        case "pairs":
            return {"text": text, "pair": " ".join(words[::-1]), "label": LABELS[number % 3]}
        case "tagging":
            return {
                "text": words,
                "label": ["animal" if word in ("fox", "dog") else "other" for word in words],
            }
        case "answers":
            context = " ".join([text, *rng.choice(WORDS, 20)])
            answers = [{"text": words[1], "answer_start": len(words[0]) + 1}] if number % 4 else []
            question = {"id": str(number), "question": words[0], "answers": answers}
            return {"context": context, "qas": [question]}
        case "translation" | "prompts":
            return {"text": text, "target": " ".join(words[:3][::-1])}
        case _:
            return {"text": text, "label": LABELS[number % 3]}
