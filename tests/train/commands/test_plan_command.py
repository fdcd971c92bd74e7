"""`flaxmill plan` compiles and prints; its mistakes are one line, and what it saves is what train runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ("--model.num-layers", "2", "--data.vocab-size", "400", "--steps", "10")


def test_a_plan_says_what_a_device_holds_and_sends(flaxmill):
    code, out, err = flaxmill("plan", "gpt_tiny", "--topology", "cpu:8", *SMALL)
    assert (code, err) == (0, "")
    assert out.startswith("gpt_tiny on cpu:8 (data=8 fsdp=1 tensor=1) takes ")
    for words in ("8 CPU devices; the largest array is ", "optimizer", "all-reduce", "Compiling took"):
        assert words in out


def test_json_is_one_object_with_what_programs_read(flaxmill):
    arguments = ("--mesh.data", "1", "--mesh.fsdp", "8", "--json")
    code, out, err = flaxmill("plan", "gpt_tiny", "--topology", "cpu:8", *SMALL, *arguments)
    plan = json.loads(out)
    assert (code, err) == (0, "")
    assert {"memory", "collectives", "flops", "roofline", "fits"} <= set(plan)
    assert plan["fits"] is True
    assert plan["mesh"] == {"data": 1, "stage": 1, "fsdp": 8, "expert": 1, "context": 1, "tensor": 1}
    assert {row["kind"] for row in plan["collectives"]} <= {
        *("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute", "send")
    }
    assert all(row["axes"] == ["fsdp"] for row in plan["collectives"])


def test_slices_set_the_mesh(flaxmill):
    arguments = ("--topology", "cpu:4", "--slices", "2", "--mesh.fsdp", "4", "--json")
    code, out, _ = flaxmill("plan", "gpt_tiny", *SMALL, *arguments)
    assert code == 0
    plan = json.loads(out)
    assert plan["mesh"] == {"data": 2, "stage": 1, "fsdp": 4, "expert": 1, "context": 1, "tensor": 1}
    assert {(*row["axes"], row["across_slices"]) for row in plan["collectives"]} >= {("fsdp", False)}
    assert all(row["across_slices"] == ("data" in row["axes"]) for row in plan["collectives"])


def test_a_page_is_written(flaxmill, tmp_path):
    page = tmp_path / "plan.html"
    code, _, err = flaxmill("plan", "gpt_tiny", "--topology", "cpu:8", *SMALL, "--html", page)
    assert (code, err) == (0, f"wrote {page}\n")
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--topology is not given; name the devices to plan for, as in --topology v5p:4x4x4"),
        (("--topology", "v9x:4x4"), "'v9x' is no chip that is known"),
        (("--topology", "cpu:8", "--mesh.data", "3"), "is 3, and cpu:8 has 8 devices"),
        (("--topology", "cpu:8", "--mesh.data", "16"), "asks for 16 devices but there are 8"),
        (("--topology", "cpu:8", "--batch-size", "12"), "batch_size=12 does not divide"),
        (
            ("--topology", "cpu:8", "--mesh.data", "1", "--mesh.tensor", "8"),
            "model.num_heads=4 does not divide over mesh.tensor=8",
        ),
        (("--topology", "cpu:8", "--data.tokenizer", "no/tokenizer.json"), "no vocabulary size"),
        (("--topology", "cpu:8", "--search"), "--search ranks by the speed of a chip"),
        (("--topology", "cpu:8", "--slices", "0"), "slices=0 must be at least 1"),
        (("--topologie", "cpu:8"), "unknown field --topologie; did you mean --topology?"),
        (
            ("--topology", "cpu:8", "--html", "nowhere/page.html"),
            "is in nowhere, which is no directory; name",
        ),
        (("--topology", "cpu:8", "--html", "."), "html=. is a directory; name a file, such as plan.html"),
        (
            ("--topology", "cpu:8", "--save", __file__),
            "is no directory; name a directory of your own, or one",
        ),
        (("--topology", "cpu:8", "--save", f"{__file__}/programs"), "is below "),
    ],
)
def test_a_mistake_is_one_line(arguments, said, flaxmill):
    code, out, err = flaxmill("plan", "gpt_tiny", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("flaxmill: error: ")
    assert said in err
    assert err.count("\n") == 1


def test_programs_are_not_put_among_other_files(flaxmill, tmp_path):
    for name in ("jit_train_step-0a-cache", "jit_train_step-0a-atime", ".lockfile", "notes.txt"):
        (tmp_path / name).write_text("")
    code, out, err = flaxmill("plan", "gpt_tiny", "--topology", "cpu:8", "--save", tmp_path)
    assert (code, out) == (2, "")
    assert "holds notes.txt, which is no compiled program; name a directory for them alone" in err
    (tmp_path / "notes.txt").unlink()
    assert flaxmill("plan", "gpt_tiny", "--topology", "cpu:8", *SMALL, "--save", tmp_path)[0] == 0


def test_a_step_that_does_not_fit_ends_with_1(flaxmill, monkeypatch):
    from flaxmill.train.compilation.compiled_step import TooLargeError
    from flaxmill.train.plan import compiled_plans

    def give_up(experiment, topology):
        raise TooLargeError(10 * 2**30, 2**30)

    monkeypatch.setattr(compiled_plans, "compile_step", give_up)
    code, out, _ = flaxmill("plan", "gpt_tiny", "--topology", "cpu:8", *SMALL)
    assert code == 1
    assert "does not fit: 10.0 of 1.0 GiB a device" in out
    assert "the compiler gave up: it needs 10.00 GiB of 1.00 GiB" in out
    assert "The compiler gave up. Activations, and the times below, are the estimate's" in out
    assert "activations   0.000 GiB" not in out
    assert "Compiling took" not in out


@pytest.mark.slow
def test_what_is_saved_is_what_train_runs(corpus: Path, tmp_path: Path):
    """The step has one entry in the cache after the plan, and still one after training."""
    fields = ("gpt_tiny", "--data.files", str(corpus), "--data.documents", "blank_lines")
    fields += ("--data.vocab-size", "400", "--steps", "2", "--mesh.data", "2", "--mesh.fsdp", "4")
    saved = tmp_path / "saved"
    run("plan", *fields, "--topology", "cpu:8", "--save", str(saved), cwd=tmp_path)
    planned = steps_in(saved)
    assert len(planned) == 1
    variables = {"JAX_COMPILATION_CACHE_DIR": str(saved), "JAX_NUM_CPU_DEVICES": "8"}
    run("train", *fields, "--run-dir", "run", cwd=tmp_path, **variables)
    assert steps_in(saved) == planned
    assert not [path for path in saved.rglob("*") if path.suffix in (".pkl", ".pickle")]


def steps_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith("jit_train_step-")]


def run(*arguments: str, cwd: Path, **variables: str) -> str:
    program = "from flaxmill.train.command_line import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
