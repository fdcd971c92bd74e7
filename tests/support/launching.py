"""Jobs as a user starts them: the command in processes of its own, killed, restarted and compared."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest

from flaxmill.data.batches import Batches
from flaxmill.train.checkpoint.store import COMMIT_FILE
from flaxmill.train.metrics.metrics_file import read_metrics

PROGRAM = "from flaxmill.train.command_line import main; main()"
PATIENCE = 300  # seconds that a single wait may take, on the slowest machine
CONFIG = """
from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer.optimizers import OptimizerConfig

config = Experiment(
    name="interrupted",
    objective={objective!r},
    log_every=1,
    model=ModelConfig(num_layers=2, embed_dim=32, num_heads=4, dropout=0.1, **{family}),
    data=DataConfig(
        files=({corpus!r},),
        documents="blank_lines",
        tokenizer={tokenizer!r},
        vocab_size=400,
        sequence_length=32,
    ),
    optimizer=OptimizerConfig(learning_rate=3e-3),
    **{settings},
    mesh=MeshConfig(data={data_axis}),
    checkpoint=CheckpointConfig(**{checkpoint}),
)
"""
BERT = dict(norm_position="post", embedding_norm=True, num_segments=2, initializer="bert")
VALUES = ("loss", "grad_norm", "num_tokens")  # the values by which the steps of two runs are compared


def write_experiment(
    path: Path,
    objective: str,
    corpus: Path,
    *,
    tokenizer: str | None = None,
    data_axis: int | None = 1,
    checkpoint: Mapping[str, Any],
    **settings: Any,
) -> Path:
    """A small GPT or BERT with dropout, as a file that `flaxmill train` takes."""
    is_bert = objective == "mlm_nsp"
    text = CONFIG.format(
        objective=objective,
        family=BERT if is_bert else {},
        corpus=str(corpus),
        tokenizer=tokenizer or ("wordpiece" if is_bert else "bpe"),
        settings=settings,
        data_axis=data_axis,
        checkpoint=dict(checkpoint),
    )
    path.write_text(text, encoding="utf-8")
    return path


def environment(cache: Path, **changes: str) -> dict[str, str]:
    """A user's environment, where XLA optimises fully: the runs that users make must be equal."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTEST_XDIST_WORKER")
    }
    return kept | {
        "FLAXMILL_CACHE": str(cache),
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONUNBUFFERED": "1",
        **changes,
    }


def quick_environment(cache: Path, **changes: str) -> dict[str, str]:
    """An environment where programs compile fast, and those that any test has compiled are found."""
    programs = cache / "compiled"
    if not programs.exists():
        cache.mkdir(exist_ok=True)
        programs.symlink_to(Path(os.environ["FLAXMILL_CACHE"], "compiled"))
    return environment(cache, XLA_FLAGS=os.environ["XLA_FLAGS"], **changes)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("", 0)) as taken:
        return taken.getsockname()[1]


