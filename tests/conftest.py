"""Fixtures: eight simulated CPU devices, a cache for the session, and small experiments on a small corpus.

JAX_PLATFORMS=cuda,cpu, as `make gpu` sets it, leaves the GPU in place of the simulated devices.
"""

import importlib.metadata
import importlib.util
import os
import tempfile
from pathlib import Path

from flaxmill.sharding.processes.processor import spare_threads

_ON_GPU = os.environ.get("JAX_PLATFORMS", "").startswith(("cuda", "gpu"))
if not _ON_GPU:
    os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
spare_threads(os.environ)
_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
_CACHE = tempfile.TemporaryDirectory(prefix="flaxmill-tests-")
# A process that xdist starts has the variables of the one that starts it, and shares its compiled programs.
_PROGRAMS = Path(os.environ.get("FLAXMILL_CACHE", "") if _IS_WORKER else _CACHE.name, "compiled")
_PROGRAMS.mkdir(exist_ok=True)
if _IS_WORKER:
    Path(_CACHE.name, "compiled").symlink_to(_PROGRAMS)
os.environ["FLAXMILL_CACHE"] = _CACHE.name
# LLVM does less work, and fusions are plain loops: the same programs compile in a quarter of the time.
_QUICK_TO_COMPILE = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later versions have no other loops
    _QUICK_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
    # Parts that threads compile side by side are more work, and each core has a process of tests already.
    _QUICK_TO_COMPILE += " --xla_cpu_parallel_codegen_split_count=1"
# On a GPU that option would change the kernels under test, and measuring kernels takes most of the time.
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0" if _ON_GPU else _QUICK_TO_COMPILE)

import dataclasses  # noqa: E402
import gc  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Generator, Iterator  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402

from flaxmill.data.config import DataConfig  # noqa: E402
from flaxmill.model.config import ModelConfig  # noqa: E402
from flaxmill.sharding.mesh import MeshConfig  # noqa: E402
from flaxmill.train.experiment import Experiment  # noqa: E402
from flaxmill.train.optimizer.optimizers import OptimizerConfig  # noqa: E402

MakeExperiment = Callable[..., Experiment]

_ABSENT = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
"""Empty in `make test`. `make newest` has none of them: a test whose import of one fails is skipped there."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    for name in _ABSENT:
        if report.failed and f"No module named '{name}'" in report.longreprtext:
            report.outcome, report.longrepr = "skipped", (str(collector.path), 1, _reason(name))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    return (yield from _skip_without_comparison())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    return (yield from _skip_without_comparison())


def _skip_without_comparison() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if error.name not in _ABSENT:
            raise
        pytest.skip(_reason(error.name))


def _reason(name: str) -> str:
    return f"compares with {name}, which is not installed"


def pytest_collection_finish() -> None:
    """Tracing makes millions of objects, and looking for garbage among them takes up to a fifth of the time.

    What the imports made is passed over, and the rest looked at seldom, and at the end of each module.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 10, 10)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Thousands of compiled programs take gigabytes: a process drops a module's programs after its tests."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 300 kB of Python's language reference, its topics separated by blank lines."""
    from pydoc_data.topics import topics

    texts = [text.strip().replace("\n\n", "\n") for _, text in sorted(topics.items())]
    path = tmp_path_factory.mktemp("corpus") / "topics.txt"
    path.write_text("\n\n".join(texts)[:300_000], encoding="utf-8")
    return path


@pytest.fixture
def make_experiment(corpus: Path, tmp_path: Path) -> MakeExperiment:
    """A GPT, BERT or hybrid of two small layers, with dropout, that trains in seconds."""

    def make(objective: str = "causal", model: dict[str, Any] | None = None, **changes: Any) -> Experiment:
        is_bert = objective in ("mlm", "mlm_nsp")
        shape: dict[str, Any] = dict(num_layers=2, embed_dim=32, num_heads=4, dropout=0.1)
        if is_bert:
            shape |= dict(norm_position="post", embedding_norm=True, num_segments=2, initializer="bert")
        data = DataConfig(
            files=(str(corpus),),
            documents="blank_lines",
            tokenizer="wordpiece" if is_bert else "bpe",
            vocab_size=400,
            sequence_length=32,
        )
        experiment = Experiment(
            name="small",
            objective=objective,
            steps=8,
            batch_size=16,
            log_every=1,
            eval_batches=2,
            run_dir=str(tmp_path / "run"),
            model=ModelConfig(**shape | (model or {})),
            data=data,
            mesh=MeshConfig(data=1),
            optimizer=OptimizerConfig(learning_rate=3e-3),
        )
        return dataclasses.replace(experiment, **changes)

    return make


class StopAfter:
    """Asks a run to stop after so many steps, as a signal would."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    @property
    def requested(self) -> bool:
        self._left -= 1
        return self._left <= 0

    def started(self) -> None: ...

    def saved(self) -> None: ...


@pytest.fixture(scope="session")
def stop_after() -> type[StopAfter]:
    return StopAfter


@pytest.fixture
def flaxmill(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    """Runs a command in this process; returns exit code, stdout and stderr."""

    def command(*arguments: Any) -> tuple[Any, str, str]:
        from flaxmill.train.command_line import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return command
