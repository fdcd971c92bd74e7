"""`flaxmill eval`: measures a run on held-out text."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flaxmill.data.files.local_paths import local_path, refuse_remote
from flaxmill.data.json_text import dump_json
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.named_configs import run_definitions
from flaxmill.train.overrides import override
from flaxmill.train.run.model_sources import check_model_source
from flaxmill.train.terminal.output_places import folder_place

if TYPE_CHECKING:
    from flaxmill.train.inference.other_data import OtherData

COLUMNS = ("text_column", "pair_column", "label_column", "target_column")
LENGTHS = ("sequence_length", "target_length", "stride")

DESCRIPTION = """Measures RUN on its held-out data or on --data. RUN is a run directory (its best checkpoint
where it follows one, else the newest) or the directory of a Hugging Face model. For labelled examples it
writes the predictions next to the inputs, and draws which label is taken for which."""


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """What `flaxmill eval` takes."""

    data: tuple[str, ...] = ()
    """A file or glob to measure on; may be repeated, and each is measured separately. None: the held-out data
    of the run."""
    text_column: str | None = None
    """Column of --data with the text. For this and the next three, None: as in the run."""
    pair_column: str | None = None
    """Column of --data with a pair's second text."""
    label_column: str | None = None
    """Column of --data with the label."""
    target_column: str | None = None
    """Column of --data with the text to write."""
    unlabelled: bool = False
    """--data has no labels: predict only."""
    sequence_length: int | None = None
    """Tokens of a row. For this and the next two, None: as in the run, or the Hugging Face model's own."""
    target_length: int | None = None
    """Tokens of a target."""
    stride: int | None = None
    """Tokens that two windows of a long text share."""
    output: str | None = None
    """Folder for predictions; None: RUN/eval-STEP, and in it a folder for each --data."""
    json: bool = False
    """Print one JSON object instead of a table."""
    config: str | None = None
    """The file that defines RUN's objective, if that is one of your own, or its callbacks."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices to evaluate on; by default as many as divide the rows of an evaluation step."""


def run(arguments: list[str]) -> None:
    """Evaluate and print."""
    named = bool(arguments) and not arguments[0].startswith("-")
    flags = arguments[1:] if named else arguments
    parsed = override(EvalArguments(), flags, program="flaxmill eval", usage="RUN", description=DESCRIPTION)
    if not named:
        raise ValueError("no run given; it comes first: flaxmill eval RUN, where RUN is a run directory")
    source, lengths = local_path(arguments[0], "RUN"), _given(parsed, LENGTHS)
    folder = None if parsed.output is None else folder_place(parsed.output, "output")
    others = _other_data(parsed)
    check_model_source(source)
    run_definitions(parsed.config)
    from flaxmill.train.inference.other_data import folder_name
    from flaxmill.train.inference.run_evaluation import evaluate_run

    mesh = None if parsed.mesh == MeshConfig() else parsed.mesh
    found: dict[str, dict[str, Any]] = {}
    for other in others:
        output = folder / folder_name(other.files) if folder and other and len(others) > 1 else folder
        found[other.files if other else ""] = evaluate_run(source, other, mesh, output, lengths)
    print(_json(found) if parsed.json else _text_of(found))


def _json(found: dict[str, dict[str, Any]]) -> str:
    """The numbers of the only data, or an object with the numbers of each."""
    return dump_json(found if len(found) > 1 else next(iter(found.values())), ascii_only=True)


def _text_of(found: dict[str, dict[str, Any]]) -> str:
    """A table, or several tables, each below the name of its data."""
    tables = {files: _table(measured) for files, measured in found.items()}
    if len(tables) == 1:
        return next(iter(tables.values()))
    return "\n\n".join(f"{files}\n{table}" for files, table in tables.items())


def _other_data(parsed: EvalArguments) -> "list[OtherData] | list[None]":
    """One for each --data; None stands for the run's own."""
    from flaxmill.train.inference.other_data import OtherData

    columns = _given(parsed, COLUMNS)
    if not parsed.data:
        if given := [*columns, *(["unlabelled"] if parsed.unlabelled else [])]:
            raise ValueError(f"--{given[0].replace('_', '-')} is about the file of --data; add --data FILE")
        return [None]
    for files in parsed.data:
        refuse_remote(files, "--data")
    if twice := [files for files in parsed.data if parsed.data.count(files) > 1]:
        raise ValueError(f"--data {twice[0]} is given twice; give each file once")
    return [OtherData(files, columns, parsed.unlabelled) for files in parsed.data]


def _given(parsed: EvalArguments, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(parsed, name) for name in names if getattr(parsed, name) is not None}


def _table(measured: dict[str, Any]) -> str:
    width = max(map(len, measured))
    return "\n".join(f"{name:{width}}  {_text(value)}" for name, value in measured.items())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
