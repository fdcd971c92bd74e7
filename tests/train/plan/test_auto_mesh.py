"""--auto-mesh: what is chosen for known chips and simulated devices, how it is said, and what is refused."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest
from planned_runs import named

from flaxmill.model.config import ModelConfig
from flaxmill.sharding.hardware.chips import CHIPS, GIB
from flaxmill.sharding.mesh import AXES
from flaxmill.train.compilation.compiled_step import resolve_without_data
from flaxmill.train.experiment import Experiment
from flaxmill.train.named_configs import load_config
from flaxmill.train.plan.auto_mesh import Devices, best_mesh, choose_mesh, describe_choice, find_devices

SMALL = ("--data.vocab-size", "400", "--data.sequence-length", "32", "--model.num-layers", "1")
SIMULATED = Devices(8, 2 * GIB)


def on(chip: str, number: int) -> Devices:
    return Devices(number, CHIPS[chip].memory_bytes, CHIPS[chip])


def config(name: str, **changes) -> Experiment:
    return dataclasses.replace(resolve_without_data(load_config(name)), **changes)


@pytest.mark.slow
def test_a_run_says_its_mesh_and_trains_on_it_though_it_began_on_another(flaxmill, corpus, tmp_path):
    run = ("gpt_tiny", "--run-dir", tmp_path / "run", "--data.files", corpus, *SMALL)
    code, _, err = flaxmill("train", *run, "--steps", "1", "--mesh.data", "1", "--mesh.fsdp", "8")
    assert (code, err) == (0, "")
    code, out, _ = flaxmill("train", *run, "--steps", "2", "--extend", "--auto-mesh")
    assert code == 0
    assert out.startswith("mesh: data=8 fsdp=1 tensor=1 (the simplest of 9 that fit): about ")
    assert out.count("mesh: ") == 1
    assert "continues" in out
    assert "cpu: data=8 fsdp=1 tensor=1\n" in out
    assert "step 2/2" in out


@pytest.mark.slow
def test_few_rows_are_trained_on_all_devices(flaxmill, corpus, tmp_path):
    """Two rows and two heads for eight devices: they share heads, and the tokens of each row."""
    run = ("gpt_tiny", "--run-dir", tmp_path / "run", "--data.files", corpus, *SMALL)
    few = ("--batch-size", "2", "--model.num-heads", "2", "--model.dropout", "0", "--steps", "2")
    code, out, err = flaxmill("train", *run, *few, "--auto-mesh")
    assert (code, err) == (0, "")
    assert out.startswith("mesh: data=2 fsdp=1 context=2 tensor=2 (the simplest of ")
    assert "step 2/2" in out


@pytest.mark.parametrize(
    ("flags", "size"),
    [
        (("--mesh.data", "8"), "data=8"),
        (("--mesh.fsdp=2",), "fsdp=2"),
        (("--mesh.stage", "1"), "stage=1"),  # as it is without the flag
        (("--mesh.slices", "2"), "slices=2"),
    ],
)
def test_sizes_beside_it_are_refused(flaxmill, flags, size):
    code, out, err = flaxmill("train", "--auto-mesh", *flags)
    axis = size.partition("=")[0]
    assert (code, out) == (2, "")
    assert err == (
        f"flaxmill: error: mesh.{size} is set beside --auto-mesh, which chooses all sizes; leave out "
        f"--mesh.{axis}, or --auto-mesh\n"
    )


def test_what_is_no_size_stays():
    experiment = load_config("gpt_tiny")
    mesh = dataclasses.replace(experiment.mesh, sequence_parallel=True, fsdp=3, stage=2)
    found = choose_mesh(dataclasses.replace(experiment, mesh=mesh))
    assert found == dataclasses.replace(mesh, data=8, fsdp=1, stage=1)


def test_a_chip_has_the_memory_that_programs_may_use(monkeypatch):
    def found(kind: str, stats: dict[str, int] | None, last_slice: int = 0) -> Devices:
        device = SimpleNamespace(device_kind=kind, memory_stats=lambda: stats, process_index=0, slice_index=0)
        last = SimpleNamespace(**vars(device) | {"slice_index": last_slice})
        monkeypatch.setattr(jax, "devices", lambda: [device] * 4 + [last] * 4)
        monkeypatch.setattr(jax, "local_devices", lambda: [device])
        return find_devices()

    gpus = found("NVIDIA A100-SXM4-40GB", {"bytes_limit": 30 * GIB})
    assert gpus.chip == dataclasses.replace(CHIPS["a100"], memory_bytes=30 * GIB)
    assert (gpus.number, gpus.memory_bytes, gpus.num_slices, gpus.domain) == (8, 30 * GIB, 1, 8)
    assert found("TPU v5 lite", None, last_slice=1) == on("v5e", 8)._replace(num_slices=2)
    assert found("NVIDIA L4", {"bytes_limit": 16 * GIB}) == Devices(8, 16 * GIB)


def test_a_small_model_on_a_known_chip_is_copied():
    for name, devices in (("gpt2_124m", on("h100", 8)), ("bert_base", on("v5e", 4))):
        choice = best_mesh(config(name), devices)
        assert choice.shape["data"] == devices.number
        assert describe_choice(choice, devices).startswith(
            f"mesh: data={devices.number} fsdp=1 tensor=1 (the simplest of the fastest of "
        )


def test_a_model_that_fits_only_divided_is_divided():
    devices = on("h100", 64)
    choice = best_mesh(named("llama3_8b"), devices)
    assert choice.fits
    assert choice.shape["fsdp"] > 1
    assert choice.estimate.memory.total <= devices.memory_bytes
    assert " GiB of 74.51 GiB a device, 4.3 s a step at least, by the estimate" in describe_choice(
        choice, devices
    )


@pytest.mark.parametrize("devices", [SIMULATED, on("v5e", 8)], ids=["simulated", "v5e"])
@pytest.mark.parametrize("name", ["bert_tiny", "moe_tiny", "t5_tiny", "gpt_tiny"])
def test_every_kind_of_model_gets_a_mesh_of_all_devices(name, devices):
    for accumulate in (1, 2):
        choice = best_mesh(config(name, batch_size=16, accumulate=accumulate), devices)
        assert choice.fits
        assert choice.shape == dict.fromkeys(choice.shape, 1) | {"data": 8}


def test_rows_go_as_far_as_they_divide_and_the_rest_to_tensor():
    choice = best_mesh(config("gpt_tiny", batch_size=4, accumulate=2), SIMULATED)
    assert choice.shape == dict.fromkeys(AXES, 1) | {"data": 2, "tensor": 4}
    two_heads = dataclasses.replace(load_config("gpt_tiny").model, num_heads=2, dropout=0.0)
    experiment = dataclasses.replace(load_config("gpt_tiny"), batch_size=2, model=two_heads)
    choice = best_mesh(resolve_without_data(experiment), SIMULATED)
    assert choice.shape == dict.fromkeys(AXES, 1) | {"data": 2, "context": 2, "tensor": 2}


def test_simulated_devices_with_little_memory_share_the_state():
    model = ModelConfig(num_layers=4, embed_dim=512, num_heads=8)
    experiment = resolve_without_data(dataclasses.replace(load_config("gpt_tiny"), model=model))
    whole = best_mesh(experiment, SIMULATED)
    choice = best_mesh(experiment, Devices(8, whole.estimate.memory.total // 2))
    assert choice.fits
    assert choice.shape["fsdp"] > 1
    assert choice.num_meshes < whole.num_meshes


@pytest.mark.parametrize("devices", [on("v5e", 8), Devices(8, GIB)], ids=["v5e", "simulated"])
def test_where_nothing_fits_the_least_memory_is_taken_and_said(devices):
    choice = best_mesh(named("llama3_70b"), devices)
    assert not choice.fits
    assert choice.shape["data"] == 1
    said = describe_choice(choice, devices)
    assert said.startswith("mesh: data=1 fsdp=8 tensor=1 (the least memory of 10): about ")
    assert said.endswith("by the estimate; it may not fit: `flaxmill plan` says what would help")


@pytest.mark.parametrize("devices", [Devices(6, GIB), on("v5e", 6)], ids=["simulated", "v5e"])
def test_devices_that_nothing_divides_over_are_refused(devices):
    with pytest.raises(ValueError, match=r"^--auto-mesh finds no mesh for all 6 devices: batch_size=8 d"):
        best_mesh(config("gpt_tiny"), devices)


def test_a_tokenizer_of_unknown_size_needs_a_size():
    experiment = load_config("gpt_tiny")
    data = dataclasses.replace(experiment.data, tokenizer="mine/tokenizer.json")
    with pytest.raises(ValueError, match=r"give --model\.vocab-size"):
        choose_mesh(dataclasses.replace(experiment, data=data))


def test_stages_lie_across_hosts_whose_network_is_slow():
    chip = dataclasses.replace(CHIPS["h100"], network_bandwidth=CHIPS["h100"].network_bandwidth / 8)
    experiment = named("mixtral_8x7b", model__remat="dots", pipeline_rounds=4)
    choice = best_mesh(experiment, Devices(128, chip.memory_bytes, chip, domain=8))
    assert choice.fits
    assert choice.shape["stage"] > 1
    assert choice.estimate.pipeline.num_rounds == 4
