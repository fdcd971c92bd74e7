"""docs/reference is what its script makes of the code, and every field there says what it is."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
_SPEC = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
assert _SPEC is not None
assert _SPEC.loader is not None
make_reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_reference)


@pytest.fixture(scope="module")
def pages():
    return make_reference.make_pages()


@pytest.mark.parametrize("name", ["commands.md", "fields.md"])
def test_a_page_is_as_the_code_has_it(pages, name):
    assert (DOCS / "reference" / name).read_text() == pages[name], "run `python docs/make_reference.py`"


def test_every_flag_is_explained(pages):
    rows = re.findall(
        r"^\| `(--\S+)` \|.*\| (.*) \|$", pages["fields.md"] + pages["commands.md"], re.MULTILINE
    )
    assert len(rows) > 200
    assert [flag for flag, text in rows if not text] == []
