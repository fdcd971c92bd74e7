"""When one process is asked to stop or save, the steps that all processes make agree on it."""

import jax
import numpy as np

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.sharding.processes.step_signals import Signals, StepRequest

MESH = MeshConfig(data=4, fsdp=2)


class Asking:
    requested = True

    def started(self) -> None: ...

    def saved(self) -> None: ...


def test_a_process_alone_acts_at_once_and_needs_no_step():
    signals = Signals(make_mesh(MESH), Asking(), lambda: False)
    assert signals.inputs() is None
    assert signals.agreed(None) == StepRequest(stop=True, save=False)
    assert Signals(make_mesh(MESH), None, lambda: True).agreed(None) == StepRequest(stop=False, save=True)


def test_one_of_many_waits_for_what_the_step_reduced(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    signals = Signals(make_mesh(MESH), Asking(), lambda: False)
    wishes = signals.inputs()
    assert wishes is not None
    assert np.asarray(wishes).tolist() == [[1, 0]] * 8
    assert signals.agreed(None) == StepRequest()
    assert signals.agreed([0, 1]) == StepRequest(stop=False, save=True)
    assert signals.agreed(jax.jit(lambda x: x.max(axis=0))(wishes).tolist()) == StepRequest(
        stop=True, save=False
    )
