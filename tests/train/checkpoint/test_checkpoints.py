import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
from flaxmill.train.failures import CheckpointError, DamagedCheckpointError
from flaxmill.train.optimizer.optimizers import OptimizerConfig, make_optimizer

CONFIG = CheckpointConfig(every=10, keep_last=2)
METADATA = {"num_tokens": 12345, "versions": {"jax": "1.2"}, "loss": 0.1, "none": None, "list": [1, "two"]}


class State(NamedTuple):
    params: Any
    optimizer: Any
    step: jax.Array


def make_params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {
        "embed": {"embedding": normal(128, 64)},
        "layers": {"mlp": {"up": {"kernel": normal(2, 64, 128), "bias": normal(2, 128)}}},
        "half": {"kernel": normal(16, 16).astype(jnp.bfloat16)},
    }


def make_state(name: str = "adamw") -> State:
    params = make_params()
    optimizer = make_optimizer(OptimizerConfig(name=name), params)  # pyright: ignore[reportArgumentType]
    return State(params, jax.jit(optimizer.init)(params), jnp.int32(7))


def abstract(state: Any, sharding: Any = None) -> Any:
    place = sharding or SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x) if callable(place) else place),
        state,
    )


def assert_same(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save_one(directory: Path, state: Any, *steps: int, config: CheckpointConfig = CONFIG) -> None:
    with Checkpoints(directory, config) as checkpoints:
        for step in steps:
            checkpoints.save(step, state, METADATA)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "lion", "muon"])
def test_state_of_every_optimizer_comes_back_bit_for_bit(tmp_path, name):
    state = make_state(name)
    save_one(tmp_path, state, 7)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        stored = checkpoints.open(7)
        found, metadata = stored.restore(abstract(state)), stored.metadata
    assert_same(found, state)
    assert metadata == METADATA


def test_state_moves_between_meshes(tmp_path):
    def on(data, fsdp, tensor):
        mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))

        def place(x):
            split = x.ndim >= 2 and x.shape[-2] % 8 == 0
            return NamedSharding(
                mesh, PartitionSpec(*[None] * (x.ndim - 2), *(("fsdp", "tensor") if split else ()))
            )

        return place

    state = make_state()
    shapes = abstract(state)
    found = jax.tree.map(lambda x: jax.device_put(x, on(1, 8, 1)(x)), state)
    meshes = [on(1, 4, 2), on(2, 2, 2), None]
    for number, placement in enumerate(meshes):
        save_one(tmp_path / str(number), found, 1)
        wanted = abstract(shapes, placement)
        with Checkpoints(tmp_path / str(number), CONFIG) as checkpoints:
            found = checkpoints.open(1).restore(wanted)
        for array, shape in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert array.sharding == shape.sharding
        assert_same(found, state)


def test_state_may_be_donated_after_save_and_after_restore(tmp_path):
    state = make_state()
    expected = jax.tree.map(lambda x: np.array(x), state)
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(1, state, {})
        bump(state)
        checkpoints.wait()
        found = checkpoints.open(1).restore(abstract(expected))
        again = checkpoints.open(1).restore(abstract(expected))
        bump(found)
    assert_same(again, expected)


def test_params_come_back_alone(tmp_path):
    state = make_state()
    save_one(tmp_path, state, 3)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        assert_same(checkpoints.open(3).restore_params(abstract(state.params)), state.params)


def test_newest_and_multiples_are_kept(tmp_path):
    small = {"params": {"x": jnp.arange(3)}}
    config = CheckpointConfig(keep_last=2, keep_every=30)
    save_one(tmp_path, small, 10, 20, 30, 40, 50, 60, 70, config=config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["30", "60", "70"]
    with Checkpoints(tmp_path, config) as checkpoints:
        assert checkpoints.steps() == [30, 60, 70]


def test_half_written_directories_do_not_count_and_are_cleared(tmp_path):
    small = {"params": {"x": jnp.arange(3)}}
    save_one(tmp_path, small, 10)
    for name in ("20.orbax-checkpoint-tmp", "5.discarded", "30"):
        (tmp_path / name).mkdir()
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        assert checkpoints.latest_step() == 10
        checkpoints.save(20, small, {})
        checkpoints.wait()
        assert checkpoints.steps() == [10, 20]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "20", "30"]


