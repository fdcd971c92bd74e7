"""The table in docs/reliability.md has a row for every test of faults, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_has_a_row_for_every_fault_and_no_other():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_faults*.py")]
    names = {name for text in tests for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    assert names
    assert set(re.findall(r"`(test_\w+)`", page)) == names, "run `python docs/make_reliability.py`"
