"""A dataset described for people: where it is, how much it holds, and what its labels are."""

from collections.abc import Mapping
from typing import Any

from flaxmill.data.duplicates.held_out_runs import CONTAMINATED_SHARE
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.prepared.lengths import bin_edges
from flaxmill.data.text.held_out import Split

_HISTOGRAM = "length_histogram"
_BAR_WIDTH = 40
_COUNTS = {"label_counts", "applied_counts"}
SPLIT_NAMES: dict[Split, str] = {"train": "training", "valid": "held out"}


def describe_dataset(dataset: Dataset) -> str:
    """A page of lines: source, fingerprint, sizes, lengths, the share that was cut, labels with counts."""
    lines = [
        f"source       {dataset.corpus}",
        f"directory    {dataset.directory}",
        f"fingerprint  {dataset.fingerprint}",
        f"rows         {dataset.layout}, {dataset.sequence_length} tokens",
        f"tokenizer    {dataset.vocab_size:,} ids",
    ]
    for split, title in SPLIT_NAMES.items():
        statistics = dataset.statistics[split]
        describe = _describe_examples if "num_examples" in statistics else _describe_text
        described = [*describe(statistics, dataset), *_describe_unknown(statistics)]
        described += describe_duplicates(statistics).values()
        described += _describe_lengths(dataset, split)
        lines += ["", title, *(f"  {line}" for line in described)]
    if any(_COUNTS & statistics.keys() for statistics in dataset.statistics.values()):
        lines += ["", *_describe_labels(dataset)]
    return "\n".join(lines)


def card_as_json(dataset: Dataset) -> dict[str, Any]:
    """What the text says, as values. A bin of `lengths` is its least and greatest length, and its count."""
    statistics = {
        split: {name: value for name, value in of_split.items() if name != _HISTOGRAM}
        for split, of_split in dataset.statistics.items()
    }
    lengths = {
        split: [[*bin_edges(number), count] for number, count in bins_of(dataset, split)]
        for split in dataset.statistics
    }
    return {
        "source": dataset.corpus,
        "directory": str(dataset.directory),
        "fingerprint": dataset.fingerprint,
        "layout": dataset.layout,
        "sequence_length": dataset.sequence_length,
        "vocab_size": dataset.vocab_size,
        "labels": list(dataset.labels),
        "settings": dataset.settings,
        "statistics": statistics,
        "lengths": lengths,
    }


def bins_of(dataset: Dataset, split: str) -> list[tuple[int, int]]:
    """(number, count) of the bins of the split's lengths, from the first with a count to the last; none in a
    dataset of version 0.1.0."""
    counts = list(enumerate(dataset.statistics[split].get(_HISTOGRAM, ())))
    while counts and not counts[0][1]:
        counts.pop(0)
    return [(number, count) for number, count in counts if bin_edges(number)[0] <= bin_edges(number)[1]]


