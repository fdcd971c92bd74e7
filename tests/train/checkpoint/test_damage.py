import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from damaging import CONFIG, DATA, PARAMS, TOKENS_END, WANTED, cut, flip, one_file, write_checkpoints

from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.checkpoint import store
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.train.checkpoint.damage import crc32c, find_damaged_arrays, find_damaged_files, load_manifest
from flaxmill.train.failures import DamagedCheckpointError


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"), (20, 30))


@pytest.fixture
def run(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "run")


def damage_of(run: Path, step: int = 30) -> str:
    """What restoring says is damaged, with the random names of files replaced."""
    with Checkpoints(run, CONFIG) as checkpoints, pytest.raises(DamagedCheckpointError) as caught:
        checkpoints.open(step).restore(WANTED)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith("; move that directory away to use step 20")
    damage = caught.value.damage.removeprefix(f"{run / str(step)} is damaged: ")
    return re.sub(r"[0-9a-f]{32}", "FILE", damage)


TREE = "params/d/*"
LOST = f"without which {PARAMS} cannot be read"
# File, what happens to it, and words of the message.
DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "data missing": (DATA, Path.unlink, f" is missing, which loses {PARAMS}"),
    "data empty": (DATA, lambda file: file.write_bytes(b""), f" is empty, which loses {PARAMS}"),
    "data cut": (DATA, cut, " ends at byte 6,"),
    "data flipped": (DATA, lambda file: flip(file, 200), "params/embed/tokens in params/ocdbt.process_0/d/"),
    "index flipped": (DATA, lambda file: flip(file, TOKENS_END - 2), "has changed before byte 8,020"),
    "tree missing": (TREE, Path.unlink, f" is missing, {LOST}"),
    "tree empty": (TREE, lambda file: file.write_bytes(b""), f" is empty, {LOST}"),
    "tree flipped": (TREE, lambda file: flip(file, 60), " is unreadable ("),
    "database missing": ("params/manifest.ocdbt", Path.unlink, f"params/manifest.ocdbt is missing, {LOST}"),
    "database cut": ("params/manifest.ocdbt", cut, "params/manifest.ocdbt is unreadable ("),
    "names missing": ("params/_METADATA", Path.unlink, f"params/_METADATA is missing, {LOST}"),
    "names cut": ("params/_METADATA", cut, "params/_METADATA is unreadable ("),
    "shapes cut": ("params/array_metadatas/*", cut, "params/array_metadatas/process_0 is unreadable ("),
    "part missing": ("params", shutil.rmtree, f"the directory params is missing, {LOST}"),
    "data directory missing": ("params/ocdbt.process_0", shutil.rmtree, f" is missing, which loses {PARAMS}"),
    "manifest missing": (
        store.COMMIT_FILE, Path.unlink, "its manifest cannot be read: _CHECKPOINT_METADATA is missing"
    ),
    "manifest empty": (
        store.COMMIT_FILE, lambda file: file.write_bytes(b""),
        "its manifest cannot be read: _CHECKPOINT_METADATA is empty",
    ),
    "manifest cut": (store.COMMIT_FILE, cut, "_CHECKPOINT_METADATA is unreadable ("),
    "manifest changed": (
        store.COMMIT_FILE,
        lambda file: file.write_text(file.read_text().replace('"step": 30', '"step": 31')),
        "its manifest does not match its checksum",
    ),
    "manifest of another program": (
        store.COMMIT_FILE, lambda file: file.write_text("{}"), "its manifest is missing"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_in_one_line(run, kind):
    pattern, damage, expected = DAMAGES[kind]
    damage(one_file(run / "30", pattern))
    assert expected in damage_of(run)


def test_flipped_bytes_of_several_arrays_name_each(run):
    file = one_file(run / "30", DATA)
    flip(file, 200)
    flip(file, TOKENS_END + 300)
    assert damage_of(run) == (
        "params/embed/tokens in params/ocdbt.process_0/d/FILE is not what was saved (digest differs); "
        "params/half in params/ocdbt.process_0/d/FILE is not what was saved (digest differs)"
    )


def test_a_whole_checkpoint_has_nothing_wrong(run):
    arrays = load_manifest(run / "30")["arrays"]
    assert find_damaged_files(run / "30", arrays) == []
    assert find_damaged_arrays(run / "30", arrays) == []


def test_arrays_saved_on_a_mesh_are_checked_shard_by_shard(tmp_path):
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    place = jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
    state = {"params": {"x": jax.device_put(np.arange(65_536.0, dtype=np.float32).reshape(256, 256), place)}}
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(1, state, {})
    arrays = load_manifest(tmp_path / "1")["arrays"]
    assert find_damaged_files(tmp_path / "1", arrays) == []
    with jax.set_mesh(mesh):  # as in a run
        assert find_damaged_arrays(tmp_path / "1", arrays) == []
        flip(one_file(tmp_path / "1", DATA), 100_000)
        (problem,) = find_damaged_arrays(tmp_path / "1", arrays)
    assert problem.startswith("params/x in params/ocdbt.process_0/d/")


def test_arrays_of_eight_byte_elements_are_not_shortened(tmp_path):
    with jax.enable_x64(True):
        with Checkpoints(tmp_path, CONFIG) as checkpoints:
            checkpoints.save(1, {"params": {"x": jnp.linspace(0, 1, 300, dtype=jnp.float64)}}, {})
        arrays = load_manifest(tmp_path / "1")["arrays"]
    assert arrays["params/x"]["dtype"] == "float64"
    assert find_damaged_arrays(tmp_path / "1", arrays) == []


def test_crc32c_is_castagnolis():
    assert crc32c(b"123456789") == 0xE3069283  # the check value that catalogues of CRCs give


def test_a_pipe_in_a_checkpoint_is_damage_and_not_waited_for(run):
    file = one_file(run / "30", DATA)
    file.unlink()
    os.mkfifo(file)
    assert damage_of(run) == f"{DATA.replace('*', 'FILE')} is neither a file nor a directory"


def test_a_manifest_that_nests_deeply_is_damage(run):
    (run / "30" / "_CHECKPOINT_METADATA").write_text("[" * 200_000)
    assert "_CHECKPOINT_METADATA is unreadable (maximum recursion depth exceeded" in damage_of(run)


WITHOUT_CHUNKS = [{"array_metadata": {"param_name": "half", "write_shape": [2]}}]


@pytest.mark.parametrize(
    "described", [5, "ab", [1], ["ab"], [{}], [{"array_metadata": "param_name"}], WITHOUT_CHUNKS]
)
def test_what_orbax_notes_of_an_array_is_read_with_care(described, run):
    (file,) = (run / "30" / "params" / "array_metadatas").iterdir()
    file.write_text(json.dumps({"array_metadatas": described}))
    assert damage_of(run).startswith(f"params/array_metadatas/{file.name} is unreadable, without which")
