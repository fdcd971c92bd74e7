"""Every command works on a run below a directory whose name has all characters with a meaning elsewhere."""

import json

import pytest
from odd_names import ALL_AT_ONCE

SMALL = (
    *("--data.tokenizer", "bytes", "--data.sequence-length", "16", "--batch-size", "2", "--mesh.data", "1"),
    *("--model.num-layers", "1", "--model.embed-dim", "16", "--model.num-heads", "2", "--eval-batches", "1"),
)


@pytest.mark.slow
def test_a_run_below_any_name_is_trained_continued_listed_measured_and_exported(
    flaxmill, tmp_path, monkeypatch
):
    folder = tmp_path / ALL_AT_ONCE
    folder.mkdir()
    text = folder / "text [1].txt"
    text.write_text("The mill stands by the river.\n\nThe wheel turns all day.\n" * 20)
    monkeypatch.setenv("FLAXMILL_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)

    def ran(*arguments: object) -> str:
        code, out, err = flaxmill(*arguments)
        assert code == 0, err
        return out

    ran("train", "gpt_tiny", *SMALL, "--data.files", "*.txt", "--run-dir", "run #1", "--steps", 2)
    monkeypatch.chdir(tmp_path)  # a run may be continued from elsewhere
    run, exported, again = folder / "run #1", folder / "hf?", folder / "again%20"
    assert f"continues in {run} at step 2 of 3 steps" in ran(
        "train", "--run-dir", run, "--steps", 3, "--extend"
    )
    listed = json.loads(ran("checkpoints", run, "--json"))["checkpoints"]
    assert [(one["step"], one["verdict"]) for one in listed] == [(2, "whole"), (3, "whole")]
    assert "eval_loss" in ran("eval", run)
    assert "eval_loss" in ran("eval", run, "--data", text)
    ran("export", run, exported)
    assert ran("generate", exported, "The", "--max-new-tokens", 2).startswith("The")
    ran("import", exported, again)
    ran("train", *("--run-dir", again, "--data.files", text, "--mesh.data", 1), *SMALL[4:6], "--steps", 1)
    ran("train", "gpt_tiny", *SMALL[:8], *("--init-from", exported, "--data.tokenizer", "bytes"),
        *("--data.files", text, "--run-dir", folder / "new", "--steps", 1))  # fmt: skip
