"""What `flaxmill train` takes beside an experiment."""

import pytest

from flaxmill.train.commands.train_command import TrainArguments
from flaxmill.train.experiment import Experiment
from flaxmill.train.overrides import override


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "2000000"])
def test_minutes_are_above_0(minutes):
    with pytest.raises(ValueError, match=rf"^minutes={float(minutes)} must be above 0 and at most 1,000,000"):
        override(TrainArguments(config=Experiment()), ["--minutes", minutes], program="flaxmill train")
