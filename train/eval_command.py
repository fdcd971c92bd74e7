"""`flaxmill eval`: measures a run on held-out text."""

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flaxmill.data.local_paths import local_path, refuse_remote
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.overrides import override
from flaxmill.train.sources import check_model_source

if TYPE_CHECKING:
    from flaxmill.train.other_data import OtherData

COLUMNS = ("text_column", "pair_column", "label_column", "target_column")

DESCRIPTION = """Measures RUN, a run directory (its best checkpoint where it follows one, else the newest) or
that of a Hugging Face model, on its held-out data or on --data. Of labelled examples it writes the
predictions beside the inputs, and draws which label is taken for which."""


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """What `flaxmill eval` takes."""

    data: str | None = None
    """A file or glob to measure on; None: the held-out data of the run."""
    text_column: str | None = None
    """Column of --data with the text; this and the next three: None: as in the run."""
    pair_column: str | None = None
    label_column: str | None = None
    target_column: str | None = None
    unlabelled: bool = False
    """--data has no labels: predict only."""
    output: str | None = None
    """Folder for predictions; None: RUN/eval-STEP."""
    json: bool = False
    """Print one JSON object instead of a table."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices to evaluate on; as it is: as many as divide the rows of an evaluation step."""


def run(arguments: list[str]) -> None:
    """Evaluate and print."""
    named = bool(arguments) and not arguments[0].startswith("-")
    flags = arguments[1:] if named else arguments
    parsed = override(EvalArguments(), flags, program="flaxmill eval", usage="RUN", description=DESCRIPTION)
    if not named:
        raise ValueError("no run given; it comes first: flaxmill eval RUN, where RUN is a run directory")
    source = local_path(arguments[0], "RUN")
    output = None if parsed.output is None else local_path(parsed.output, "--output")
    other = _other_data(parsed)
    check_model_source(source)
    from flaxmill.train.run_evaluation import evaluate_run

    mesh = None if parsed.mesh == MeshConfig() else parsed.mesh
    measured = evaluate_run(source, other, mesh, output)
    print(_json(measured) if parsed.json else _table(measured))


def _other_data(parsed: EvalArguments) -> "OtherData | None":
    from flaxmill.train.other_data import OtherData

    columns = {name: getattr(parsed, name) for name in COLUMNS if getattr(parsed, name) is not None}
    if parsed.data is None:
        if given := [*columns, *(["unlabelled"] if parsed.unlabelled else [])]:
            raise ValueError(f"--{given[0].replace('_', '-')} is about the file of --data; add --data FILE")
        return None
    refuse_remote(parsed.data, "--data")
    return OtherData(parsed.data, columns, parsed.unlabelled)


def _json(measured: dict[str, Any]) -> str:
    """JSON knows no NaN: non-finite numbers become null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in measured.items()
    }
    return json.dumps(finite)


def _table(measured: dict[str, Any]) -> str:
    width = max(map(len, measured))
    return "\n".join(f"{name:{width}}  {_text(value)}" for name, value in measured.items())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