def poison(patch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Put a NaN into the weights of the batches of these steps."""
    parts = Batches.parts

    def poisoned(
        batches: Batches, step: int, start: int, stop: int, tokens: Sequence[range]
    ) -> list[dict[str, np.ndarray]]:
        found = parts(batches, step, start, stop, tokens)
        if step in steps and batches._split == "train":
            for part in found:
                part["weights"] = part["weights"] * np.float32("nan")
        return found

    patch.setattr(Batches, "parts", poisoned)


class Job:
    """One `flaxmill` command in a process of its own; leaving the context leaves no process behind."""

    def __init__(self, *arguments: Any, output: Path, env: Mapping[str, str], before: str = "") -> None:
        """Start it, after the program `before`; stdout goes to `output`, stderr to that name with .err."""
        self._stdout, self._stderr = output, output.with_name(f"{output.name}.err")
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", before + PROGRAM, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(env),
            )
        self.started = time.monotonic()

    @property
    def out(self) -> str:
        return self._stdout.read_text(encoding="utf-8", errors="replace")

    @property
    def err(self) -> str:
        return self._stderr.read_text(encoding="utf-8", errors="replace")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def until(self, happened: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Wait for something; False if the process ended without it."""
        deadline = time.monotonic() + patience
        while not happened():
            if self.ended:
                return happened()
            assert time.monotonic() < deadline, f"nothing happened in {patience} s:\n{self.out}\n{self.err}"
            time.sleep(0.002)
        return True

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code; negative for a signal."""
        return self.process.wait(patience)

    def kill(self) -> int:
        """Send SIGKILL; returns the exit code, 0 if the job was done before."""
        if not self.ended:
            self.send(signal.SIGKILL)
        return self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def run_to_end(*arguments: Any, output: Path, env: Mapping[str, str]) -> Job:
    """The job, once it has exited with 0."""
    with Job(*arguments, output=output, env=env) as job:
        assert job.wait() == 0, job.err
    return job


def count_rows(run_dir: Path) -> int:
    """Whole lines of metrics.jsonl, evaluations included."""
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def step_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of steps, in the order written."""
    return [row for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row]


def values_of(run_dir: Path) -> dict[int, tuple[Any, ...]]:
    """{step: VALUES}; the rows of a step that was written twice must be the same."""
    values: dict[int, tuple[Any, ...]] = {}
    for row in step_rows(run_dir):
        found = tuple(row[name] for name in VALUES)
        assert values.setdefault(row["step"], found) == found, f"rows of step {row['step']} differ"
    return values


def evaluations_of(run_dir: Path) -> dict[int, dict[str, Any]]:
    """{step: eval_*}; repeated rows must be the same."""
    found: dict[int, dict[str, Any]] = {}
    for row in read_metrics(run_dir / "metrics.jsonl"):
        if "eval_loss" in row:
            assert found.setdefault(row["step"], row) == row
    return found


def manifest_arrays(run_dir: Path, step: int) -> dict[str, Any]:
    """{name: dtype, shape and digest} as a checkpoint's own manifest says."""
    stored = json.loads((run_dir / "checkpoints" / str(step) / COMMIT_FILE).read_text())
    return stored["custom_metadata"]["flaxmill"]["arrays"]


def saved_arrays(run_dir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, params and optimizer, loaded and checked against its digest."""
    import jax

    from flaxmill.model.functional import abstract_params
    from flaxmill.sharding.mesh import MeshConfig, make_mesh
    from flaxmill.train.checkpoint.checkpoints import Checkpoints
    from flaxmill.train.checkpoint.manifest import join, named_leaves
    from flaxmill.train.optimizer.optimizers import make_optimizer
    from flaxmill.train.run.directory import read_config
    from flaxmill.train.state import abstract_state

    experiment = read_config(run_dir)
    optimizer = make_optimizer(experiment.optimizer, abstract_params(experiment.model))
    wanted = abstract_state(experiment.model, optimizer, make_mesh(MeshConfig(data=1)))
    with Checkpoints(run_dir / "checkpoints", experiment.checkpoint) as checkpoints:
        assert checkpoints.latest_step() == step
        state = checkpoints.open(step).restore(wanted)
    return {join(path): np.asarray(jax.device_get(leaf)) for path, leaf in named_leaves(state).items()}


def assert_same_end(run_dir: Path, straight: Path, steps: int) -> None:
    """Check that the interrupted run equals the straight one, bit for bit, and left nothing lying about."""
    values, expected = values_of(run_dir), values_of(straight)
    assert sorted(values) == sorted(expected) == list(range(steps))
    assert values == expected
    assert evaluations_of(run_dir) == evaluations_of(straight)
    assert_same_arrays(run_dir, straight, steps)
    assert leftovers(run_dir) == []


def assert_same_arrays(run_dir: Path, straight: Path, steps: int) -> None:
    """Check that parameters, optimizer and counters of the last checkpoint are equal bit for bit."""
    arrays, wanted = saved_arrays(run_dir, steps), saved_arrays(straight, steps)
    assert arrays.keys() == wanted.keys()
    assert manifest_arrays(run_dir, steps) == manifest_arrays(straight, steps)
    for name, array in wanted.items():
        assert array.dtype == arrays[name].dtype
        assert array.tobytes() == arrays[name].tobytes(), name


def leftovers(run_dir: Path) -> list[str]:
    """Files in a run directory that do not belong there."""
    known = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    known |= {"metrics.jsonl", "checkpoints", ".lock"}
    known |= {"data_card.json", "samples.jsonl", "reference.safetensors"}
    strange = [path.name for path in run_dir.iterdir() if path.name not in known]
    checkpoints = (run_dir / "checkpoints").iterdir()
    return strange + [f"checkpoints/{path.name}" for path in checkpoints if not path.name.isdecimal()]
