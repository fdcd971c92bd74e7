"""`flaxmill verify-resume` proves what holds, with processes really killed, and finds what does not."""

import json

import pytest

from flaxmill.train import loop
from flaxmill.train.best import BestConfig
from flaxmill.train.experiment import to_dict
from flaxmill.train.verify_resume.trial import trial

CONFIG = """
import json
from flaxmill.train.experiment import from_dict
{before}
config = from_dict(json.loads({config!r}))
"""

# A common mistake: the reading of batches starts over with the process.
RESTARTED_BATCHES = """
from flaxmill.train import loop
original = loop.read_ahead
loop.read_ahead = lambda *given, **more: original(*given, **more | dict(batch_offset=-given[2]))
"""
# Another mistake: each process draws its own batches.
OTHER_EACH_TIME = """
import time
from flaxmill.train import loop
original, shift = loop.read_ahead, time.time_ns() % 1_000_003
loop.read_ahead = lambda *given, **more: original(*given, **more | dict(batch_offset=shift))
"""


@pytest.fixture
def write_config(make_experiment, tmp_path, monkeypatch):
    """Writes a config file whose module first runs `before`, also here, where the command reads it."""
    monkeypatch.setattr(loop, "read_ahead", loop.read_ahead)  # so that this process gets it back

    def write(before="", **changes):
        config = make_experiment(run_dir=str(tmp_path / "runs" / "mine"), **changes)
        path = tmp_path / "config.py"
        path.write_text(CONFIG.format(before=before, config=json.dumps(to_dict(config))))
        return path

    return write


def kept_runs(tmp_path):
    return [path.name for path in (tmp_path / "runs").glob("verify-resume-small-*")]


@pytest.mark.slow
def test_a_sound_config_is_proved_and_nothing_left_behind(flaxmill, write_config, tmp_path):
    flags = ["--num-steps", "12", "--mesh-after.data", "2", "--mesh-after.tensor", "2"]
    code, out, err = flaxmill("verify-resume", write_config(), *flags)
    assert code == 0, err
    assert "proved: in 12 steps the killed run equals the straight one, bit for bit" in out
    assert "continued on data=2 fsdp=1 tensor=2" in out
    assert "DIFFERENT" not in out + err
    assert "steps 8 -> 12" in out  # what was changed for the proof
    assert "killed by SIGKILL" in err
    assert kept_runs(tmp_path) == []


def test_a_run_that_follows_its_best_evaluation_is_tried_without_evaluations(write_config):
    path = write_config(eval_every=2, best=BestConfig(metric="eval_loss"))
    experiment = trial([str(path), "--num-steps", "4"], "elsewhere", 2)
    assert (experiment.eval_every, experiment.best) == (None, BestConfig())


@pytest.mark.slow
def test_batches_that_start_over_are_found_and_the_first_step_is_named(flaxmill, write_config, tmp_path):
    path = write_config(RESTARTED_BATCHES)
    code, out, _ = flaxmill("verify-resume", path, "--num-steps", "12", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["verdict"] is False
    failed = {check["name"]: check for check in found["checks"] if not check["passed"]}
    first = found["checkpoint"]
    assert failed["batch_digest"]["first_step"] == failed["loss"]["first_step"] == first
    assert "key" not in failed
    assert "params/" in failed["parameters"]["first"]
    assert f"not proved: continued, batch_digest differs, first step {first}: " in found["conclusion"]
    assert all(check["section"] == "continued" for check in failed.values())
    [kept] = kept_runs(tmp_path)
    assert kept in found["conclusion"]


@pytest.mark.slow
def test_a_run_that_no_two_processes_make_alike_is_not_blamed_on_resuming(flaxmill, write_config):
    code, out, _ = flaxmill("verify-resume", write_config(OTHER_EACH_TIME), "--num-steps", "12")
    assert code == 1
    assert "not proved: until the kill, batch_digest differs, first step 0: " in out
    assert "even two straight runs of this config differ" in out


@pytest.mark.slow
def test_a_run_that_is_over_before_the_kill_proves_nothing(flaxmill, write_config, tmp_path, monkeypatch):
    from flaxmill.train.verify_resume import proof as verify_proof

    def over_too_soon(config, run_dir, kill_after, num_steps):
        run_dir.mkdir()

    monkeypatch.setattr(verify_proof, "run_to_end", lambda *_, **__: 1.0)
    monkeypatch.setattr(verify_proof, "run_until_killed", over_too_soon)
    code, out, err = flaxmill("verify-resume", write_config(), "--num-steps", "4", "--json")
    assert code == 1
    assert json.loads(out)["verdict"] is False
    assert "not proved: 4 steps are over before a checkpoint is written and the process killed" in err
    assert "give --num-steps 40" in err
    assert len(kept_runs(tmp_path)) == 1


@pytest.mark.slow
def test_what_the_devices_cannot_do_is_one_line_before_anything_is_trained(flaxmill, write_config, tmp_path):
    code, out, err = flaxmill("verify-resume", write_config(), "--mesh-after.data", "64")
    assert (code, out) == (2, "")
    assert err == (
        "flaxmill: error: mesh.data=64 mesh.fsdp=1 mesh.tensor=1 asks for 64 devices but there are 8; lower "
        "an axis, or set JAX_NUM_CPU_DEVICES to simulate more\n"
    )
    assert kept_runs(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num-steps", "3"], "num_steps=3 is too few to interrupt; use 4 or more"),
        (["--kill-after", "18"], "kill_after=18 must be in [1, 17]"),
        (["--kill-after", "0"], "kill_after=0 must be in [1, 17]"),
        (["--mesh-after.dat", "2"], "unknown field --mesh-after.dat; did you mean --mesh-after.data"),
        (["--mesh-after.data", "None", "--mesh-after.fsdp", "None"], "only one axis can take the remaining"),
        (["nothing_like_it"], "unknown config 'nothing_like_it'"),
    ],
)
def test_mistakes_are_one_line(flags, said, flaxmill):
    code, out, err = flaxmill("verify-resume", *flags)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_one_of_many_processes_is_refused(flaxmill, monkeypatch):
    variables = {"COORDINATOR_ADDRESS": "node1:1234", "NUM_PROCESSES": "4", "PROCESS_ID": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    code, _, err = flaxmill("verify-resume")
    assert code == 2
    assert "run it once, outside the job" in err
