"""JAX is told how exact float32 is; variables that give it nothing to compute on end in one line."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flaxmill.train import jax_environment
from flaxmill.train.jax_environment import (
    choose_platform,
    computes_on_cpu,
    count_cpu_devices,
    explain,
    set_float32_products,
)

pytestmark = pytest.mark.slow  # it starts many processes, or waits for them


def run(*arguments: str, cwd, **variables: str) -> subprocess.CompletedProcess:
    program = "from flaxmill.train.command_line import main; main()"
    env = os.environ | variables
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("JAX_PLATFORMS", "gpu", "gives JAX no device: Unable to initialize backend"),
        ("JAX_PLATFORMS", "cuda", "gives JAX no device: "),
        ("JAX_PLATFORMS", "nonsense", "gives JAX no device: Unable to initialize backend 'nonsense'"),
        ("JAX_NUM_CPU_DEVICES", "abc", "is not a value that JAX knows; correct it, or unset it"),
        ("JAX_NUM_CPU_DEVICES", "0", "gives JAX no device: "),
        ("JAX_ENABLE_X64", "maybe", "is not a value that JAX knows; correct it, or unset it"),
    ],
)
def test_a_variable_that_jax_refuses_is_named_in_one_line(name, value, reason, tmp_path):
    done = run("train", "gpt_tiny", "--run-dir", "run", cwd=tmp_path, **{name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"flaxmill: error: {name}={value} {reason}")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model for which only a device is missing."""
    import jax

    from flaxmill.model import ModelConfig, init_params, save_huggingface

    config = ModelConfig(
        num_layers=1, embed_dim=16, num_heads=2, vocab_size=300, max_positions=16, head="lm", causal=True
    )
    directory = tmp_path_factory.mktemp("model")
    save_huggingface(directory, config, init_params(config, jax.random.key(0)))
    return directory


@pytest.mark.parametrize(
    "arguments", [("generate", "{}", "The"), ("parity", "{}"), ("import", "{}", "run"), ("verify-resume",)]
)
def test_every_command_that_needs_a_device_says_so(arguments, model, tmp_path):
    given = [argument.format(model) for argument in arguments]
    done = run(*given, cwd=tmp_path, JAX_PLATFORMS="gpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("flaxmill: error: JAX_PLATFORMS=gpu gives JAX no device")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, AssertionError])
def test_other_errors_are_not_explained(kind):
    with pytest.raises(kind) as caught:
        raise kind("Unable to initialize backend")
    assert explain(caught.value) is None


def test_a_cpu_needs_no_setting_for_float32():
    import jax

    before = jax.config.values["jax_default_matmul_precision"]
    set_float32_products("float32")
    assert jax.config.values["jax_default_matmul_precision"] == before


@pytest.fixture
def precision(monkeypatch):
    """() -> JAX's precision of products, as on a GPU; it is put back after the test."""
    import jax

    name = "jax_default_matmul_precision"
    before = jax.config.values[name]
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION", raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield lambda: jax.config.values[name]
    jax.config.update(name, before)


def test_an_accelerator_is_told_of_float32_alone(precision, monkeypatch):
    set_float32_products("float32")
    assert precision() == "highest"
    set_float32_products("bfloat16")
    assert precision() is None
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "high")
    set_float32_products("float32")
    assert precision() is None


def test_training_evaluation_and_generation_tell_it(make_experiment, monkeypatch):
    from flaxmill.train import job, train
    from flaxmill.train.inference import loaded_model, run_evaluation, text_model

    told, tellers = [], (job, run_evaluation, loaded_model)
    for module in tellers:
        monkeypatch.setattr(module, "set_float32_products", lambda dtype, m=module: told.append((m, dtype)))
    experiment = make_experiment(steps=1)
    run = Path(train(experiment).directory)
    run_evaluation.evaluate_run(run)
    text_model.load_text_model(run)
    assert told == [(module, "float32") for module in tellers]


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """(device files) -> JAX_PLATFORMS as a start sets it, on a machine with the compilers and these files."""
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(jax_environment, "_has_compilers", lambda names: True)
    monkeypatch.setattr(jax_environment.importlib.metadata, "entry_points", lambda group: ())

    def start(*files: str) -> str | None:
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        choose_platform(tmp_path)
        return os.environ.pop("JAX_PLATFORMS", None)

    return start


def test_a_machine_with_compilers_alone_uses_its_cpu(fresh):
    assert fresh("null", "tty", "vfio/vfio") == "cpu"


@pytest.mark.parametrize("file", ["nvidia0", "nvidiactl", "accel0", "vfio/0", "dxg"])
def test_a_machine_with_an_accelerator_is_left_to_jax(file, fresh):
    assert fresh(file) is None


def test_a_user_who_names_platforms_has_them(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    choose_platform(tmp_path)
    assert os.environ["JAX_PLATFORMS"] == "cuda"


def test_without_compilers_and_with_other_plugins_nothing_is_chosen(fresh, monkeypatch):
    other = [SimpleNamespace(name="metal")]
    with monkeypatch.context() as patch:
        patch.setattr(jax_environment.importlib.metadata, "entry_points", lambda group: other)
        assert fresh() is None
    monkeypatch.setattr(jax_environment, "_has_compilers", lambda names: False)
    assert fresh() is None


def test_jax_computes_on_the_cpu_without_an_accelerator_or_where_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert computes_on_cpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert not computes_on_cpu(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert computes_on_cpu(tmp_path)


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"JAX_PLATFORMS": "cpu"}, 1),
        ({"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}, 8),
        ({"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "many"}, None),
        ({"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "0"}, None),
        ({"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, None),
        ({"JAX_PLATFORMS": "cuda,cpu"}, None),
        ({}, None),
    ],
)
def test_devices_are_counted_where_no_other_than_the_cpu_can_be_there(monkeypatch, variables, count):
    for name in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert count_cpu_devices() == count
