import dataclasses
from dataclasses import dataclass
from typing import Annotated, get_origin

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.train.experiment import Experiment, flatten
from flaxmill.train.overrides import INLINE, flag_types, override


def parse(*arguments: str, default: Experiment | None = None) -> Experiment:
    return override(default or Experiment(), arguments, program="flaxmill train")


def refusal(*arguments: str) -> str:
    return refusal_of(None, *arguments)


def refusal_of(default: Experiment | None, *arguments: str) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the tests look at the text
        parse(*arguments, default=default)
    return str(caught.value)


def test_nothing_given_changes_nothing():
    assert parse(default=Experiment(seed=7)) == Experiment(seed=7)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (("--steps", "7"), "steps", 7),
        (("--steps=7",), "steps", 7),
        (("--steps", "1", "--steps", "7"), "steps", 7),
        (("--batch_size", "6"), "batch_size", 6),
        (("--model.num-layers", "3"), "model.num_layers", 3),
        (("--model.num_layers=3",), "model.num_layers", 3),
        (("--model.norm", "rmsnorm"), "model.norm", "rmsnorm"),
        (("--model.max-positions", "None"), "model.max_positions", None),
        (("--model.causal", "False"), "model.causal", False),
        (("--mesh.data", "None"), "mesh.data", None),
        (("--optimizer.learning-rate", "3e-4"), "optimizer.learning_rate", 3e-4),
        (("--optimizer.clip-norm", "None"), "optimizer.clip_norm", None),
        (("--run-dir", "a b=c"), "run_dir", "a b=c"),
        (("--run-dir", "-x"), "run_dir", "-x"),
        (("--prompt=--x",), "prompt", "--x"),
        (("--prompt=",), "prompt", ""),
        (("--log-digests",), "log_digests", True),
        (("--log-digests", "--no-log-digests"), "log_digests", False),
        (("--model.no-scan-layers",), "model.scan_layers", False),
        (("--data.files", "a", "--data.files", "b"), "data.files", ("a", "b")),
        (("--checkpoint.keep-every", "10"), "checkpoint.keep_every", 10),
    ],
)
def test_flags_set_their_field(arguments, field, value):
    assert flatten(parse(*arguments))[field] == value


def test_lists_append_to_those_of_the_config():
    default = Experiment(data=DataConfig(files=("z",)))
    assert parse("--data.files", "a", default=default).data.files == ("z", "a")


LISTS = {
    "trackers": ("wandb", "aim"),
    "callbacks": ("first", "second"),
    "model.layer-pattern": ("local", "global"),
    "model.lora-targets": ("query",),
    "model.remat-tensors": ("mlp_up=save", "query=save"),
    "model.eos-ids": (3, 4),
    "model.rope-short-factors": (1.0, 1.5),
    "model.rope-long-factors": (1.0, 2.0),
    "data.files": ("z",),
    "data.valid-files": ("y",),
    "data.sources": ("z:z",),
    "data.valid-sources": ("y:y",),
    "data.source-changes": ("1:z=2",),
    "data.labels": ("a", "b"),
    "data.class-weights": (1.0, 2.0),
    "optimizer.freeze": ("embed/*",),
}


# What a list needs beside it: held-out files need other files to train on, changes need sources, and tensors
# are kept from being computed again.
COMPANIONS = {
    "callbacks": ("--callbacks-file", "x.py"),
    "model.remat-tensors": ("--model.remat", "full"),
    "data.valid-files": ("--data.files", "x"),
    "data.valid-sources": ("--data.sources", "x:x"),
    "data.source-changes": ("--data.sources", "z:z"),
}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--data.markup"], True),
        (["--data.no-markup"], False),
        (["--data.markup", "False"], False),
        (["--data.markup=None"], None),
        (["--data.markup", "--steps", "3"], True),
    ],
)
def test_a_truth_value_that_may_be_none_is_a_switch_too(given, meant):
    assert parse(*given).data.markup is meant


def test_a_switch_takes_no_value():
    assert "a truth value takes no argument; write --data.markup" in refusal("--data.no-markup=True")


def test_the_lists_are_known():
    flags = {flag for flag, hint in flag_types(Experiment).items() if get_origin(hint) is tuple}
    assert flags == LISTS.keys()


@pytest.mark.parametrize("flag", LISTS)
def test_none_empties_a_list_and_what_follows_fills_it_again(flag):
    name = flag.replace("-", "_")
    flags = [f"--{flag}={value}" for value in LISTS[flag]]
    # A local layer needs a window.
    filled = parse("--model.window", "4", *COMPANIONS.get(flag, ()), *flags)
    assert flatten(filled)[name] == LISTS[flag]
    assert flatten(parse(f"--{flag}", "None", default=filled)) == flatten(filled) | {name: ()}
    again = parse(flags[0], f"--{flag}=None", flags[-1], default=filled)
    assert flatten(again)[name] == LISTS[flag][-1:]


