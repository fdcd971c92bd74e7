"""Small labelled files of every task, and experiments that learn them in seconds."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer import OptimizerConfig

KINDS = {
    "animal": ("cat", "dog", "cow", "horse", "bird"),
    "food": ("bread", "cheese", "apple", "soup", "rice"),
    "place": ("town", "river", "mountain", "road", "sea"),
}
FILLERS = ["the", "a", "big", "small", "near", "old", "new", "of", "with", "and", "very", "red", "green"]
NUM_TRAIN, NUM_VALID = 160, 24
TASKS = ("classify", "regress", "pairs", "tag", "answer", "translate", "continue")


def write_task(name: str, directory: Path) -> tuple[Path, Path]:
    """Training and held-out file of a task."""
    draw = random.Random(0)
    suffix = ".json" if name == "answer" else ".csv" if name in ("classify", "regress", "pairs") else ".jsonl"
    paths = []
    for split, number in (("train", NUM_TRAIN), ("valid", NUM_VALID)):
        path = directory / f"{name}-{split}{suffix}"
        rows = [_ROWS[name](draw) for _ in range(number)]
        _write(path, rows)
        paths.append(path)
    return paths[0], paths[1]


def task_experiment(name: str, files: tuple[Path, Path], run_dir: Path, **changes: Any) -> Experiment:
    """Two layers of 32 with dropout, on one device."""
    columns: dict[str, Any] = {"pair_column": "pair"} if name == "pairs" else {}
    columns |= {"label_type": "number"} if name == "regress" else {}
    shape: dict[str, Any] = {"num_layers": 2, "embed_dim": 32, "num_heads": 4, "dropout": 0.1}
    if name == "translate":
        shape |= {"encoder_layers": 2}
    if name in ("pairs", "answer"):
        shape |= {"num_segments": 2}
    settings: dict[str, Any] = {
        "name": name,
        "objective": OBJECTIVES[name],
        "steps": 8,
        "batch_size": 16,
        "log_every": 1,
        "run_dir": str(run_dir),
        "model": ModelConfig(**shape),
        "mesh": MeshConfig(data=1),
        "optimizer": OptimizerConfig(learning_rate=3e-3),
    }
    data: dict[str, Any] = {
        "files": (str(files[0]),),
        "valid_files": (str(files[1]),),
        "tokenizer": "bpe" if name in ("translate", "continue", "classify") else "wordpiece",
        "vocab_size": 300,
        "sequence_length": 32,
        "target_length": 16,
        "stride": 8,
    }
    model = changes.pop("model", {})
    settings["model"] = ModelConfig(**(shape | model))
    settings["data"] = DataConfig(**(data | columns | changes.pop("data", {})))
    return Experiment(**(settings | changes))


OBJECTIVES = {
    "classify": "classification",
    "regress": "classification",
    "pairs": "classification",
    "tag": "token_classification",
    "answer": "question_answering",
    "translate": "seq2seq",
    "continue": "seq2seq",
}


def _sentence(draw: random.Random, word: str) -> list[str]:
    words = draw.choices(FILLERS, k=draw.randint(3, 8))
    words.insert(draw.randrange(len(words)), word)
    return words


def _pick(draw: random.Random) -> tuple[str, str]:
    kind = draw.choice(list(KINDS))
    return kind, draw.choice(KINDS[kind])


def _labelled(draw: random.Random) -> dict[str, Any]:
    kind, word = _pick(draw)
    return {"text": " ".join(_sentence(draw, word)), "label": kind}


def _numbered(draw: random.Random) -> dict[str, Any]:
    kind, word = _pick(draw)
    return {"text": " ".join(_sentence(draw, word)), "label": list(KINDS).index(kind) - 1.0}


def _paired(draw: random.Random) -> dict[str, Any]:
    (kind, word), (other, another) = _pick(draw), _pick(draw)
    label = "same" if kind == other else "different"
    return {
        "text": " ".join(_sentence(draw, word)),
        "pair": " ".join(_sentence(draw, another)),
        "label": label,
    }


def _tagged(draw: random.Random) -> dict[str, Any]:
    kind, word = _pick(draw)
    words = _sentence(draw, word)
    return {"text": words, "label": [kind if each == word else "none" for each in words]}


def _asked(draw: random.Random) -> dict[str, Any]:
    kind, word = _pick(draw)
    context = " ".join(_sentence(draw, word))
    answers = [{"text": word, "answer_start": context.index(word)}] if draw.random() < 0.8 else []
    context = context if answers else " ".join(draw.choices(FILLERS, k=7))
    question = {"question": f"which {kind}", "id": str(draw.random()), "answers": answers}
    question["is_impossible"] = not answers
    return {"context": context, "qas": [question]}


def _translated(draw: random.Random) -> dict[str, Any]:
    words = draw.choices(FILLERS, k=draw.randint(2, 4))
    return {"text": " ".join(words), "target": " ".join(reversed(words))}


_ROWS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "classify": _labelled,
    "regress": _numbered,
    "pairs": _paired,
    "tag": _tagged,
    "answer": _asked,
    "translate": _translated,
    "continue": _translated,
}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps({"version": "2.0", "data": [{"title": "t", "paragraphs": rows}]}))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