def test_step_of_an_abandoned_run_is_replaced(tmp_path):
    for value in (1, 2):
        save_one(tmp_path, {"params": {"x": jnp.full(3, value)}}, 10)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        found = checkpoints.open(10).restore(abstract({"params": {"x": jnp.full(3, 0)}}))
    assert found["params"]["x"].tolist() == [2, 2, 2]


def test_flipped_byte_is_found_and_named(tmp_path):
    state = make_state()
    save_one(tmp_path, state, 10, 20)
    files = [path for path in (tmp_path / "20" / "params").rglob("*") if path.is_file()]
    biggest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(biggest.read_bytes())
    found = set()
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        for place in range(100, len(data), len(data) // 8):
            flipped = data.copy()
            flipped[place] ^= 0x10
            biggest.write_bytes(flipped)
            with pytest.raises(DamagedCheckpointError) as caught:
                checkpoints.open(20).restore(abstract(state))
            message = str(caught.value)
            assert str(tmp_path / "20") in message
            assert message.endswith("move that directory away to use step 10")
            assert "\n" not in message
            assert "digest differs" in message
            assert f" in {biggest.relative_to(tmp_path / '20')} is not what was saved" in message
            found |= set(re.findall(r"params/[a-z/]+(?= in)", message))
        assert found >= {"params/embed/embedding", "params/layers/mlp/up/kernel"}
        biggest.write_bytes(data)
        assert_same(checkpoints.open(20).restore(abstract(state)), state)


def test_missing_step_is_named(tmp_path):
    save_one(tmp_path, {"params": {"x": jnp.arange(3)}}, 10)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        with pytest.raises(CheckpointError, match=r"11 is not a checkpoint; there are \[10\]"):
            checkpoints.open(11).restore({})
        assert Checkpoints(tmp_path / "none", CONFIG).latest_step() is None
    assert not (tmp_path / "none").exists()


def test_directory_below_a_file_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with Checkpoints(tmp_path / "file" / "checkpoints", CONFIG) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(OSError, match="file/checkpoints"):
            checkpoints.save(1, {"params": {"x": jnp.arange(3)}}, {})


def test_unwritable_directory_is_an_os_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write wherever the mount allows it
    with (
        Checkpoints(tmp_path, CONFIG) as checkpoints,
        pytest.raises(PermissionError, match="cannot be written"),
    ):
        checkpoints.save(1, {"params": {"x": jnp.arange(3)}}, {})


def test_step_saved_twice_is_written_once(tmp_path):
    small = {"params": {"x": jnp.arange(3)}}
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(1, small, {})
        checkpoints.wait()
        written = (tmp_path / "1" / "_CHECKPOINT_METADATA").stat().st_mtime_ns
        checkpoints.save(1, small, {})
        checkpoints.wait()
        assert (tmp_path / "1" / "_CHECKPOINT_METADATA").stat().st_mtime_ns == written


def test_arrays_are_stored_uncompressed_so_that_a_flipped_byte_spoils_no_other(tmp_path):
    save_one(tmp_path, {"params": {"x": jnp.zeros(10_000)}}, 1)
    (file,) = (tmp_path / "1" / "params" / "ocdbt.process_0" / "d").iterdir()
    assert file.stat().st_size >= 40_000


def test_params_come_back_without_a_group(tmp_path):
    state = make_state()
    save_one(tmp_path, state, 3)
    kept = {name: tree for name, tree in state.params.items() if name != "half"}
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        assert_same(checkpoints.open(3).restore_params(abstract(state.params), without=("half",)), kept)
        assert_same(checkpoints.open(3).restore_params(abstract(kept), without=("half",)), kept)
        with pytest.raises(CheckpointError, match="it also holds params/half/kernel"):
            checkpoints.open(3).restore_params(abstract(kept))
        with pytest.raises(CheckpointError, match=r"no params head to leave out; it has embed, half, layers"):
            checkpoints.open(3).restore_params(abstract(kept), without=("head",))


def test_a_save_in_progress_is_seen(tmp_path, monkeypatch):
    from orbax.checkpoint import v1

    class Slow:
        def __init__(self):
            self.done = threading.Event()

        def result(self):
            self.done.wait(30)

    slow = Slow()
    monkeypatch.setattr(v1, "save_checkpointables_async", lambda *_, **__: slow)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        assert not checkpoints.saving
        checkpoints.save(20, {"params": {"x": jnp.arange(3)}}, {})
        assert checkpoints.saving
        slow.done.set()
        checkpoints.wait()
        assert not checkpoints.saving


def test_failed_save_is_reported_and_keeps_the_last_one(tmp_path, monkeypatch):
    from orbax.checkpoint import v1

    class Failing:
        def result(self):
            raise ValueError("outer") from RuntimeError("RESOURCE_EXHAUSTED:\n disk full")

    small = {"params": {"x": jnp.arange(3)}}
    save_one(tmp_path, small, 10)
    monkeypatch.setattr(v1, "save_checkpointables_async", lambda *_, **__: Failing())
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=1)) as checkpoints:
        checkpoints.save(20, small, {})
        with pytest.raises(
            CheckpointError, match="20 could not be saved: RESOURCE_EXHAUSTED: disk full; nothing"
        ):
            checkpoints.wait()
        assert checkpoints.steps() == [10]


