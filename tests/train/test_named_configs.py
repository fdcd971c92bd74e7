import subprocess
import sys

import pytest

from flaxmill.train.named_configs import (
    DEFAULT_CONFIG,
    config_modules,
    list_configs,
    load_config,
    take_config,
)


def test_default_config_is_listed():
    assert DEFAULT_CONFIG in list_configs()


def test_every_listed_config_loads_under_its_own_name():
    assert [load_config(name).name for name in list_configs()] == list(list_configs())


def test_config_comes_first_and_flags_follow():
    assert take_config(["bert_tiny", "--steps", "3"])[0].name == "bert_tiny"
    assert take_config(["bert_tiny", "--steps", "3"])[1] == ["--steps", "3"]
    assert take_config(["--steps", "3"])[0].name == DEFAULT_CONFIG


def test_hyphens_and_capitals_are_met_with_the_name():
    with pytest.raises(ValueError, match="did you mean bert_base"):
        load_config("BERT-base")


HEAVY = (
    "numpy",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax",
    "tensorstore",
    "grain",
    "torch",
    "tokenizers",
    "tensorflow_datasets",
)


def test_no_config_waits_for_jax_or_what_brings_it():
    """The code that parses and refuses flags does not wait for them either."""
    modules = list(config_modules().values())
    modules += [
        "flaxmill.train.commands.train_command",
        "flaxmill.train.verify_resume.trial",
        "flaxmill.train.commands.data_command",
    ]
    source = f"import sys, {', '.join(modules)}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
