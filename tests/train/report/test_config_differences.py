"""Configs side by side: only what differs, and for one run, what differs from where it began."""

import dataclasses

from flaxmill.train.experiment import Experiment, flatten
from flaxmill.train.named_configs import load_config
from flaxmill.train.optimizer.config import OptimizerConfig
from flaxmill.train.report.config_differences import compare_configs, whole_config


def test_only_fields_that_differ_are_compared():
    one = Experiment(run_dir="one", seed=1)
    other = Experiment(
        run_dir="other", seed=2, optimizer=OptimizerConfig(learning_rate=0.25), trackers=("aim",)
    )
    compared = compare_configs(["one", "other"], [one, other])
    assert compared.columns == ["one", "other"]
    assert compared.values == {
        "seed": ["1", "2"],
        "trackers": ["[]", '["aim"]'],
        "optimizer.learning_rate": [str(one.optimizer.learning_rate), "0.25"],
    }


def test_a_single_run_is_compared_with_the_config_of_its_name():
    named = load_config("gpt_tiny")
    trained = dataclasses.replace(
        named, steps=7, run_dir="run", model=dataclasses.replace(named.model, vocab_size=2048, causal=True)
    )
    compared = compare_configs(["run"], [trained])
    assert compared.columns == ["config gpt_tiny", "run"]
    assert compared.values == {"steps": [str(named.steps), "7"]}


def test_a_single_run_of_another_name_is_compared_with_the_defaults():
    compared = compare_configs(["run"], [Experiment(name="mine", batch_size=6)])
    assert compared.title == "What differs from the defaults"
    assert compared.values == {
        "name": ["experiment", "mine"],
        "batch_size": [str(Experiment().batch_size), "6"],
    }


def test_a_whole_config_has_every_field():
    assert list(whole_config(Experiment())) == list(flatten(Experiment()))
