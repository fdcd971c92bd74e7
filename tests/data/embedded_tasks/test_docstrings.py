"""First lines of docstrings sum up the rest, and what repeats is found."""

from flaxmill.data.embedded_tasks.definitions import Definition
from flaxmill.data.embedded_tasks.docstrings import make_repeats, name_words, sum_up

DEFINITION = Definition(
    identity="m:C.getFileType2",
    group="m:C",
    is_class=False,
    header="def getFileType2(self):",
    docstring="Say what it is.\n\nThe rest.",
    body="return 1",
)


def test_a_summary_is_the_first_line_of_the_docstring_that_the_text_lacks():
    text = "get file type 2\ndef getFileType2(self):\nThe rest.\nreturn 1"
    assert sum_up(DEFINITION) == (text, "Say what it is.")


def test_what_is_no_sentence_sums_up_nothing():
    for docstring in ("f(x) -> what it is.", "What it\ngoes on with.", "Too short.", ""):
        assert sum_up(DEFINITION._replace(docstring=docstring)) is None


def test_a_name_is_read_as_words():
    assert name_words("_HTTPServer_class") == "http server class"


def test_a_docstring_repeats_one_that_holds_most_of_it_or_begins_alike():
    repeats = make_repeats([DEFINITION._replace(docstring="One two three four five six.\nSeven eight nine.")])
    assert repeats(DEFINITION._replace(docstring="Two three four five"))
    assert repeats(DEFINITION._replace(docstring="One two three four five six.\nAnd all else that is here."))
    assert not repeats(DEFINITION._replace(docstring="One two three, but then other words follow."))
    assert not repeats(DEFINITION._replace(docstring="Two three."))
