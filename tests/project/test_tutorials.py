"""Every tutorial does what it shows: its commands are run, and what they print is compared with the page."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tutorial_pages import Command, commands_of, difference, follow

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
PAGES = sorted(TUTORIALS.glob("*.md"))
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
DOWNLOAD = "apt-get download fortunes"
CELL_SECONDS = 600  # on a busy machine


@pytest.fixture
def reader(request, tmp_path, monkeypatch):
    """A fresh folder with the tutorials' scripts, and the environment of a reader without an accelerator."""
    for script in TUTORIALS.glob("*.py"):
        shutil.copy(script, tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    if "fine_tune" in request.node.name:  # programs that compile in a quarter of the time would be slow here
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    # On a busy machine more threads of PyTorch's and scikit-learn's spend their time waiting for each other.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def require_fortunes(text):
    """Skip what reads Debian's fortunes where apt cannot fetch them."""
    if DOWNLOAD not in text:
        return
    if shutil.which("apt-get") is None:
        pytest.skip("reads Debian's package fortunes, and there is no apt-get here")
    found = subprocess.run(
        ["apt-get", "download", "--print-uris", "fortunes"], capture_output=True, text=True
    )
    if found.returncode != 0:
        pytest.skip(f"reads Debian's package fortunes, which `make texts` finds: {found.stderr.strip()}")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_shows(page, reader):
    require_fortunes(page.read_text(encoding="utf-8"))
    for command, code, printed in follow(page, reader, os.environ):
        if code != 0 and command.text == DOWNLOAD:
            pytest.skip(f"apt-get cannot download fortunes: {printed.strip()}")
        if found := difference(command, code, printed):
            pytest.fail(found)


@pytest.mark.sweep
def test_a_fine_tuned_model_tells_topics_better_than_counting_words(reader):
    """The mean macro F1 of three seeds: the same commands, and the same texts for both sides."""
    text = (TUTORIALS / "fine_tune.md").read_text(encoding="utf-8")
    require_fortunes(text)
    train = "--best.metric None\n"
    assert train in text
    page = reader / "three_seeds.md"
    page.write_text(
        text[: text.index("## Evaluate")].replace(train, f"{train[:-1]} --num-seeds 3\n"), encoding="utf-8"
    )
    printed = [output for _, code, output in follow(page, reader, os.environ) if code == 0]
    counting = re.search(r"macro F1 (\S+)", "".join(printed))
    tuned = re.search(r"eval_f1_macro +(\S+) +(\S+)", printed[-1])
    assert counting
    assert tuned
    print(f"{counting[0]} by counting; of three seeds {tuned[1]}, deviation {tuned[2]}")
    for metrics in sorted(reader.glob("runs/topics/seed-*/metrics.jsonl")):
        print(
            metrics.parent.name,
            json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])["eval_f1_macro"],
        )
    assert float(tuned[1]) >= float(counting[1])


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, reader):
    import nbformat
    from nbclient import NotebookClient

    require_fortunes(notebook.read_text(encoding="utf-8"))
    book = nbformat.read(notebook, as_version=4)
    NotebookClient(
        book, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": reader}}
    ).execute()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_holds_no_outputs(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    assert cells
    assert not [cell for cell in cells if cell["outputs"] or cell["execution_count"]]


def test_every_page_has_a_notebook():
    assert [page.stem for page in PAGES] == [notebook.stem for notebook in NOTEBOOKS]


def test_a_page_is_read_as_commands_and_what_they_print():
    page = (
        "Type\n\n```console\n$ one \\\n    two\nprinted\n$ false\n$ echo $?\n1\n```\n\n```\nno command\n```\n"
    )
    assert commands_of(page) == [
        Command(text="one \\\n    two", shown=("printed",)),
        Command(text="false", shown=(), may_fail=True),
        Command(text="echo $?", shown=("1",)),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (["loss 5.927  23k tokens/s"], "loss 6.1  912 tokens/s\n", True),
        (["step 20/20"], "step 21/20\n", False),
        (["a", "...", "d"], "a\nb\nc\nd\n", True),
        (["a", "d"], "a\nb\nd\n", False),
        (["saved in ...-1"], "saved in runs/gpt_tiny-1\n", True),
        (["run   step"], "run step\n", True),
        (["done"], "", False),
        ([], "anything\n", True),
    ],
)
def test_what_is_printed_is_compared_with_the_page(shown, printed, same):
    assert (difference(Command(text="x", shown=tuple(shown)), 0, printed) is None) is same


def test_an_exit_code_is_zero_unless_the_page_asks_for_it():
    assert difference(Command(text="x", shown=()), 2, "") is not None
    assert difference(Command(text="x", shown=(), may_fail=True), 2, "") is None


def test_the_shell_keeps_variables_and_exit_codes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ A=5; (exit 3)\n$ echo $?\n$ printf $A\n```\n", encoding="utf-8")
    seen = [(code, printed) for _, code, printed in follow(page, tmp_path, os.environ)]
    assert seen == [(3, ""), (0, "3\n"), (0, "5")]
