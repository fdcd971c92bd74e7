"""However rows are packed, masked, paired or infilled, a run on them resumes bit for bit, on any mesh."""

import dataclasses

import pytest
from parameters import swept
from small_runs import assert_resumes, assert_same_on_a_mesh

from flaxmill.train.checkpoint.config import CheckpointConfig

pytestmark = pytest.mark.slow

KINDS = {
    "infilled": ("causal", dict(packing="best_fit", fim_rate=0.5)),
    "spans": ("mlm", dict(packing="full_sentences", masking="spans", static_masks=True)),
    "order": ("mlm_nsp", dict(pair_task="order", masking="whole_words")),
    "ngrams": ("hybrid", dict(packing="first_fit", masking="ngrams")),
}


@pytest.fixture(params=["infilled", "spans", *swept("order", "ngrams")])
def experiment(request, make_experiment):
    objective, fields = KINDS[request.param]
    made = make_experiment(objective, checkpoint=CheckpointConfig(every=4))
    return dataclasses.replace(made, data=dataclasses.replace(made.data, **fields))


def test_a_run_that_stops_on_the_way_ends_as_one_that_does_not(experiment, tmp_path, stop_after):
    straight = assert_resumes(experiment, tmp_path, stop_after)
    assert straight.metrics["eval_loss"] > 0


def test_losses_are_those_of_one_device_on_any_mesh(experiment, tmp_path):
    assert_same_on_a_mesh(experiment, tmp_path)
