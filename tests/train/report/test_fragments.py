"""Pieces of HTML hold any text."""

import json

from reported_runs import HOSTILE

from flaxmill.train.report.fragments import MAX_CHARACTERS, element, script_json, table, text


def test_texts_are_escaped_once_and_html_is_kept():
    inside = element("b", HOSTILE)
    assert "<script" not in inside
    assert element("p", inside) == f"<p>{inside}</p>"
    assert element("a", "x", href='"><i>') == '<a href="&quot;&gt;&lt;i&gt;">x</a>'


def test_attributes_are_named_as_in_html():
    written = element("td", "", class_="number", data_run="3", hidden=True, open=False)
    assert written == '<td class="number" data-run="3" hidden></td>'


def test_a_long_text_is_cut():
    assert len(text("x" * 10_000)) == MAX_CHARACTERS
    assert text("x" * 10_000).endswith("…")
    assert len(element("p", element("p", "x" * 3000), element("p", "x" * 3000))) > 6000


def test_half_of_a_character_can_be_written():
    assert element("p", "a\ud83d", title="\udc00b").encode() == b'<p title="?b">a?</p>'


def test_a_table_names_its_columns_in_every_cell():
    written = table(("name", "<value>"), [("a", "1.5"), ("b", "two 2")])
    assert '<th scope="col">&lt;value&gt;</th>' in written
    assert '<th scope="row">a</th><td data-head="&lt;value&gt;">1.5</td>' in written
    assert '<td data-head="&lt;value&gt;">two 2</td>' in written


def test_json_cannot_end_its_script():
    written = script_json({HOSTILE: [HOSTILE, "<!--", 1.5, None]})
    assert not set("<>&") & set(written)
    assert json.loads(written) == {HOSTILE: [HOSTILE, "<!--", 1.5, None]}
