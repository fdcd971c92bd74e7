"""A card shows a dataset's sizes, lengths, the share that was cut, and labels with their counts."""

import dataclasses

import pytest
from task_files import has_encoder, objective_of, write_task

from flaxmill.data.card import card_as_json, describe_dataset
from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare


def card(tmp_path, task, **changes):
    config = dataclasses.replace(write_task(tmp_path, task), **changes)
    dataset = prepare(
        config,
        objective_of(task),
        cache=tmp_path / "cache",
        log=lambda line: None,
        has_encoder=has_encoder(task),
    )
    return describe_dataset(dataset).splitlines(), dataset


def test_a_classifier_s_card(tmp_path):
    lines, dataset = card(tmp_path, "classification", sequence_length=8)
    train = dataset.statistics["train"]
    assert lines[0] == f"source       {dataset.corpus}"
    assert f"fingerprint  {dataset.fingerprint}" in lines
    assert "rows         labelled, 8 tokens" in lines
    sizes = f"{train['num_bytes']:,} bytes, {train['num_tokens']:,} tokens, {train['num_rows']:,} rows"
    assert f"  {train['num_examples']:,} examples, {sizes}" in lines
    share = train["num_cut"] / train["num_examples"]
    assert f"  {train['num_cut']} examples ({share:.1%}) had a text cut" in lines
    table = [line.split() for line in lines[-3:]]
    assert [(row[0], row[1]) for row in table] == [("0", "animal"), ("1", "other"), ("2", "weather")]
    assert [int(row[2]) for row in table] == train["label_counts"]


def test_shares_of_many_labels_are_those_of_the_examples(tmp_path):
    lines, dataset = card(tmp_path, "multi_label")
    train = dataset.statistics["train"]
    counts, num_examples = train["applied_counts"], train["num_examples"]
    assert lines[-1].split()[:4] == ["2", "weather", str(counts[2]), f"({counts[2] / num_examples:.1%})"]
    mean = sum(counts) / num_examples
    assert f"  {mean:.2f} labels an example; {train['num_without_label']} have none" in lines


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("answers", "questions have an answer"),
        ("regression", "labels have mean"),
        ("tagging", "animal"),
        ("translation", "rows         sources, 64 tokens"),
    ],
)
def test_each_task_tells_what_is_particular_to_it(tmp_path, task, words):
    assert any(words in line for line in card(tmp_path, task)[0])


def test_the_card_of_text(tmp_path):
    (tmp_path / "a.txt").write_text(
        "\n\n".join(f"Text number {n} is a text.\nIt has {n} words." for n in range(40))
    )
    config = DataConfig(
        files=(str(tmp_path / "a.txt"),),
        documents="blank_lines",
        tokenizer="wordpiece",
        vocab_size=300,
        sequence_length=32,
    )
    dataset = prepare(config, "mlm_nsp", cache=tmp_path / "cache", log=lambda line: None)
    text = describe_dataset(dataset)
    assert f"  {dataset.statistics['train']['num_documents']} documents" in text
    assert "unigram entropy" in text
    assert "kind of second sentence" in text
    assert "label" not in text


def test_lengths_of_documents_are_drawn_and_sum_to_their_number(tmp_path):
    lines, dataset = card(tmp_path, "classification")
    start = lines.index("  examples by their length in tokens")
    bars = [line.split() for line in lines[start + 1 : lines.index("", start)]]
    train = dataset.statistics["train"]
    assert sum(int(bar[3].replace(",", "")) for bar in bars) == train["num_examples"]
    assert int(bars[0][0]) <= train["min_length"] <= int(bars[0][2])
    assert int(bars[-1][0]) <= train["max_length"] <= int(bars[-1][2])


def test_a_card_as_json_has_every_statistic_and_its_lengths(tmp_path):
    _, dataset = card(tmp_path, "multi_label")
    made = card_as_json(dataset)
    train = dataset.statistics["train"]
    assert made["fingerprint"] == dataset.fingerprint
    assert made["statistics"]["train"].keys() == train.keys() - {"length_histogram"}
    assert sum(count for _, _, count in made["lengths"]["train"]) == train["num_examples"]


def test_a_dataset_of_version_0_1_0_shows_what_it_has(tmp_path):
    _, dataset = card(tmp_path, "classification")
    for statistics in dataset.statistics.values():
        statistics.pop("length_histogram")
        statistics.pop("num_unknown")
    assert "length in tokens" not in describe_dataset(dataset)
    assert card_as_json(dataset)["lengths"] == {"train": [], "valid": []}


CONTAMINATION = (
    "2.13% of the tokens are in runs of 13 that training text holds too; in 3 of 1,200 documents 80% or more"
)


def text_dataset(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"Text number {n} is a text." for n in range(40)))
    config = DataConfig(
        files=(str(tmp_path / "a.txt"),), documents="blank_lines", tokenizer="bytes", sequence_length=32
    )
    return prepare(config, "causal", cache=tmp_path / "cache", log=lambda line: None)


@pytest.mark.parametrize(
    ("statistics", "line"),
    [
        ({"num_duplicates": 1100}, "1,100 exact duplicates; all are kept"),
        (
            {"num_duplicates": 0, "num_near_duplicates": 1},
            "0 exact duplicates, 1 near duplicate; all are kept",
        ),
        ({"num_duplicates": 1, "num_dropped": 1}, "1 document dropped: 1 exact duplicate"),
        (
            {"num_duplicates": 1100, "num_near_duplicates": 103, "num_dropped": 1203},
            "1,203 documents dropped: 1,100 exact duplicates, 103 near duplicates",
        ),
        (
            {"contaminated_tokens": 0.02134, "num_contaminated": 3, "num_checked": 1200, "run_length": 13},
            CONTAMINATION,
        ),
    ],
)
def test_duplicates_and_contamination_are_told_where_they_were_looked_for(statistics, line, tmp_path):
    dataset = text_dataset(tmp_path)
    clear_duplicates(dataset)
    before = describe_dataset(dataset).splitlines()
    dataset.statistics["valid"] |= statistics
    after = describe_dataset(dataset).splitlines()
    assert [one for one in after if one not in before] == [f"  {line}"]
    assert len(after) == len(before) + 1
    made = card_as_json(dataset)["statistics"]["valid"]
    assert {name: made[name] for name in statistics} == statistics


def test_a_dataset_without_counts_of_duplicates_says_nothing_of_them(tmp_path):
    dataset = text_dataset(tmp_path)
    clear_duplicates(dataset)
    assert "duplicate" not in describe_dataset(dataset)
    dataset.statistics["valid"] |= {"contaminated_tokens": 0.0, "num_contaminated": 0, "num_checked": 0}
    assert "runs of 13" not in describe_dataset(dataset)


def clear_duplicates(dataset):
    """Makes it a dataset of an earlier version."""
    for statistics in dataset.statistics.values():
        for name in (
            "num_duplicates",
            "contaminated_tokens",
            "num_contaminated",
            "num_checked",
            "run_length",
        ):
            statistics.pop(name, None)
