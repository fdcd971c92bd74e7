"""A question names the nearest of the known words."""

from flaxmill.data.spelling import did_you_mean


def test_did_you_mean_is_silent_about_strangers():
    assert did_you_mean("trian", ["train", "data"]) == "did you mean train?"
    assert did_you_mean("xyzzy", ["train", "data"]) == ""
