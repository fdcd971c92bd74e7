"""Pieces of error messages: the nearest word, and the first of many."""

from flaxmill.data.messages import did_you_mean, shorten


def test_did_you_mean_is_silent_about_strangers():
    assert did_you_mean("trian", ["train", "data"]) == "did you mean train?"
    assert did_you_mean("xyzzy", ["train", "data"]) == ""


def test_more_items_than_are_shown_are_counted():
    assert shorten(["a", "b"], 2) == "a, b"
    assert shorten(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert shorten(["a is b", "c is d", "e is f"], 1, "; ") == "a is b; and 2 more"
