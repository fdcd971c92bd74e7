"""A loss does not depend on how many devices computed it, nor on what each of them held."""

import dataclasses

import numpy as np
import pytest
from parameters import swept

from flaxmill.configs import bert_tiny, gpt_tiny
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train import train
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.train.metrics.metrics_file import read_metrics

pytestmark = pytest.mark.slow

CONFIGS = {"gpt_tiny": gpt_tiny.config, "bert_tiny": bert_tiny.config}
STEPS = 20
MESHES = {
    "8x1x1": (8, 1, 1),
    "1x8x1": (1, 8, 1),
    "1x1x4": (1, 1, 4),
    "2x2x2": (2, 2, 2),
    "2x2x2 with split tokens": (2, 2, 2, True),
}


@pytest.fixture(scope="module", params=CONFIGS)
def losses_on(request, corpus, tmp_path_factory, stop_after):
    """Trains a named config, with dropout, on a mesh; gives its loss at every step."""
    config = CONFIGS[request.param]
    patch = pytest.MonkeyPatch()
    patch.setattr(Checkpoints, "save", lambda *_: None)  # saves compile much on each mesh, and are not read

    def train_on(data, fsdp, tensor, splits_tokens=False):
        experiment = dataclasses.replace(
            config,
            steps=STEPS,
            log_every=1,
            run_dir=str(tmp_path_factory.mktemp("run")),
            mesh=MeshConfig(data=data, fsdp=fsdp, tensor=tensor, sequence_parallel=splits_tokens),
            model=dataclasses.replace(config.model, dropout=0.1),
            data=dataclasses.replace(config.data, files=(str(corpus),), documents="blank_lines"),
        )
        assert experiment.model.dtype == "float32"
        result = train(experiment, stop=stop_after(STEPS))
        return np.array([row["loss"] for row in read_metrics(result.directory / "metrics.jsonl")])

    yield train_on
    patch.undo()


@pytest.fixture(scope="module")
def single_device_losses(losses_on):
    return losses_on(1, 1, 1)


@pytest.mark.parametrize("mesh", ["2x2x2", "2x2x2 with split tokens", *swept("8x1x1", "1x8x1", "1x1x4")])
def test_loss_is_unchanged_by_mesh_shape(mesh, losses_on, single_device_losses):
    losses = losses_on(*MESHES[mesh])
    assert losses.shape == single_device_losses.shape == (STEPS,)
    assert losses[-1] < losses[0] - 0.5  # it trained, so that errors had time to grow
    # Sums over devices come in another order: float32 rounding, carried through 20 updates.
    np.testing.assert_allclose(losses, single_device_losses, rtol=1e-5)
