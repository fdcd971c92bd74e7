"""However rows are packed, masked, paired or infilled, a run on them resumes bit for bit, on any mesh."""

import dataclasses

import pytest
from launching import assert_same_end, values_of

from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.checkpoint.config import CheckpointConfig
from flaxmill.train.loop import train

pytestmark = pytest.mark.slow

KINDS = {
    "infilled": ("causal", dict(packing="best_fit", fim_rate=0.5)),
    "spans": ("mlm", dict(packing="full_sentences", masking="spans", static_masks=True)),
    "order": ("mlm_nsp", dict(pair_task="order", masking="whole_words")),
    "ngrams": ("hybrid", dict(packing="first_fit", masking="ngrams")),
}
# Sums have another order: float32 rounds by 1.2e-7 a step, and eight steps of Adam enlarge that.
MESH_TOLERANCE = 1e-5


@pytest.fixture(params=KINDS)
def experiment(request, make_experiment):
    objective, fields = KINDS[request.param]
    made = make_experiment(objective, checkpoint=CheckpointConfig(every=4))
    return dataclasses.replace(made, data=dataclasses.replace(made.data, **fields))


def in_directory(experiment, directory, **changes):
    return dataclasses.replace(experiment, run_dir=str(directory), **changes)


def test_a_run_that_stops_on_the_way_ends_as_one_that_does_not(experiment, tmp_path, stop_after):
    straight = train(in_directory(experiment, tmp_path / "straight"))
    assert straight.metrics["eval_loss"] > 0
    assert train(in_directory(experiment, tmp_path / "stopped"), stop=stop_after(3)).preempted
    assert train(in_directory(experiment, tmp_path / "stopped")).step == 8
    assert_same_end(tmp_path / "stopped", straight.directory, 8)


def test_losses_are_those_of_one_device_on_any_mesh(experiment, tmp_path):
    train(in_directory(experiment, tmp_path / "one"))
    train(in_directory(experiment, tmp_path / "mesh", mesh=MeshConfig(data=2, fsdp=2, tensor=2)))
    found, expected = values_of(tmp_path / "mesh"), values_of(tmp_path / "one")
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=MESH_TOLERANCE)
