"""Every Python carries enough real text to train on, in the same order each time."""

import sysconfig

import pytest

from flaxmill.data.text import embedded_corpus as embedded
from flaxmill.data.text.embedded_corpus import embedded_corpus


def test_prose_and_code_are_megabytes_of_bounded_documents():
    prose = list(embedded_corpus("prose").read())
    code = list(embedded_corpus("code").read())
    for documents in (prose, code):
        assert sum(len(document.text) for document in documents) > 1_000_000
        assert max(len(document.text.encode()) for document in documents) <= 32 * 1024
    assert {document.sentences for document in prose} == {"prose"}
    assert {document.sentences for document in code} == {"lines"}


def test_all_is_prose_and_code_together():
    both = {document.text for part in ("prose", "code") for document in embedded_corpus(part).read()}
    assert {document.text for document in embedded_corpus("all").read()} == both


def test_docstrings_stand_in_the_prose_only():
    source = (
        'def f():\n    """Say what f does.\n\n    At length.\n    """\n    x = """kept\n"""\n    return x\n'
    )
    assert list(embedded._docstrings(source)) == ["Say what f does.\n\nAt length."]
    code = embedded._TRIPLE_QUOTED.sub(lambda match: "" if match[1] else match[0], source)
    assert code == 'def f():\n    x = """kept\n"""\n    return x\n'


def test_a_python_without_sources_names_the_fix(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match=r"no library sources; give text with --data\.files"):
        embedded_corpus("all")