def test_lists_are_emptied_together_and_only_then_checked():
    data = DataConfig(files=("a",), valid_files=("b",))
    assert (
        parse("--data.files", "None", "--data.valid-files", "None", default=Experiment(data=data))
        == Experiment()
    )
    assert "needs training text beside it" in refusal_of(Experiment(data=data), "--data.files", "None")


@pytest.mark.slow
def test_every_field_can_be_given_the_text_of_its_value():
    flags = flag_types(Experiment)
    for name, value in flatten(Experiment()).items():
        flag = name.replace("_", "-")
        assert flag in flags
        if not isinstance(value, tuple | bool):
            assert flatten(parse(f"--{flag}={value}"))[name] == value


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--num-layers", "--model.num-layers"),
        ("--model.num-layer", "--model.num-layers"),
        ("--model.num_layer", "--model.num-layers"),
        ("--learning-rate", "--optimizer.learning-rate"),
        ("--learning-rat", "--optimizer.learning-rate"),
        ("--batchsize", "--batch-size"),
        ("--data.valid-file", "--data.valid-files"),
        ("--model.seed", "--seed or --data.seed"),
        ("--no-scan-layers", "--model.no-scan-layers"),
    ],
)
def test_unknown_fields_are_met_with_the_one_that_was_meant(given, meant):
    message = refusal(given, "3")
    assert f"unknown field {given}; " in message
    assert f"did you mean {meant}? " in message


def test_unknown_field_like_no_other_gets_no_guess():
    assert refusal("--xyzzy", "3") == "unknown field --xyzzy; `flaxmill train --help` lists all fields"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "x"), "--steps=x is refused; give it an integer"),
        (("--steps", "1.5"), "--steps=1.5 is refused; give it an integer"),
        (("--steps", "-x"), "--steps=-x is refused; give it an integer"),
        (
            ("--optimizer.learning-rate", "fast"),
            "--optimizer.learning-rate=fast is refused; give it a number",
        ),
        (("--mesh.data", "all"), "--mesh.data=all is refused; give it an integer or None"),
        (("--model.norm", "b"), "--model.norm=b is refused; give it one of layernorm, rmsnorm"),
        (("--model.causal", "yes"), "--model.causal=yes is refused; give it True or False or None"),
        (("--steps",), "--steps has no value; give it an integer"),
        (("--data.files", "--seed", "3"), "--data.files has no value; give it a text"),
        (
            ("bert_tiny",),
            "unexpected 'bert_tiny'; fields are set as --field value, see `flaxmill train --help`",
        ),
        (("-s", "3"), "unexpected '-s'; fields are set as --field value, see `flaxmill train --help`"),
        (("--data.files", "a", "b"), "unexpected 'b'; a list takes its flag again: --data.files b"),
        (
            ("--model.scan-layers", "False"),
            (
                "--model.scan-layers False: a truth value takes no argument; "
                "write --model.scan-layers or --model.no-scan-layers"
            ),
        ),
        (
            ("--log-digests=True",),
            "--log-digests=True: a truth value takes no argument; write --log-digests or --no-log-digests",
        ),
    ],
)
def test_bad_values_name_what_is_allowed(arguments, message):
    assert refusal(*arguments) == message


def test_refusals_of_the_config_itself_arrive_as_they_are():
    assert refusal("--steps", "0") == "steps=0 must be at least 1"
    assert refusal("--model.num-layers", "-1") == "model.num_layers=-1 must be at least 1"
    assert refusal("--batch-size", "6", "--accumulate", "4").startswith(
        "batch_size=6 does not divide into accum"
    )


def test_fields_are_checked_together_and_not_one_by_one():
    # Each alone would be refused: 96 does not divide over 4 * 8 heads, nor 128 over 3.
    model = parse("--model.num-heads", "3", "--model.embed-dim", "96").model
    assert (model.num_heads, model.embed_dim) == (3, 96)


def test_inline_fields_are_set_without_a_prefix():
    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        extend: bool = False
        config: Annotated[Experiment, INLINE]

    parsed = override(
        Arguments(config=Experiment()), ["--extend", "--steps", "3", "--mesh.fsdp", "2"], program="p"
    )
    assert parsed.extend
    assert parsed.config == dataclasses.replace(
        Experiment(), steps=3, mesh=dataclasses.replace(Experiment().mesh, fsdp=2)
    )


def test_help_explains_fields_and_shows_the_values_of_the_config(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help", default=Experiment(steps=1234))
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert stop.value.code == 0
    assert "--model.num-layers" in text
    assert "default: 1234" in text
    assert "Rows of an update over all devices" in text
    assert "the value None empties the list: --trackers None." in text
