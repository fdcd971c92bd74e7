"""`flaxmill score`: a table for people, JSON with every token, mistakes in one line."""

import json
import math

import pytest
from small_text_models import save_model

TEXTS = ["The quick brown fox", "", "a lazy dog; " * 30]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    directory = tmp_path_factory.mktemp("gpt2")
    save_model(directory, "gpt2", n_positions=66)
    return directory


@pytest.fixture
def data(tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return tmp_path / "texts.txt"


def test_json_has_every_token_and_the_table_every_text(gpt, data, flaxmill):
    code, out, err = flaxmill("score", gpt, "--data", data, "--json")
    assert code == 0
    assert "1 of 3 texts are cut to 66 tokens" in err
    found = json.loads(out)
    assert found["kind"] == "log_likelihood"
    assert [len(text["tokens"]) for text in found["texts"]] == [text["num_tokens"] for text in found["texts"]]
    sums = [sum(text["token_log_probabilities"]) for text in found["texts"]]
    assert [text["log_probability"] for text in found["texts"]] == pytest.approx(sums)
    assert found["log_probability"] == pytest.approx(sum(sums))
    assert found["perplexity"] == pytest.approx(math.exp(-sum(sums) / found["num_tokens"]))
    assert found["texts"][1]["perplexity"] is None
    code, out, _ = flaxmill("score", gpt, "--data", data)
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 5)
    assert lines[1].split()[:2] == [f"{sums[0]:.3f}", str(found["texts"][0]["num_tokens"])]
    assert "'The quick brown fox'" in lines[1]
    assert lines[-1].endswith("all 3 texts")


def test_devices_share_the_rows(gpt, data, flaxmill):
    outs = [flaxmill("score", gpt, "--data", data, "--mesh.data", n, "--json")[1] for n in (1, 4)]
    one, four = (json.loads(out)["log_probability"] for out in outs)
    assert one == pytest.approx(four, rel=1e-6)


def test_a_run_scores_as_the_directory_that_it_came_from(gpt, data, flaxmill, tmp_path):
    assert flaxmill("import", gpt, tmp_path / "run")[0] == 0
    outs = [flaxmill("score", source, "--data", data, "--json")[1] for source in (gpt, tmp_path / "run")]
    one, other = (json.loads(out)["log_probability"] for out in outs)
    assert one == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--data FILE is not given"),
        (("--data", "none.txt"), "--data='none.txt' names no file"),
        (("--data", "{data}", "--batch-size", 0), "batch_size=0 must be at least 1"),
    ],
)
def test_mistakes_are_one_line(gpt, data, flaxmill, flags, said):
    code, out, err = flaxmill("score", gpt, *(str(flag).format(data=data) for flag in flags))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
