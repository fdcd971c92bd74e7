"""Variables that give JAX nothing to compute on end in one line that names them."""

import os
import subprocess
import sys

import pytest

from flaxmill.train.jax_environment import explain, set_float32_products

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
