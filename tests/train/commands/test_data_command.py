import json
from pathlib import Path

import numpy as np
import pytest

from flaxmill.data.prepared.dataset import open_dataset
from flaxmill.data.prepared.manifest import read_manifest, write_manifest
from flaxmill.train.commands.data_command import batch_offset, run
from flaxmill.train.experiment import Experiment


@pytest.fixture
def flags(tmp_path, monkeypatch) -> list[str]:
    """Flags for a corpus of two short documents per file, read as bytes; the cache is its own."""
    monkeypatch.setenv("FLAXMILL_CACHE", str(tmp_path / "cache"))
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(f"Document {number} says that {number} is a number.\n" * 40)
    return [
        "--data.files",
        str(tmp_path / "*.txt"),
        "--data.tokenizer",
        "bytes",
        "--data.sequence-length",
        "32",
    ]


def test_prepare_prints_where_the_dataset_is_and_its_size(flags, capsys):
    run(["prepare", *flags])
    first = capsys.readouterr()
    lines = dict(line.split(None, 1) for line in first.out.splitlines())
    assert Path(lines["directory"]).is_dir()
    assert "num_tokens" in lines["train"]
    assert "unigram_entropy" in lines["valid"]
    run(["prepare", *flags])
    assert capsys.readouterr().out == first.out


def test_show_prints_the_rows_of_a_step(flags, capsys):
    run(["show", *flags, "--step", "3", "--rows", "1"])
    out = capsys.readouterr().out
    assert out.startswith("step 3, 1 of 8 rows\n")
    assert "row 0" in out
    assert "row 1" not in out
    assert "predicts" in out


def test_steps_differ_and_repeat(flags, capsys):
    def shown(step: str) -> str:
        run(["show", *flags, "--step", step])
        return capsys.readouterr().out.partition("\n")[2]

    first, second, again = shown("0"), shown("1"), shown("0")
    assert first == again != second


def test_card_describes_the_data(flags, capsys):
    run(["card", *flags])
    out = capsys.readouterr().out
    assert out.startswith("source       data.files=")
    assert "held out\n" in out
    assert "documents" in out


def test_statistics_that_are_lists_are_printed(flags, capsys):
    run(
        [
            "prepare",
            *flags,
            "--objective",
            "mlm_nsp",
            "--data.tokenizer",
            "wordpiece",
            "--data.vocab-size",
            "200",
        ]
    )
    assert "rows_per_copy " in capsys.readouterr().out


def test_a_batch_offset_that_is_no_number_counts_for_nothing(tmp_path):
    rows = ['{"batch_offset": 9}', '{"step": 1, "batch_offset": 3}', '{"step": 1, "batch_offset": "4"}', "[]"]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, '{"step": "1", "batch_offset": 5}']))
    assert batch_offset(Experiment(run_dir=str(tmp_path)), 2) == 3


