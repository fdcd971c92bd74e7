"""Sources and changes of a mixture, as users write them."""

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.source import Source, parse_change, parse_source, with_specs


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("web=0.7:web/*.txt", ("web", 0.7, None, "web/*.txt")),
        ("web:a.txt", ("web", 1.0, None, "a.txt")),
        ("s3:a.txt", ("s3", 1.0, None, "a.txt")),
        ("tfds=1:tfds:lm1b", ("tfds", 1.0, None, "tfds:lm1b")),
        ("web@2:a.txt", ("web", 1.0, 2.0, "a.txt")),
        ("web=3@1.5:tfds:lm1b:train", ("web", 3.0, 1.5, "tfds:lm1b:train")),
        ("web=1:s3://bucket/a=b@c.txt", ("web", 1.0, None, "s3://bucket/a=b@c.txt")),
    ],
)
def test_a_source_is_read_part_by_part(text, parts):
    assert tuple(parse_source(text)) == parts


def test_a_source_of_an_experiment_file_is_the_text_of_the_command_line():
    assert Source("web", "web/*.txt", weight=0.7) == "web=0.7:web/*.txt"
    assert Source("web", "a.txt", epochs=2) == "web=1@2:a.txt"
    assert DataConfig(sources=(Source("web", "a.txt"),)) == DataConfig(sources=("web=1:a.txt",))


def test_a_change_names_new_weights():
    step, weights = parse_change("800:web=0.2,books=0")
    assert (step, weights) == (800, {"web": 0.2, "books": 0.0})


def test_specs_change_and_all_else_stays():
    assert with_specs(("a=2@3:x.txt", "b:y.txt"), str.upper) == ("a=2@3:X.TXT", "b:Y.TXT")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sources": ("web",)}, "data.sources='web' is not a source; write NAME=WEIGHT:FILES"),
        ({"sources": ("we b=1:a.txt",)}, "is not a source; write NAME=WEIGHT:FILES"),
        ({"sources": ("tfds:lm1b",)}, "data.sources='tfds:lm1b' is not a source; write NAME=WEIGHT:FILES"),
        ({"sources": ("s3://bucket/a.txt",)}, "is not a source; write NAME=WEIGHT:FILES"),
        ({"sources": ("embedded:prose",)}, "is not a source; write NAME=WEIGHT:FILES"),
        ({"sources": ("web=0:a.txt",)}, "data.sources: the weight of web is 0; use a number above 0"),
        ({"sources": ("web=-1:a.txt",)}, "the weight of web is -1; use a number above 0"),
        ({"sources": ("web=nan:a.txt",)}, "the weight of web is nan; use a number above 0"),
        ({"sources": ("web=inf:a.txt",)}, "the weight of web is inf; use a number above 0"),
        ({"sources": ("web=lots:a.txt",)}, "the weight of web is lots; use a number above 0"),
        ({"sources": ("web=1@0:a.txt",)}, "the epochs of web is 0; use a number above 0"),
        ({"sources": ("web:a", "web:b")}, "two sources have the name web; give each a name of its own"),
        (
            {"sources": ("web:a",), "valid_sources": ("web:b",)},
            "two sources have the name web; give each a name of its own",
        ),
        ({"sources": "web:a"}, r"data.sources='web:a' is a string; write a tuple"),
        ({"sources": ("web:a",), "files": ("b",)}, "are both set; give one of them"),
        ({"valid_sources": ("web:a",)}, "belongs to a mixture; name its data.sources as well"),
        ({"source_changes": ("3:web=1",)}, "belongs to a mixture; name its data.sources as well"),
        ({"mix_temperature": 2.0}, "belongs to a mixture; name its data.sources"),
        ({"sources": ("web:a",), "mix_temperature": 0.0}, "data.mix_temperature=0.0 must be above 0"),
        (
            {"sources": ("web:a",), "source_changes": ("web=1",)},
            "is not a change of weights; write STEP",
        ),
        (
            {"sources": ("web:a",), "source_changes": ("5:web=-1",)},
            "the weight of web is -1; use a number",
        ),
        ({"sources": ("web:a",), "source_changes": ("5:wbe=1",)}, "weighs wbe, .*; did you mean web?"),
        (
            {"sources": ("web:a",), "source_changes": ("0:web=1",)},
            "comes at step 0, not after 0; give",
        ),
        ({"sources": ("web:a",), "source_changes": ("5:web=1", "5:web=2")}, "comes at step 5, not after 5"),
    ],
)
def test_what_no_mixture_can_have_is_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        DataConfig(**fields)
    assert "\n" not in str(caught.value)
