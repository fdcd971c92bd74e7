"""A program that fuzzes: `python tests/support/fuzz_worker.py ROOT TARGET inputs|commands NUMBER SEED KEPT`.

With --bases and names of targets it makes what these begin with. It runs apart, since a library may end it.
"""

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path

KNOWN, NOW = "bases.json", "now.json"
REPORT = "report.json"
MOST_BYTES = 6 << 30
"""A finding takes less; more would take memory from other processes of the machine."""


def make_all(root: Path, names: list[str]) -> None:
    """Make what the targets begin with, and list it in a file."""
    from fuzz_running import make_places
    from fuzz_targets import TARGETS

    make_places(root)
    made = {name: [str(base) for base in TARGETS[name].bases(root)] for name in names}
    (root / KNOWN).write_text(json.dumps(made))


def fuzz(root: Path, name: str, kind: str, number: int, seed: int, kept: Path) -> None:
    """Give `number` inputs to the functions behind the commands, or to the commands; writes REPORT."""
    from fuzz_running import Keeper, import_all, read_inputs, run_commands
    from fuzz_targets import TARGETS

    target, inside = TARGETS[name], root / "inside"
    bases = [Path(base) for base in json.loads((root / KNOWN).read_text())[name]]
    keeper = Keeper(kept)
    import_all()
    started = time.monotonic()
    run = {"inputs": read_inputs, "commands": run_commands}[kind]
    tried = run(target, bases, inside, number=number, seed=seed, keeper=keeper)
    seconds = round(time.monotonic() - started, 1)
    (root / REPORT).write_text(json.dumps({"tried": tried, "seconds": seconds, "findings": keeper.kinds}))


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    os.environ["FLAXMILL_CACHE"] = f"{sys.argv[1]}/cache"
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    if sys.argv[2] == "--bases":
        warnings.simplefilter("default")
        make_all(Path(sys.argv[1]), sys.argv[3:])
    else:
        root, name, kind, number, seed, kept = sys.argv[1:]
        fuzz(Path(root), name, kind, int(number), int(seed), Path(kept))
