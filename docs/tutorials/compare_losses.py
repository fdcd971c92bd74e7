"""The losses of two runs, step by step, and how far apart they are.

Command: python compare_losses.py RUN RUN
It ends with code 1 if they are further apart than 1e-5 of the loss.
"""

import json
import sys
from pathlib import Path

BOUND = 1e-5


def main() -> None:
    one, other = (losses_of(Path(run)) for run in sys.argv[1:])
    farthest = 0.0
    for step in sorted(one.keys() & other.keys()):
        apart = abs(one[step] - other[step]) / one[step]
        farthest = max(farthest, apart)
        print(f"step {step:3}  {one[step]:.6f}  {other[step]:.6f}  {apart:.1e} apart")
    sys.exit(int(farthest > BOUND))


def losses_of(run: Path) -> dict[int, float]:
    """The loss of each logged step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


if __name__ == "__main__":
    main()
