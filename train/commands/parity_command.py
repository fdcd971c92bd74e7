"""`flaxmill parity`: shows on a model's own weights that flaxmill computes what PyTorch does."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flaxmill.data.files.local_paths import local_path
from flaxmill.train.failures import RunError
from flaxmill.train.overrides import override
from flaxmill.train.run.model_sources import check_model_source

DESCRIPTION = (
    "Compares a model with PyTorch and transformers, in float32 on random batches: hidden states, logits, "
    "loss, the gradient of every parameter, and the parameters after 5 AdamW steps. DIRECTORY is a Hugging "
    "Face directory, or a run directory, which is exported first. Exit code 1: a difference is too large."
)


@dataclass(frozen=True, kw_only=True)
class ParityArguments:
    """What `flaxmill parity` takes."""

    json: bool = False
    """Print one JSON object, with the difference of every tensor, instead of a table."""
    seed: int = 0
    """Seed of the random batches."""


def run(arguments: list[str]) -> None:
    """Compare, print, and raise RunError where a quantity is outside its tolerance."""
    named = bool(arguments) and not arguments[0].startswith("-")
    flags = arguments[1:] if named else arguments
    parsed = override(
        ParityArguments(), flags, program="flaxmill parity", usage="DIRECTORY", description=DESCRIPTION
    )
    if not named:
        raise ValueError(
            "no directory given; it comes first: flaxmill parity DIRECTORY, as save_pretrained or "
            "`flaxmill train` made it"
        )
    source = local_path(arguments[0], "DIRECTORY")
    check_model_source(source)
    from flaxmill.train.caches import cache_directory
    from flaxmill.train.compilation.settings import set_up_compilation
    from flaxmill.train.parity import report as parity_report
    from flaxmill.train.parity.comparison import compare_directory
    from flaxmill.train.parity.progress import Progress
    from flaxmill.train.parity.torch_side import versions

    versions()  # refuses a missing package before anything that takes long
    set_up_compilation(cache_directory())
    with _huggingface_directory(source) as directory, Progress() as progress:
        checks = compare_directory(directory, seed=parsed.seed, say=progress)
        print_report = parity_report.print_json if parsed.json else parity_report.print_table
        outside = print_report(arguments[0], directory, checks)
    if outside:
        raise RunError(
            f"{len(outside)} quantities of {arguments[0]} are outside their tolerance, first "
            f"{outside[0].quantity} of batch {outside[0].batch}: flaxmill does not compute what PyTorch does"
        )


@contextlib.contextmanager
def _huggingface_directory(directory: Path) -> Iterator[Path]:
    """The directory itself, or an export of a run's best checkpoint, or else its newest."""
    from flaxmill.train.run.directory import CHECKPOINTS

    if not (directory / CHECKPOINTS).is_dir():
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="flaxmill-parity-") as exported:
        _export(directory, Path(exported))
        yield Path(exported)


def _export(run: Path, directory: Path) -> None:
    from flaxmill.model.huggingface.directory import save_huggingface
    from flaxmill.sharding.mesh import MeshConfig, make_mesh
    from flaxmill.train.run.directory import read_trained_config
    from flaxmill.train.run.restoring import load_params

    experiment = read_trained_config(run)
    mesh = make_mesh(MeshConfig(data=1))
    params, _, _ = load_params(run, experiment, mesh)
    save_huggingface(directory, experiment.model, params)
