"""Flags and commands of other trainers are refused with what they are called here."""

import pytest

from flaxmill.train import command_line
from flaxmill.train.commands.generate_command import GenerateArguments
from flaxmill.train.commands.train_command import TrainArguments
from flaxmill.train.experiment import Experiment
from flaxmill.train.overrides import flag_types, override
from flaxmill.train.terminal.other_names import _NAMES, other_name

FLAGS = flag_types(TrainArguments)
OTHER_NAMES = [name for names in _NAMES.values() for name in names]


def refusal(*arguments: str) -> str:
    with pytest.raises(ValueError, match="unknown field") as caught:
        override(TrainArguments(config=Experiment()), arguments, program="flaxmill train")
    return str(caught.value)


@pytest.mark.parametrize("flag", _NAMES)
def test_what_is_suggested_is_a_flag(flag):
    assert flag.partition(" ")[0].removeprefix("--") in FLAGS


def test_each_other_name_is_known_once_and_is_no_flag_of_ours():
    assert len(set(OTHER_NAMES)) == len(OTHER_NAMES)
    assert not set(OTHER_NAMES) & set(FLAGS)


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("--lr", "--optimizer.learning-rate here"),
        ("--num-train-epochs", "it is --epochs here"),
        ("--num_train_epochs", "it is --epochs here"),
        ("--per-device-train-batch-size", "--batch-size here; it counts the rows of all devices"),
        ("--per_device_train_batch_size", "--batch-size here"),
        ("--output-dir", "--run-dir here"),
        ("--output_dir", "--run-dir here"),
        ("--max_iters", "--steps here"),
        ("--warmup_steps", "--optimizer.warmup-fraction here; it is a share of all steps"),
        ("--bf16", "--model.dtype bfloat16 here"),
        ("--resume_from_checkpoint", "continues whenever its --run-dir is given again"),
    ],
)
def test_a_flag_of_another_trainer_is_refused_with_ours(given, suggested):
    for arguments in ((given, "3"), (f"{given}=3",)):
        message = refusal(*arguments)
        assert message.startswith(f"unknown field {given}; ")
        assert suggested in message
        assert "\n" not in message


def test_our_own_misspelled_names_are_still_guessed():
    assert "did you mean --steps?" in refusal("--stepz", "3")
    assert "did you mean --epochs?" in refusal("--epoch", "3")
    assert "did you mean --optimizer.learning-rate?" in refusal("--learning-rate", "3")


def test_commands_without_an_experiment_give_no_such_hints():
    assert other_name("max-length") is not None
    with pytest.raises(ValueError, match="unknown field --lr; `flaxmill generate --help`"):
        override(GenerateArguments(), ["--lr", "3"], program="flaxmill generate")


@pytest.mark.parametrize(
    ("command", "suggested"),
    [
        ("version", "`flaxmill --version`"),
        ("list", "`flaxmill configs` for experiments, `flaxmill runs` for runs"),
        ("finetune", "`flaxmill train`"),
        ("evaluate", "`flaxmill eval`"),
    ],
)
def test_a_command_of_another_program_is_refused_with_ours(command, suggested, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main([command])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"flaxmill: error: unknown command {command!r}; use {suggested}\n"


def test_every_suggested_command_exists():
    for text in command_line._OTHER_COMMANDS.values():
        for word in text.split("`flaxmill ")[1:]:
            command = word.partition("`")[0].split()[0]
            assert command in command_line.COMMANDS or command == "--version"