def describe_duplicates(statistics: Mapping[str, Any]) -> dict[str, str]:
    """Sentences on duplicates, and on held-out text among the training text, by their subject; none on what
    was not looked for, as in datasets of earlier versions."""
    described = {}
    if "num_duplicates" in statistics:
        found = _count(statistics["num_duplicates"], "exact duplicate")
        if "num_near_duplicates" in statistics:
            found += f", {_count(statistics['num_near_duplicates'], 'near duplicate')}"
        if "num_dropped" in statistics:
            found = f"{_count(statistics['num_dropped'], 'document')} dropped: {found}"
        else:
            found += "; all are kept"
        described["duplicates"] = found
    if statistics.get("num_checked"):
        length, num_dirty = statistics["run_length"], statistics["num_contaminated"]
        described["contamination"] = (
            f"{statistics['contaminated_tokens']:.2%} of the tokens are in runs of {length} that training "
            f"text holds too; in {num_dirty:,} of {_count(statistics['num_checked'], 'document')} "
            f"{CONTAMINATED_SHARE:.0%} or more"
        )
    return described


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _describe_lengths(dataset: Dataset, split: Split) -> list[str]:
    """A bar for each bin of lengths."""
    bins = bins_of(dataset, split)
    most = max((count for _, count in bins), default=0)
    what = "examples" if "num_examples" in dataset.statistics[split] else "documents"
    lines = [f"{what} by their length in tokens"] if bins else []
    for number, count in bins:
        least, greatest = bin_edges(number)
        bar = "#" * -(-count * _BAR_WIDTH // most)
        lines.append(f"  {f'{least:,} to {greatest:,}':>18} {count:>10,}  {bar}".rstrip())
    return lines


def _describe_unknown(statistics: dict[str, Any]) -> list[str]:
    num = statistics.get("num_unknown", 0)
    share = num / max(statistics["num_tokens"], 1)
    return [f"{num:,} tokens ({share:.2%}) are unknown to the tokenizer"] if num else []


def _describe_text(statistics: dict[str, Any], dataset: Dataset) -> list[str]:
    lines = [_sizes(statistics, "documents")]
    for name in ("unigram_entropy", "bigram_entropy"):
        if statistics.get(name) is not None:
            lines.append(f"{name.replace('_', ' ')} {statistics[name]:.4f} nats a token")
    if "fill" in statistics:
        lines.append(f"{statistics['fill']:.1%} of the places hold a token, the rest is padding")
    if "num_targets" in statistics:
        share = statistics["num_targets"] / max(statistics["num_tokens"], 1)
        lines.append(f"{share:.1%} of the tokens are the assistant's, and are predicted")
    if "num_bad_rows" in statistics:
        lines.append(f"{statistics['num_bad_rows']:,} bad rows were skipped")
    if "nsp_majority" in statistics:
        lines.append(f"the commoner kind of second sentence is {statistics['nsp_majority']:.1%} of the pairs")
    return lines


def _describe_examples(statistics: dict[str, Any], dataset: Dataset) -> list[str]:
    num_examples, num_cut = statistics["num_examples"], statistics["num_cut"]
    what = "need more than one row" if dataset.layout == "answers" else "had a text cut"
    shortest, longest = statistics["min_length"], statistics["max_length"]
    lines = [
        _sizes(statistics, "examples"),
        f"lengths of rows {shortest} to {longest} tokens, median {statistics['median_length']}",
        f"{num_cut:,} examples ({num_cut / num_examples:.1%}) {what}",
    ]
    if "num_answered" in statistics:
        lines.append(f"{statistics['num_answered']:,} questions have an answer")
    if "num_without_label" in statistics:
        num_labels = sum(statistics["applied_counts"])
        num_without = statistics["num_without_label"]
        lines.append(f"{num_labels / num_examples:.2f} labels an example; {num_without:,} have none")
    if "label_mean" in statistics:
        lines.append(
            f"labels have mean {statistics['label_mean']:.4g}, deviation {statistics['label_std']:.4g}"
        )
    return lines


def _sizes(statistics: dict[str, Any], what: str) -> str:
    return (
        f"{statistics[f'num_{what}']:,} {what}, {statistics['num_bytes']:,} bytes, "
        f"{statistics['num_tokens']:,} tokens, {statistics['num_rows']:,} rows"
    )


def _describe_labels(dataset: Dataset) -> list[str]:
    """A line for each label: its number, its name, and its count in each split."""
    width = max(len("label"), *(len(label) for label in dataset.labels))
    lines = [f"{'':>5}  {'label':{width}}  {'training':>16}  {'held out':>16}"]
    columns = [_shares(dataset.statistics[split]) for split in SPLIT_NAMES]
    for number, (label, *counts) in enumerate(zip(dataset.labels, *columns, strict=True)):
        lines.append(f"{number:>5}  {label:{width}}  {counts[0]:>16}  {counts[1]:>16}")
    return lines


def _shares(statistics: dict[str, Any]) -> list[str]:
    """Each label's count and share: of all labels, or of all examples where one may have several labels."""
    is_multi = "applied_counts" in statistics
    counts = statistics["applied_counts"] if is_multi else statistics["label_counts"]
    total = max(statistics["num_examples"] if is_multi else sum(counts), 1)
    return [f"{count:,} ({count / total:.1%})" for count in counts]
