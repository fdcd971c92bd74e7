"""Some documents are always held out, chosen by their own draws."""

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.text.held_out import split_corpus


def _write(tmp_path, num_documents):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(f"Document {number}.\nIts end." for number in range(num_documents)))
    return str(path)


def _split(config):
    splits = {"train": [], "valid": []}
    for split, document in split_corpus(config).documents():
        splits[split].append(document.text)
    return splits


@pytest.mark.parametrize("num_documents", [2, 3, 4, 5, 30, 400])
@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.9])
def test_both_splits_have_documents_and_share_none(tmp_path, num_documents, fraction):
    config = DataConfig(
        files=(_write(tmp_path, num_documents),), documents="blank_lines", valid_fraction=fraction
    )
    splits = _split(config)
    least = 2 if num_documents >= 4 else 1
    assert min(len(splits["train"]), len(splits["valid"])) >= least
    assert len(set(splits["train"]) | set(splits["valid"])) == num_documents
    assert len(splits["train"]) + len(splits["valid"]) == num_documents


def test_the_share_is_the_fraction(tmp_path):
    config = DataConfig(files=(_write(tmp_path, 4000),), documents="blank_lines", valid_fraction=0.05)
    # 200 are expected; the standard deviation is 14, and 60 is more than four deviations.
    assert abs(len(_split(config)["valid"]) - 200) < 60


def test_a_document_keeps_its_split_when_more_are_appended(tmp_path):
    few = _split(DataConfig(files=(_write(tmp_path, 300),), documents="blank_lines"))
    many = _split(DataConfig(files=(_write(tmp_path, 600),), documents="blank_lines"))
    # The last of the few ends without a line end, so only the texts before it can be compared.
    assert many["valid"][: len(few["valid"]) - 1] == few["valid"][:-1]


def test_another_seed_holds_out_others(tmp_path):
    path = _write(tmp_path, 400)
    held_out = [
        _split(DataConfig(files=(path,), documents="blank_lines", seed=seed))["valid"] for seed in (0, 1)
    ]
    assert held_out[0] != held_out[1]


def test_the_only_document_gives_its_tail(tmp_path):
    path = tmp_path / "one.txt"
    text = "".join(f"Line {number}.\n" for number in range(100))
    path.write_text(text)
    splits = _split(DataConfig(files=(str(path),)))
    assert splits["train"][0] + splits["valid"][0] == text
    assert 0.03 < len(splits["valid"][0]) / len(text) < 0.08
    assert splits["train"][0].endswith("\n")


def test_a_corpus_of_one_character_is_too_short(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("a")
    with pytest.raises(ValueError, match="1 characters, too short"):
        _split(DataConfig(files=(str(path),)))


def test_given_held_out_files_leave_every_document_for_training(tmp_path):
    valid = tmp_path / "valid.txt"
    valid.write_text("Held out.")
    config = DataConfig(files=(_write(tmp_path, 10),), valid_files=(str(valid),), documents="blank_lines")
    splits = _split(config)
    assert len(splits["train"]) == 10
    assert splits["valid"] == ["Held out."]


@pytest.mark.parametrize("text", ["", " \n\n\t\r\n"])
@pytest.mark.parametrize("documents", ["files", "blank_lines"])
def test_files_without_text_are_an_empty_corpus(tmp_path, text, documents):
    path = tmp_path / "blank.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^data\.files=.*blank\.txt holds no text"):
        _split(DataConfig(files=(str(path),), documents=documents))


def test_blank_held_out_files_are_named(tmp_path):
    path = tmp_path / "blank.txt"
    path.write_text("\n")
    config = DataConfig(files=(_write(tmp_path, 3),), valid_files=(str(path),))
    with pytest.raises(ValueError, match=r"^data\.valid_files=.*blank\.txt holds no text"):
        _split(config)


@pytest.mark.parametrize(("text", "message"), [(" \n", "holds no text"), ("x", "too short to hold a part")])
def test_a_check_refuses_what_streaming_would_refuse_at_once(tmp_path, text, message):
    (path := tmp_path / "text.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        split_corpus(DataConfig(files=(str(path),))).check()
