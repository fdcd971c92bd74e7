"""Devices: what JAX has, what it leaves unused, why it does not start, and how fast it multiplies."""

import os
import subprocess

import pytest

from flaxmill.sharding.hardware.chips import GIB
from flaxmill.train.doctor import devices as devices_check
from flaxmill.train.doctor.devices import (
    Answer,
    ask_probe,
    check_devices,
    check_product,
    check_shares,
    is_usable,
    num_gpus,
    on_cpu_alone,
)

CPU = {"platform": "cpu", "kind": "cpu", "bytes": None}
H100 = {"platform": "gpu", "kind": "NVIDIA H100 80GB HBM3", "bytes": 79 * GIB}


def answer(*devices, chips=0, flops=1e11, dtype="float32", size=1024):
    product = {"dtype": dtype, "size": size, "flops": flops}
    return Answer({"devices": [*devices], "tpu_chips": chips, "product": product}, 0, "")


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """A machine without a driver, where nothing is told to JAX."""
    for name in ("JAX_PLATFORMS", "XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices_check.shutil, "which", lambda name: None)
    monkeypatch.setattr(devices_check, "_has_cuda_plugin", lambda: False)


def lines(given, root):
    return [
        (one.state, f"{one.what}; {one.fix}" if one.fix else one.what) for one in check_devices(given, root)
    ]


def with_driver(root):
    (root / "dev").mkdir()
    (root / "dev/nvidia0").touch()
    (root / "dev/nvidiactl").touch()
    return root


def test_accelerators_are_described(tmp_path):
    assert lines(answer(*[H100] * 8), tmp_path) == [("ok", "gpu: 8 x NVIDIA H100 80GB HBM3, 79.0 GiB each")]


def test_no_accelerator_is_a_remark(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert lines(answer(CPU), tmp_path) == [
        ("ok", "cpu: 1 x cpu"),
        (
            "remark",
            "no accelerator: 2 CPU cores train small models alone; `flaxmill plan` says what a model needs",
        ),
    ]


def test_a_gpu_without_its_plugin_is_wrong(tmp_path):
    assert lines(answer(CPU), with_driver(tmp_path))[1:] == [
        ("wrong", "an NVIDIA driver is here (nvidia0), and JAX uses no GPU; pip install 'flaxmill[cuda]'")
    ]


def test_a_gpu_that_its_plugin_does_not_find_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(devices_check, "_has_cuda_plugin", lambda: True)
    ((state, line),) = lines(answer(CPU), with_driver(tmp_path))[1:]
    assert state == "wrong"
    assert "and JAX uses no GPU though its plugin is installed; run nvidia-smi" in line


def test_a_gpu_that_jax_is_told_to_leave_is_a_remark(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert lines(answer(CPU), with_driver(tmp_path))[1:] == [
        (
            "remark",
            "an NVIDIA driver is here (nvidia0), and JAX uses no GPU: JAX_PLATFORMS=cpu; unset JAX_PLATFORMS",
        )
    ]


def test_a_card_without_a_driver_is_a_remark(tmp_path):
    for name, vendor, kind in (
        ("0", "0x10de", "0x030200"),
        ("1", "0x10de", "0x040300"),
        ("2", "0x8086", "0x030000"),
    ):
        (tmp_path / "sys/bus/pci/devices" / name).mkdir(parents=True)
        (tmp_path / "sys/bus/pci/devices" / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / "sys/bus/pci/devices" / name / "class").write_text(f"{kind}\n")
    assert lines(answer(CPU), tmp_path)[1:] == [
        (
            "remark",
            (
                "NVIDIA cards on the PCI bus: 1, and no driver's files in /dev; "
                "install the driver, or start the container with --gpus all"
            ),
        )
    ]


def test_tpus_that_jax_does_not_use_are_wrong(tmp_path, monkeypatch):
    line = "4 TPU chips are here, and JAX uses the CPU"
    assert lines(answer(CPU, chips=4), tmp_path)[1:] == [("wrong", f"{line}; pip install 'flaxmill[tpu]'")]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert lines(answer(CPU, chips=4), tmp_path)[1:] == [
        ("remark", f"{line}: JAX_PLATFORMS=cpu; unset JAX_PLATFORMS")
    ]


def test_a_refusal_is_wrong_with_its_fix(tmp_path):
    refused = Answer({"refusal": "JAX_PLATFORMS=tpu gives JAX no device: none; unset it"}, 0, "")
    assert lines(refused, tmp_path) == [("wrong", "JAX_PLATFORMS=tpu gives JAX no device: none; unset it")]
    assert not is_usable(refused)


def test_a_process_that_is_ended_is_wrong_and_names_the_flags(tmp_path, monkeypatch):
    ended = Answer(None, -6, "Unknown flag")
    assert lines(ended, tmp_path) == [
        ("wrong", "JAX ends the process (SIGABRT): Unknown flag; install jax, jaxlib and its plugins again")
    ]
    monkeypatch.setenv("XLA_FLAGS", "--xla_foo")
    assert lines(ended, tmp_path) == [
        ("wrong", "JAX ends the process (SIGABRT): Unknown flag; correct or unset XLA_FLAGS=--xla_foo")
    ]


def test_a_start_that_takes_too_long_is_wrong(tmp_path):
    ((state, line),) = lines(Answer(None, None, ""), tmp_path)
    assert state == "wrong"
    assert line.startswith("JAX did not start within 120 s; end the process that holds the device")


def test_a_gpu_is_named_even_where_jax_does_not_start(tmp_path):
    refused = Answer({"refusal": "JAX does not start: x"}, 0, "")
    assert [line for _, line in lines(refused, with_driver(tmp_path))] == [
        "JAX does not start: x",
        "an NVIDIA driver is here (nvidia0), and JAX uses no GPU; pip install 'flaxmill[cuda]'",
    ]


@pytest.mark.parametrize(("share", "state"), [(0.73, "ok"), (0.5, "ok"), (0.4, "remark"), (0.19, "wrong")])
def test_a_product_far_below_the_peak_is_said(share, state):
    given = answer(H100, flops=share * 989e12, dtype="bfloat16", size=8192)
    (finding,) = check_product(given)
    rate = f"{share * 989:.3g} TFLOP/s, {share:.0%} of the published 989 of NVIDIA H100 80GB HBM3"
    assert (finding.state, finding.what) == (state, f"bfloat16 8192 x 8192: {rate}")
    assert (finding.fix is None) == (state == "ok")


def test_a_product_without_a_published_peak_is_a_figure():
    (finding,) = check_product(answer(CPU))
    said = "float32 1024 x 1024: 100 GFLOP/s (no published peak is known for cpu)"
    assert (finding.state, finding.what) == ("ok", said)
    assert list(check_product(Answer(None, 1, ""))) == []


def test_devices_are_counted():
    assert on_cpu_alone(answer(CPU))
    assert not on_cpu_alone(answer(H100))
    assert num_gpus(answer(H100, H100)) == 2
    assert num_gpus(Answer(None, 1, "")) == 0


def test_gpus_that_do_not_divide_over_the_processes_are_wrong(monkeypatch):
    from flaxmill.sharding.processes import coordination

    monkeypatch.setattr(coordination, "count_gpus", lambda: 4)
    many = {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "1"}
    (finding,) = check_shares(many)
    assert finding.state == "wrong"
    assert finding.what == "4 GPUs do not divide over the 3 processes of this node"
    (finding,) = check_shares(many | {"JAX_NUM_PROCESSES": "2"})
    assert finding.what == "this process would take GPUs 2, 3"
    assert list(check_shares({})) == list(check_shares({"JAX_PROCESS_ID": "1"})) == []


def test_the_probe_answers_and_imports_nothing_of_the_current_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jax.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    given = ask_probe()
    assert is_usable(given), given
    assert given.said is not None
    assert given.said["devices"] == [CPU]
    assert given.said["product"]["flops"] > 1e8


def test_flags_that_xla_does_not_know_end_the_probe_with_their_name(monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "--xla_foo=1")
    given = ask_probe()
    assert not is_usable(given)
    assert given.last_line == "Unknown flag in XLA_FLAGS: --xla_foo=1"
    ((state, line),) = lines(given, tmp_path)
    assert state == "wrong"
    assert line.endswith("Unknown flag in XLA_FLAGS: --xla_foo=1; correct or unset XLA_FLAGS=--xla_foo=1")


def test_a_platform_that_is_not_here_is_the_probes_refusal(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    ((state, line),) = lines(ask_probe(), tmp_path)
    assert state == "wrong"
    assert line.startswith("JAX_PLATFORMS=cuda gives JAX no device")
    assert line.endswith("; unset it, or name what this machine has, such as JAX_PLATFORMS=cpu")


def test_a_jax_that_cannot_be_imported_is_a_refusal(monkeypatch, tmp_path):
    (tmp_path / "jax.py").write_text("raise RuntimeError('jaxlib is version 1, but this version needs 2')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert lines(ask_probe(), tmp_path) == [
        ("wrong", "JAX does not start: jaxlib is version 1, but this version needs 2")
    ]


def test_a_probe_that_hangs_or_says_nonsense_is_no_answer(monkeypatch):
    def hangs(*arguments, timeout, **named):
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(devices_check.subprocess, "run", hangs)
    assert ask_probe() == Answer(None, None, "")
    nonsense = subprocess.CompletedProcess([], 0, "no json\n", "x\n\n")
    monkeypatch.setattr(devices_check.subprocess, "run", lambda *arguments, **named: nonsense)
    assert ask_probe() == Answer(None, 0, "x")
