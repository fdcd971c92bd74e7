"""The functions behind the commands, called as the commands call them, on a directory that was fuzzed."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.data.card import describe_dataset
from flaxmill.data.config import DataConfig
from flaxmill.data.conversations.rendering import make_question_reader
from flaxmill.data.examples.framing import framed_json
from flaxmill.data.objectives import OBJECTIVE_DATA, data_of
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import Head
from flaxmill.model.functional import abstract_params, apply
from flaxmill.model.generation.config import GenerationConfig
from flaxmill.model.huggingface.directory import load_huggingface
from flaxmill.model.huggingface.sentence_modules import read_sentence_modules
from flaxmill.train.best import BestConfig, find_best_step
from flaxmill.train.checkpoint.directory import find_steps
from flaxmill.train.checkpoint.listing import list_checkpoints
from flaxmill.train.commands.data_command import batch_offset
from flaxmill.train.experiment import Experiment
from flaxmill.train.inference.embedding import embed_texts, load_embedder
from flaxmill.train.inference.text_generation import write_texts
from flaxmill.train.inference.text_model import load_text_model, read_prompts
from flaxmill.train.metrics.metrics_file import MetricsWriter, read_metrics
from flaxmill.train.report.page import make_page
from flaxmill.train.report.predictions import read_predictions
from flaxmill.train.report.run_files import read_runs
from flaxmill.train.run.directory import CHECKPOINTS, METRICS_FILE, Allowed, check_run_directory, read_config
from flaxmill.train.run.exporting import export_run
from flaxmill.train.run.importing import import_run

HEADS: tuple[Head | None, ...] = (
    None,
    None,
    None,
    "lm",
    "mlm",
    "classification",
    "token_classification",
    "qa",
)
PROMPTS = ("the quick brown fox", "Déjà vu 鉄 😀 </s> [MASK]")


def say_nothing(line: str) -> None:
    """A log that drops its lines."""


def read_model(inside: Path, variant: int) -> None:
    """Do what `import` and `--init-from` do; every eighth time the whole import."""
    if variant % 8 == 0:
        import_run(inside, inside / "run")
        return
    config, _ = load_huggingface(inside, head=HEADS[variant % 8])
    _trace(config)


def read_sentence_modules_and_embed(inside: Path, variant: int) -> None:
    """Do what `embed` does."""
    embed_texts(load_embedder(read_sentence_modules(inside)), PROMPTS)


@functools.lru_cache(maxsize=64)
def _trace(config: ModelConfig) -> None:
    tokens = jnp.ones((1, 4), jnp.int32)
    batch = {"tokens": tokens} | ({"decoder_tokens": tokens} if config.encoder_layers is not None else {})
    jax.eval_shape(functools.partial(apply, config), abstract_params(config), batch)


def read_text_model(inside: Path, variant: int) -> None:
    """Do what `generate` does before it computes; every eighth time compute too."""
    model = load_text_model(inside)
    options = dataclasses.replace(GenerationConfig(max_new_tokens=2), **model.decoding)
    prompts = read_prompts(model, PROMPTS)
    model.tokenizer.decode(prompts[0])
    _use(model.tokenizer)
    if variant % 8 == 0 and model.config.head == "lm":
        write_texts(model, PROMPTS[:1], options)


def _use(tokenizer: Tokenizer) -> None:
    """Make what exports write of the tokenizer."""
    framed_json(tokenizer, "template")
    tokenizer.settings_with_roles()


FILES = {
    "token_classification": "tagged.jsonl",
    "question_answering": "squad.json",
    "conversation": "chats.jsonl",
}


def read_tokenizer(inside: Path, variant: int) -> None:
    """Do what `data prepare` does with a text or examples and the directory's tokenizer."""
    objective = [*OBJECTIVE_DATA][variant % len(OBJECTIVE_DATA)]
    is_text = data_of(objective).examples is None
    file = FILES.get(objective, "text.txt" if is_text else "rows.jsonl")
    dataset = _prepare(inside, file, objective, tokenizer=str(inside), documents="blank_lines")
    _use(dataset.tokenizer)
    dataset.tokenizer.decode(dataset.read("train", np.arange(1))["tokens"][0])


