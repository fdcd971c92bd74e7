"""Every flag of a command that a page shows is a flag of that command."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from flaxmill.train import command_line
from flaxmill.train.overrides import flag_types
from flaxmill.train.terminal.completion import ARGUMENTS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
ENDS = {"|", ">", ">>", "<", "2>", "&&", ";", "&"}
PLACEHOLDERS = {"RUN", "DIR", "TEXT", "MODEL"}


def commands_of(page):
    """The words after `flaxmill` of each command that the page's blocks show, without comments."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:srun |mpirun )?flaxmill (.*)", line)
            if found and not re.search(r"\[(--|CONFIG|DIR|FILE)|\.\.\.|\|", found[1]):
                words = shlex.split(found[1], comments=True)
                end = next((number for number, word in enumerate(words) if word in ENDS), len(words))
                yield words[:end]


COMMANDS = [(page, words) for page in PAGES for words in commands_of(page)]


def flags_of(words):
    place = ARGUMENTS[words[0]]
    if not isinstance(place, str):
        place = place[words[1]]
    module, _, name = place.partition(":")
    return flag_types(getattr(importlib.import_module(f"flaxmill.train.{module}"), name))


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page.name}-{' '.join(words)}"[:80] for page, words in COMMANDS]
)
def test_a_shown_command_has_these_flags(page, words):
    if words[0].startswith("-") or words[0] in ("completion", "lm-eval"):  # lm-eval's flags are the harness's
        return
    assert words[0] in command_line.COMMANDS
    known = flags_of(words)
    own = words[: words.index("--")] if "--" in words else words  # what follows is another program's
    for word in own:
        if word.startswith("--") and word != "--help":
            assert word[2:].partition("=")[0] in known, f"{page.name}: {' '.join(words)}"


def test_pages_show_commands():
    assert len(COMMANDS) > 100
