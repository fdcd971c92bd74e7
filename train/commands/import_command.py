"""`flaxmill import`: makes a run from a Hugging Face model, to train it further."""

import shlex
from dataclasses import dataclass, field

from flaxmill.data.files.local_paths import local_path
from flaxmill.model.fields import Head
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.overrides import override, take_paths
from flaxmill.train.run.model_sources import check_import_places

DESCRIPTION = """Makes the run directory RUN from the model in HF_DIR, which transformers' save_pretrained or
`hf download` wrote. `flaxmill train --run-dir RUN --field value ...` then trains it further, on any data."""


@dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """What `flaxmill import` takes."""

    tokenizer: str | None = None
    """A tokenizer.json or vocab.txt; None: the tokenizer in HF_DIR."""
    head: Head | None = None
    """Head to train, initialised where the files lack it; None: the head in the files."""
    mesh: MeshConfig = field(default_factory=lambda: MeshConfig(data=1))
    """Devices that hold the weights while they are imported."""


def run(arguments: list[str]) -> None:
    """Import, and say how to go on."""
    (source, run_dir), flags = take_paths(arguments, "HF_DIR", "RUN", program="flaxmill import")
    parsed = override(
        ImportArguments(), flags, program="flaxmill import", usage="HF_DIR RUN", description=DESCRIPTION
    )
    tokenizer = local_path(parsed.tokenizer, "--tokenizer") if parsed.tokenizer else None
    check_import_places(source, run_dir)
    from flaxmill.model.functional import count_params
    from flaxmill.train.metrics.progress import short_number
    from flaxmill.train.run.directory import TOKENIZER_FILE
    from flaxmill.train.run.importing import import_run

    experiment = import_run(source, run_dir, tokenizer=tokenizer, head=parsed.head, mesh_config=parsed.mesh)
    model = experiment.model
    print(
        f"imported {source}: {model.family} with head {model.head}, "
        f"{short_number(count_params(model))} parameters, vocabulary {model.vocab_size}"
    )
    has_tokenizer = (run_dir / TOKENIZER_FILE).is_file()
    tokenizer_flag = "" if has_tokenizer else "--data.tokenizer FILE "
    print(
        f"train it further on your data, objective {experiment.objective}:\n"
        f"flaxmill train --run-dir {shlex.quote(str(run_dir))} --data.files 'FILES' {tokenizer_flag}"
        f"--data.sequence-length {experiment.data.sequence_length} --steps {experiment.steps}"
    )