def read_chats(inside: Path, variant: int) -> None:
    """Do what `data prepare`, `data card` and `generate` do with conversations and their chat template."""
    packing, bad_rows = ("best_fit", "concatenate")[variant % 2], ("error", "skip")[variant // 2 % 2]
    settings: dict[str, Any] = dict(tokenizer=str(inside), packing=packing, bad_rows=bad_rows)
    dataset = _prepare(inside, "chats.jsonl", "conversation", **settings)
    describe_dataset(dataset)
    make_question_reader(dataset.tokenizer)(PROMPTS[0])


def read_table(inside: Path, variant: int, objectives: Sequence[str]) -> None:
    """Do what `data prepare` and `data card` do with the only data file, for one of these objectives."""
    (file,) = inside.glob("data.*")
    tokenizer = str(inside / "tokenizer.json")
    settings: dict[str, Any] = {}
    if objectives[variant % len(objectives)] == "classification":
        kinds = ({}, {"pair_column": "pair"}, {"label_type": "number", "label_column": "n"})
        settings = (*kinds, {"label_type": "multi_label"}, {"quotes": "none"})[variant // 8 % 5]
    objective = objectives[variant % len(objectives)]
    describe_dataset(_prepare(inside, file.name, objective, tokenizer=tokenizer, **settings))


def read_ids(inside: Path, variant: int) -> None:
    """Do what `data prepare` and `data card` do with token ids, or with a saved dataset."""
    (file,) = (path.name for path in inside.iterdir() if path.suffix in (".bin", ".npy") or path.is_dir())
    types: dict[str, Any] = {"token_dtype": "uint32" if variant % 2 else "uint16"}
    describe_dataset(_prepare(inside, file, "causal", tokenizer=str(inside / "tokenizer.json"), **types))


def _prepare(inside: Path, file: str, objective: str, **settings: Any) -> Dataset:
    config = DataConfig(
        **{"files": (str(inside / file),), "sequence_length": 24, "target_length": 8, "stride": 4} | settings
    )
    return prepare(config, objective, cache=inside / "cache", log=say_nothing)


def read_dataset(inside: Path, variant: int) -> None:
    """Do what `data card` and training do with a dataset that is in the cache."""
    objective = "classification" if (inside / "rows.jsonl").exists() else "causal"
    file = "rows.jsonl" if objective == "classification" else "text.txt"
    dataset = _prepare(inside, file, objective, tokenizer="bytes")
    describe_dataset(dataset)
    for split in ("train", "valid"):
        dataset.read(split, np.arange(1))
    dataset.close()


def read_run(inside: Path, variant: int) -> None:
    """Do what `generate`, `checkpoints`, `export` and `train --run-dir` do with a run."""
    run = inside / "run"
    match variant % 4:
        case 0:
            read_text_model(run, 1)
        case 1:
            for _ in list_checkpoints(run / CHECKPOINTS, quick=variant % 8 == 1):
                pass
        case 2:
            export_run(run, inside / "exported")
        case 3:
            check_run_directory(dataclasses.replace(read_config(run), run_dir=str(run)), Allowed(extend=True))


def read_report(inside: Path, variant: int) -> None:
    """Make the page of a run, and read its predictions as a classifier's."""
    run = inside / "run"
    assert make_page(read_runs([run])).encode()
    read_predictions(run, Experiment(objective="classification", data=DataConfig(labels=("a", "b"))))


def read_rows(inside: Path, variant: int) -> None:
    """Do what evaluation, `data show` and a continued run do with metrics.jsonl."""
    run = inside / "run"
    steps = find_steps(run / CHECKPOINTS)
    find_best_step(BestConfig(metric="eval_loss"), read_metrics(run / METRICS_FILE), steps)
    assert batch_offset(Experiment(run_dir=str(run)), 1) + 1
    with MetricsWriter(run / METRICS_FILE) as writer:
        writer.write({"step": 3})
