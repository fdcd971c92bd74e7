"""Small runs, with their checkpoints, and prepared datasets; and what can happen to their files."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzz_mutations import Draw, change_json
from fuzz_seeds import ROWS, TEXT, json_lines

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.best import BestConfig
from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.checkpoint.manifest import checksum
from flaxmill.train.experiment import Experiment

MOVES = (
    *("delete", "directory", "pipe", "loop", "dangling", "empty", "socket", "double", "swap", "endless"),
    *("closed", "file", "number"),
)


def write_run(directory: Path) -> list[Path]:
    """A directory with a `run` in it: a GPT of bytes, trained for two steps with two checkpoints."""
    from flaxmill.train.loop import train

    base = directory / "trained"
    base.mkdir(parents=True)
    (base / "text.txt").write_text(TEXT * 20)
    train(
        Experiment(
            name="fuzzed",
            steps=2,
            batch_size=2,
            log_every=1,
            eval_every=1,
            run_dir=str(base / "run"),
            best=BestConfig(metric="eval_loss"),
            checkpoint=CheckpointConfig(every=1, keep_last=2),
            model=ModelConfig(num_layers=1, embed_dim=8, num_heads=2),
            data=DataConfig(files=(str(base / "text.txt"),), tokenizer="bytes", sequence_length=16),
            mesh=MeshConfig(data=1),
        )
    )
    return [base]


def write_reported(runs: list[Path], directory: Path) -> list[Path]:
    """Copies of the directories, each with predictions and with every kind of row in its run."""
    made = []
    for run in runs:
        target = shutil.copytree(run, directory / run.name)
        predictions = [{"text": "x", "label": "a", "prediction": "b"}, {"label": ["a"], "prediction": ["a"]}]
        (target / "run" / "eval-2").mkdir()
        (target / "run" / "eval-2" / "predictions.jsonl").write_bytes(json_lines(predictions))
        rollback = {"step": 1, "rollback_from": 2, "spike_loss": 9.5, "skipped_batches": [1, 2]}
        with (target / "run" / "metrics.jsonl").open("ab") as file:
            file.write(json_lines([rollback, {"step": 1, "loss": None, "skipped_steps": 1}]))
        made.append(target)
    return made


def write_dataset(inside: Path) -> list[Path]:
    """Write a text and examples, each with its dataset in a cache beside it; both are made `inside`."""
    made = []
    for file, data, objective in (
        ("text.txt", (TEXT * 20).encode(), "causal"),
        ("rows.jsonl", json_lines(ROWS), "classification"),
    ):
        shutil.rmtree(inside, ignore_errors=True)
        inside.mkdir()
        (inside / file).write_bytes(data)
        config = DataConfig(files=(str(inside / file),), sequence_length=24, tokenizer="bytes")
        prepare(config, objective, cache=inside / "cache", log=lambda line: None)
        made.append(shutil.copytree(inside, inside.parent / f"dataset-{objective}"))
    return made


MANIFEST_NAMES = (
    "format",
    "arrays",
    "metadata",
    "dtype",
    "shape",
    "digest",
    "best",
    "step",
    "versions",
    "dataset",
)


def change_manifest(draw: Draw, data: bytes, others: Sequence[bytes]) -> bytes:
    """A change of the manifest within a checkpoint's metadata, mostly with a checksum that fits it."""
    change = change_json(MANIFEST_NAMES, ["params/../../x", "float32", "float8_e4m3fn", "params", "int32"])
    try:
        stored = json.loads(data)
        content = json.loads(change(draw, json.dumps(stored["custom_metadata"]["flaxmill"]).encode(), []))
        stored["custom_metadata"] = {"flaxmill": content, "checksum": checksum(content)}
        return json.dumps(stored).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return change(draw, data, others)


def move(how: str, path: Path, other: Path) -> None:
    """Do to a file or folder what a crash, a copy or a stranger does; `other` may take its place."""
    if not os.path.lexists(path):
        return
    if how == "closed":
        path.chmod(0)
        return
    if how == "double":
        _copy(path, path.with_name(f"{path.name}0"))
        return
    moved = path.with_name("7")
    if how == "number" and not os.path.lexists(moved):
        path.rename(moved)
        return
    _MAKERS.get(how, _nothing)(_removed(path))
    if how == "swap":
        _copy(other, path)


def _removed(path: Path) -> Path:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return path


def _nothing(path: Path) -> None:
    """Put nothing in its place."""


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # only short paths are allowed


_MAKERS: dict[str, Callable[[Path], object]] = {
    "directory": Path.mkdir,
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nothing"),
    "empty": Path.touch,
    "socket": _make_socket,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "file": lambda path: path.write_bytes(b"{}\n"),
}


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(target.name))
    elif source.is_file():
        shutil.copyfile(source, target)