def test_error_in_the_run_is_not_hidden_by_a_failed_save(tmp_path, monkeypatch):
    def fail():
        raise CheckpointError("disk full")

    with pytest.raises(ZeroDivisionError) as caught, Checkpoints(tmp_path, CONFIG) as checkpoints:  # noqa: PT012
        monkeypatch.setattr(checkpoints, "wait", fail)
        raise ZeroDivisionError
    assert caught.value.__notes__ == ["disk full"]


def test_metadata_that_json_would_change_is_refused(tmp_path):
    with Checkpoints(tmp_path, CONFIG) as checkpoints, pytest.raises(TypeError, match="JSON"):
        checkpoints.save(1, {"params": {"x": jnp.arange(3)}}, {"tuple": (1, 2)})


def test_stored_tree_is_plain_nested_dicts(tmp_path):
    from orbax.checkpoint import v1

    save_one(tmp_path, make_state(), 1)
    loaded = v1.load_checkpointables(str(tmp_path / "1"), {"params": abstract(make_params())})
    assert_same(loaded["params"], make_params())
    stored = json.loads((tmp_path / "1" / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]["flaxmill"]
    assert stored["arrays"]["params/half/kernel"]["dtype"] == "bfloat16"


KILLED = """
import sys, jax.numpy as jnp
from pathlib import Path
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
state = {"params": {"x": jnp.arange(30_000_000, dtype=jnp.float32)}}
with Checkpoints(Path(sys.argv[1]), CheckpointConfig(keep_last=1)) as checkpoints:
    checkpoints.save(10, state, {})
    checkpoints.wait()
    checkpoints.save(20, state, {})
    print("saving", flush=True)
"""


@pytest.mark.slow
def test_kill_while_saving_leaves_the_previous_checkpoint(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert errors == ""  # nothing of what Orbax logs reaches the terminal
    wanted = abstract({"params": {"x": jax.ShapeDtypeStruct((30_000_000,), jnp.float32)}})
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=1)) as checkpoints:
        assert checkpoints.steps() == [10]
        state = checkpoints.open(10).restore(wanted)
        checkpoints.save(20, state, {})
    assert os.listdir(tmp_path) == ["20"]


@pytest.mark.parametrize("field", ["every", "keep_last", "keep_every"])
def test_config_refuses_zero(field):
    with pytest.raises(ValueError, match=rf"checkpoint.{field}=0 must be at least 1"):
        CheckpointConfig(**{field: 0})  # pyright: ignore[reportArgumentType]


def test_config_refuses_minutes_that_never_come():
    with pytest.raises(ValueError, match=r"checkpoint.every_minutes=0.0 must be greater than 0"):
        CheckpointConfig(every_minutes=0.0)
