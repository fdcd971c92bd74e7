"""`flaxmill doctor`: a line for each finding, one JSON object, and the exit code."""

import json
import subprocess
import sys

import pytest

from flaxmill.train.commands import doctor_command
from flaxmill.train.commands.doctor_command import run as doctor
from flaxmill.train.doctor.devices import Answer
from flaxmill.train.doctor.findings import Finding, listed, with_fix

OK = Finding("disk", "ok", "runs: /x")
REMARK = Finding("devices", "remark", "no accelerator", "buy one")
WRONG = Finding("versions", "wrong", "jax is old [0.1]", "pip install --upgrade jax")


@pytest.fixture
def found(monkeypatch):
    """(findings) makes these the findings of the next examination."""

    def set_findings(*findings):
        monkeypatch.setattr(doctor_command, "examine", lambda: iter(findings))

    return set_findings


def test_each_finding_is_a_line_and_wrong_ones_fail(found, capsys):
    found(OK, REMARK, WRONG)
    assert doctor([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok      disk       runs: /x",
        "remark  devices    no accelerator; buy one",
        "wrong   versions   jax is old [0.1]; pip install --upgrade jax",
        "",
        "1 thing is wrong, 1 remark",
    ]


def test_remarks_alone_do_not_fail(found, capsys):
    found(OK, REMARK, REMARK)
    assert doctor([]) == 0
    assert capsys.readouterr().out.endswith("\nnothing is wrong, 2 remarks\n")


@pytest.mark.parametrize(("findings", "code"), [((OK, REMARK), 0), ((WRONG, WRONG, OK), 1)])
def test_json_is_one_object(found, capsys, findings, code):
    found(*findings)
    assert doctor(["--json"]) == code
    said = json.loads(capsys.readouterr().out)
    assert said["wrong"] == sum(one.state == "wrong" for one in findings)
    assert said["remarks"] == sum(one.state == "remark" for one in findings)
    assert [Finding(**one) for one in said["findings"]] == list(findings)


@pytest.mark.parametrize("arguments", [["--jsn"], ["runs"], ["--json", "yes"]])
def test_a_mistake_is_one_line_with_code_2(flaxmill, arguments):
    code, out, err = flaxmill("doctor", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("flaxmill: error: ")
    assert err.count("\n") == 1


def test_other_names_of_the_command_are_known(flaxmill):
    assert flaxmill("diagnose")[2] == ("flaxmill: error: unknown command 'diagnose'; use `flaxmill doctor`\n")


def test_where_jax_does_not_start_nothing_that_needs_it_is_tried(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAXMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    refused = Answer({"refusal": "JAX does not start: x; install it again"}, 0, "")
    monkeypatch.setattr(doctor_command, "ask_probe", lambda: refused)
    found = list(doctor_command.examine())
    assert {one.check for one in found} == {"versions", "launch", "disk", "memory", "cache", "devices"}
    assert [one.what for one in found if one.state == "wrong"] == ["JAX does not start: x"]


def test_help_and_mistakes_do_not_load_jax():
    program = (
        "import sys; from flaxmill.train.commands import doctor_command\n"
        "assert 'jax' not in sys.modules, 'loaded'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_the_whole_of_this_machine_is_examined(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    program = "from flaxmill.train.command_line import main; main()"
    command = [sys.executable, "-c", program, "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [Finding(**one) for one in json.loads(done.stdout)["findings"]]
    checks = [one.check for one in found]
    assert list(dict.fromkeys(checks)) == [
        *("versions", "launch", "disk", "memory", "cache", "devices", "product", "attention")
    ]
    attention = {one.what.partition(":")[0]: one.state for one in found if one.check == "attention"}
    assert attention == {
        **dict.fromkeys(("xla", "blocks", "ring", "splash, interpreted"), "ok"),
        "cudnn": "remark",
    }


def test_a_refusal_is_divided_at_its_fix():
    assert with_fix("disk", "wrong", "a; b; c") == Finding("disk", "wrong", "a", "b; c")
    assert with_fix("disk", "wrong", "a") == Finding("disk", "wrong", "a", None)


def test_a_long_list_is_cut():
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
