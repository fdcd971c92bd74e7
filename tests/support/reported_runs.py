"""Runs to report on, written as a run writes its files, without training."""

import json
import math
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flaxmill.train.experiment import Experiment
from flaxmill.train.run.directory import write_config

HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>\"'&"
"""A text that must not become markup."""


def write_run(
    directory: Path, rows: Iterable[dict[str, Any]] = (), experiment: Experiment | None = None
) -> Path:
    """A run directory with a config and these rows of metrics."""
    directory.mkdir(parents=True)
    write_config(directory, experiment or Experiment(steps=40), None)
    with (directory / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return directory


def rows_of(num_rows: int, *, seed: int = 0, eval_every: int = 10) -> Iterator[dict[str, Any]]:
    """Rows with all that a GPT has on an accelerator. The loss falls from 8, with one spike of 20 in the
    middle; further on two steps are skipped."""
    draws, num_skipped = random.Random(seed), 0
    for step in range(num_rows):
        share = step / num_rows
        is_skipped = step in (num_rows * 3 // 4, num_rows * 3 // 4 + 1)
        num_skipped += is_skipped
        loss = 20.0 if step == num_rows // 2 else 2 + 6 * math.exp(-9 * share) + draws.gauss(0, 0.05)
        yield {
            "step": step,
            "loss": None if is_skipped else loss,
            "causal_accuracy": 1 / (1 + math.exp(loss - 2)),
            "grad_norm": None if is_skipped else abs(0.4 + 3 * math.exp(-20 * share) + draws.gauss(0, 0.05)),
            "learning_rate": 3e-4 * (1 + math.cos(math.pi * share)),
            "skipped_steps": num_skipped,
            "num_tokens": (step + 1) * 524_288,
            "step_seconds": 0.31 + 0.02 * draws.random(),
            "data_seconds": 2e-5 + 1e-5 * draws.random(),
            "tokens_per_second": 1.6e6 + 1e5 * draws.random(),
            "mfu": 0.51 + draws.gauss(0, 0.005),
            "mfu_causal": 0.48 + draws.gauss(0, 0.005),
        }
        if (step + 1) % eval_every == 0:
            yield {"step": step + 1, "eval_loss": 2.1 + 6 * math.exp(-9 * share), "eval_causal_accuracy": 0.4}
