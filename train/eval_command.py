"""`flaxmill eval`: measures a run on held-out text."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.overrides import override

DESCRIPTION = (
    "Measures the last checkpoint of RUN, a run directory, on its held-out text or on that of --data."
)


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """What `flaxmill eval` takes."""

    data: str | None = None
    """A text file or glob to measure on; None: the held-out text of the run."""
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
    from flaxmill.train.evaluation import evaluate_run

    mesh = None if parsed.mesh == MeshConfig() else parsed.mesh
    measured = evaluate_run(Path(arguments[0]), Path(parsed.data) if parsed.data else None, mesh)
    print(_json(measured) if parsed.json else _table(measured))


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
