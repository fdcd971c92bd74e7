"""How the verdict of `flaxmill verify-resume` reads: a table for people, one JSON object for programs."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from flaxmill.data.json_text import dump_json
from flaxmill.train.verify_resume.comparison import ResumeCheck

WIDTH = 100  # where the output is not a terminal
EQUAL, INSIDE, DIFFERENT, OUTSIDE = "equal", "inside", "DIFFERENT", "OUTSIDE"


class Section(NamedTuple):
    """What was compared with the straight run, in words, and how that went."""

    title: str
    checks: Sequence[ResumeCheck]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def print_table(title: str, sections: Sequence[Section], conclusion: str) -> None:
    """Print every check with what it compared and its verdict, and where a difference begins."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=WIDTH)
    console.print(escape(title))
    for section in sections:
        console.print(f"\n[bold]{escape(section.title)}[/]")
        for check in section.checks:
            color = "green" if check.passed else "bold red"
            compared = escape(f"  {check.name:18}{check.compared:36}")
            console.print(f"{compared}[{color}]{verdict(check)}[/]{escape(_measured(check))}")
            if not check.passed:
                console.print(escape(f"  {'':18}first {check.first}"))
    color = "green" if all(section.passed for section in sections) else "bold red"
    console.print(f"\n[{color}]{escape(conclusion)}[/]")


def print_json(described: dict[str, Any], sections: Sequence[Section], conclusion: str) -> None:
    """Print one JSON object; `verdict` is true where something was compared and every check passed."""
    passed = bool(sections) and all(section.passed for section in sections)
    checks = [
        {"section": section.title} | _as_json(check) for section in sections for check in section.checks
    ]
    found = {"verdict": passed, "conclusion": conclusion, **described, "checks": checks}
    print(dump_json(found, ascii_only=True))


def verdict(check: ResumeCheck) -> str:
    """The verdict of a check, in one word."""
    if check.tolerance is None:
        return EQUAL if check.passed else DIFFERENT
    return INSIDE if check.passed else OUTSIDE


def find_first(sections: Sequence[Section]) -> tuple[Section, ResumeCheck]:
    """The first section that failed, and its check that differs at the earliest step."""
    section = next(section for section in sections if not section.passed)
    failed = [check for check in section.checks if not check.passed]
    return section, min(failed, key=lambda c: math.inf if c.first_step is None else c.first_step)


def _measured(check: ResumeCheck) -> str:
    if check.tolerance is None or check.difference is None:
        return f": {check.num_differing:,}" if not check.passed else ""
    return f" (at most {check.difference:.1e} of {check.tolerance:.0e})"


def _as_json(check: ResumeCheck) -> dict[str, Any]:
    finite = check.difference is None or math.isfinite(check.difference)  # JSON knows no infinity
    return {
        "name": check.name,
        "passed": check.passed,
        "compared": check.compared,
        "first": check.first or None,
        "first_step": check.first_step,
        "num_differing": check.num_differing,
        "difference": check.difference if finite else None,
        "tolerance": check.tolerance,
    }
