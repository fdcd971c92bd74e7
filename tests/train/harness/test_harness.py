"""The harness measures the same with flaxmill as with transformers; `make harness` runs this with it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_tokenizers
from random_models import causal_directory

pytest.importorskip("lm_eval", reason="the harness has an environment of its own: make harness")

# The sum of up to 96 float32 log-probabilities, each from products in another order.
TOLERANCE = 1e-4

TASKS: dict[str, dict[str, Any]] = {
    "local_choose": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "local_texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "local_write": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "x",
        "generation_kwargs": {"until": ["e"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Tasks of 30 examples each, without any network."""
    directory = tmp_path_factory.mktemp("tasks")
    draw = random.Random(0)
    words = small_tokenizers.WORDS
    rows = [
        {
            "question": " ".join(draw.choices(words, k=draw.choice([1, 4, 12]))),
            "choices": [" ".join(draw.choices(words, k=draw.choice([1, 2, 5]))) for _ in range(3)],
            "answer": draw.randrange(3),
            "text": " ".join(draw.choices(words, k=draw.choice([2, 30, 200]))),
        }
        for _ in range(30)
    ]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        files = {"test": str(directory / "rows.jsonl")}
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
        (directory / f"{name}.yaml").write_text(json.dumps({"task": name, **source, **task}))  # JSON is YAML
    return directory


def measure(command: list[str], tasks: Path, output: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The results, and the answers of each task in the order of its examples."""
    flags = ["--tasks", *TASKS, "--include_path", str(tasks), "--output_path", str(output), "--log_samples"]
    env = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tasks / "cache"),
        "JAX_NUM_CPU_DEVICES": "1",
    }
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False, env=env, cwd=tasks)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = output.rglob("results_*.json")
    answers = {}
    for name in TASKS:
        (samples,) = output.rglob(f"samples_{name}_*.jsonl")
        rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
        answers[name] = [answer for row in rows for (answer,) in row["resps"]]
    return json.loads(results.read_text())["results"], answers


def numbers(answers: list[Any]) -> list[float]:
    return [float(answer[0] if isinstance(answer, list) else answer) for answer in answers]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def both(request, tasks, tmp_path_factory):
    """What the harness says with our answers, and with transformers'; llama's texts begin with a token."""
    directory = str(causal_directory(request.param))
    ours = [
        sys.executable,
        "-c",
        "from flaxmill.train.command_line import main; main()",
        "lm-eval",
        directory,
    ]
    theirs = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "4"]
    theirs += ["--model_args", f"pretrained={directory},dtype=float32"]
    output = tmp_path_factory.mktemp("output")
    return measure(ours, tasks, output / "ours"), measure(theirs, tasks, output / "theirs")


@pytest.mark.parametrize("task", ["local_choose", "local_texts"])
def test_log_likelihoods_are_those_of_transformers(both, task):
    (_, ours), (_, theirs) = both
    found, expected = numbers(ours[task]), numbers(theirs[task])
    assert len(found) == len(expected) > 0
    # A text of several windows is a sum over up to 1,000 tokens, whose rounding grows with it.
    assert found == pytest.approx(expected, abs=TOLERANCE, rel=1e-6)


def test_the_same_choices_are_greedy(both):
    (_, ours), (_, theirs) = both
    assert [answer[1] for answer in ours["local_choose"]] == [answer[1] for answer in theirs["local_choose"]]


def test_the_same_texts_are_written(both):
    (_, ours), (_, theirs) = both
    assert ours["local_write"] == theirs["local_write"]


def test_accuracies_are_equal(both):
    (ours, _), (theirs, _) = both
    for metric in ("acc,none", "acc_norm,none"):
        assert ours["local_choose"][metric] == theirs["local_choose"][metric]
    key = "word_perplexity,none"
    assert ours["local_texts"][key] == pytest.approx(theirs["local_texts"][key], rel=1e-4)


def test_a_task_that_is_not_there_is_one_line(tasks):
    program = "from flaxmill.train.command_line import main; main()"
    command = [sys.executable, "-c", program, "lm-eval", str(causal_directory()), "--tasks", "no_such_task"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tasks)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("flaxmill: error: lm-eval: ")
    assert "no_such_task" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
