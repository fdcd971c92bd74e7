"""Runs the tests of faults and writes what a user sees into the table in docs/reliability.md.

    python docs/make_reliability.py

The script needs the extra `test`. As root, the tests fill and lock file systems of their own; otherwise they
use the kernel's limits.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
START, END = "<!-- made: faults -->\n", "<!-- end: faults -->"
HEAD = ("what goes wrong", "what is said", "exit code", "what is lost", "test")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "faults.jsonl"
        tests = sorted(map(str, (ROOT / "tests").rglob("test_faults*.py")))
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *tests],
            cwd=ROOT,
            env={**os.environ, "FLAXMILL_FAULTS": str(file)},
            check=True,
        )
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    PAGE.write_text(before + START + make_table(rows) + END + rest.split(END)[1], encoding="utf-8")


def make_table(rows: list[dict[str, Any]]) -> str:
    """One line for each fault; a test that tries a fault in several ways has the same line more than once."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for row in rows:
        said = "<br>".join(f"`{line}`" for line in row["said"]) or "nothing"
        lines.append((row["fault"], said, str(row["code"]), row["lost"], f"`{row['test']}`"))
    return "".join(f"| {' | '.join(line)} |\n" for line in dict.fromkeys(lines))


if __name__ == "__main__":
    main()