def test_show_as_json_has_the_rows_that_text_shows(flags, capsys):
    run(["show", *flags, "--step", "3", "--rows", "1"])
    text = capsys.readouterr().out
    run(["show", *flags, "--step", "3", "--rows", "1", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (shown["step"], shown["batch"], len(shown["rows"])) == (3, 3, 1)
    row = shown["rows"][0]
    first = "".join(
        piece for piece, number in zip(row["pieces"], row["documents"], strict=True) if number == 1
    )
    assert first.replace("\n", "\\n") in text


def test_output_that_is_no_terminal_has_no_escapes(flags, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(["show", *flags])
    assert "\x1b" not in capsys.readouterr().out


def test_card_as_json_and_as_a_page(flags, capsys, tmp_path):
    page = tmp_path / "card.html"
    run(["card", *flags, "--json", "--html", str(page)])
    card = json.loads(capsys.readouterr().out)
    assert card["fingerprint"] in page.read_text()
    assert (
        sum(count for *_, count in card["lengths"]["train"]) == card["statistics"]["train"]["num_documents"]
    )


def test_a_page_in_no_directory_is_refused_before_anything_is_prepared(flags, tmp_path):
    with pytest.raises(ValueError, match=r"which is no directory; name a file, such as card\.html"):
        run(["card", *flags, "--html", str(tmp_path / "nowhere" / "card.html")])
    with pytest.raises(ValueError, match="is a directory; name a file"):
        run(["card", *flags, "--html", str(tmp_path)])
    assert not (tmp_path / "cache").exists()


def test_the_source_of_a_mixture_s_row_is_named(tmp_path, flags, capsys):
    sources = [
        f"{name}=1:{tmp_path / f'[{digits}].txt'}" for name, digits in (("low", "0-3"), ("high", "4-7"))
    ]
    given = [flag for source in sources for flag in ("--data.sources", source)]
    run(["show", *given, *flags[2:], "--rows", "8"])
    out = capsys.readouterr().out
    titles = [line for line in out.splitlines() if line.startswith("row ")]
    assert len(titles) == 8
    assert sum(title.endswith(", from low") for title in titles) == 4
    assert sum(title.endswith(", from high") for title in titles) == 4


@pytest.fixture
def dataset(flags, capsys) -> Path:
    """The directory of a prepared dataset."""
    run(["prepare", *flags])
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    return Path(lines["directory"])


def test_check_says_that_every_shard_is_whole(dataset, capsys):
    run(["check", str(dataset)])
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["train", "valid"]
    assert all(line.endswith("whole") for line in out.splitlines())
    run(["check", str(dataset), "--json"])
    assert json.loads(capsys.readouterr().out)["whole"] is True


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "its SHA-256 is not the manifest's"),
        (lambda data: data[:-1], "bytes and not"),
        (None, "it is gone"),
    ],
)
def test_check_names_a_damaged_shard_and_exits_with_1(dataset, capsys, damage, problem):
    shard = next(dataset.glob("*train*array_record*"))
    content = shard.read_bytes()
    shard.unlink() if damage is None else shard.write_bytes(damage(content))
    with pytest.raises(SystemExit) as stop:
        run(["check", str(dataset)])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert problem in out.splitlines()[0]
    assert shard.name in out.splitlines()[0]
    assert out.splitlines()[-1].startswith("1 of 2 shards are damaged; delete ")


def test_a_changed_byte_is_found_in_a_dataset_that_stored_no_digests(dataset, capsys):
    """ArrayRecord's own checksums tell, as for datasets of earlier versions."""
    manifest = read_manifest(dataset)
    del manifest["shard_sha256"]
    write_manifest(dataset, manifest)
    run(["check", str(dataset)])
    shard = next(dataset.glob("*train*array_record*"))
    content = bytearray(shard.read_bytes())
    row = open_dataset(dataset).read("train", np.array([5]))["tokens"].tobytes()
    content[content.index(row)] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SystemExit):
        run(["check", str(dataset)])


def test_check_refuses_what_is_no_dataset(tmp_path):
    with pytest.raises(ValueError, match="is not a prepared dataset"):
        run(["check", str(tmp_path)])


def test_shards_are_finished_to_the_dataset_of_one_machine(flags, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("flaxmill.data.preparation.groups.GROUP_BYTES", 4000)
    run(["prepare", *flags])
    alone = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    monkeypatch.setenv("FLAXMILL_CACHE", str(tmp_path / "shared"))
    run(["prepare", *flags, "--shard", "2/2"])
    assert "shard 2/2 is done; once all are, run `flaxmill data finish`" in capsys.readouterr().err
    with pytest.raises(ValueError, match="not all shards are done, 1/2 is missing"):
        run(["finish", *flags])
    run(["prepare", *flags, "--shard", "1/2", "--workers", "2"])
    capsys.readouterr()
    run(["finish", *flags])
    finished = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert finished["fingerprint"] == alone["fingerprint"]
    assert finished["train"] == alone["train"]


def test_the_sources_of_a_mixture_are_prepared_in_shards_too(flags, capsys, tmp_path):
    mixture = ["--data.tokenizer", "bpe", "--data.vocab-size", "300", "--data.sequence-length", "16"]
    for name, files in (("one", tmp_path / "[0-3].txt"), ("two", tmp_path / "[4-7].txt")):
        mixture += ["--data.sources", f"{name}=1:{files}"]
    run(["prepare", *mixture, "--shard", "1/1"])
    assert capsys.readouterr().err.count("shard 1/1 is done") == 2
    run(["finish", *mixture])
    assert capsys.readouterr().out.count("fingerprint") == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--workers", "0"], "workers=0 must be at least 1"),
        (["--shard", "3/2"], "shard='3/2' is not one of n shards; use 1/8 for the first of eight"),
    ],
)
def test_means_that_are_none_are_refused(flags, more, said):
    with pytest.raises(ValueError, match=said):
        run(["prepare", *flags, *more])
