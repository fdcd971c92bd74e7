"""`flaxmill data`: prepares and describes the data of a config, and shows the batch of a step."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from flaxmill.data.json_text import dump_json
from flaxmill.data.preparation.means import LOCAL, Means
from flaxmill.train.caches import cache_directory
from flaxmill.train.experiment import Experiment, with_absolute_paths, with_definition
from flaxmill.train.metrics.metrics_file import has_step, read_metrics
from flaxmill.train.named_configs import CONFIG_USAGE, take_config
from flaxmill.train.overrides import INLINE, override, take_paths
from flaxmill.train.run.directory import METRICS_FILE
from flaxmill.train.terminal.output_places import file_place

if TYPE_CHECKING:
    from flaxmill.data.mixture.mixed_dataset import AnyDataset

Arguments = TypeVar("Arguments")

SUMMARIES = {
    "prepare": "Tokenizes and packs the data of CONFIG, unless that is done; prints its place and size.",
    "finish": "Makes the dataset of CONFIG from the shards that several machines prepared with --shard.",
    "show": "Prints rows of the batch that one step of CONFIG trains on, with masks and targets in colour.",
    "check": "Reads every shard of the dataset in DIR and compares it with what was written.",
    "card": "Describes the data of CONFIG: sizes, labels with counts, lengths, the share that is cut.",
}
USAGE = """usage: flaxmill data prepare|finish|show|card [CONFIG | FILE.py] [--field value ...]
       flaxmill data check DIR [--json]

  prepare  {prepare}
  finish   {finish}
  show     {show}
  card     {card}
  check    {check}

`flaxmill data prepare --help` (finish, show, card) lists the fields."""


@dataclass(frozen=True, kw_only=True)
class PrepareArguments:
    """What `flaxmill data prepare` takes."""

    workers: int | None = None
    """The processes that prepare text; None: as many as there are cores, one for a little text."""
    beam: bool = False
    """Let Apache Beam prepare text; flags after -- are Beam's: --beam -- --runner=FlinkRunner."""
    shard: str | None = None
    """Encode only this share of the text: 2/8 on the second of eight machines that share the cache."""
    config: Annotated[Experiment, INLINE]

    def __post_init__(self) -> None:
        _check_workers(self.workers)
        if self.beam and (self.shard is not None or self.workers is not None):
            other = "workers" if self.shard is None else "shard"
            raise ValueError(
                f"beam and {other}={getattr(self, other)} are both set; Beam divides the work itself"
            )


@dataclass(frozen=True, kw_only=True)
class FinishArguments:
    """What `flaxmill data finish` takes."""

    workers: int | None = None
    """The processes that write rows; None: as many as there are cores, one for a little text."""
    config: Annotated[Experiment, INLINE]

    def __post_init__(self) -> None:
        _check_workers(self.workers)


@dataclass(frozen=True, kw_only=True)
class CheckArguments:
    """What `flaxmill data check` takes after DIR."""

    json: bool = False
    """Print one JSON object instead of lines."""


@dataclass(frozen=True, kw_only=True)
class CardArguments:
    """What `flaxmill data card` takes."""

    json: bool = False
    """Print one JSON object instead of text."""
    html: str | None = None
    """Write a page to this file: one HTML file with pictures, which needs nothing else."""
    config: Annotated[Experiment, INLINE]


@dataclass(frozen=True, kw_only=True)
class ShowArguments:
    """What `flaxmill data show` takes."""

    step: int = 0
    """The step whose batch is shown; with --run-dir, past the batches that the run's rollbacks skipped."""
    rows: int = 2
    """How many of its rows to show."""
    json: bool = False
    """Print one JSON object: every array of the rows, and the text of each place."""
    config: Annotated[Experiment, INLINE]

    def __post_init__(self) -> None:
        for name, least in (("step", 0), ("rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")


def run(arguments: list[str]) -> None:
    """Run `flaxmill data ACTION`."""
    action, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if action in ("--help", "-h"):
        print(USAGE.format(**SUMMARIES))
    elif action == "prepare":
        _prepare(rest)
    elif action == "finish":
        _finish(rest)
    elif action == "show":
        _show(rest)
    elif action == "card":
        _card(rest)
    elif action == "check":
        _check(rest)
    else:
        what = f"unknown action {action!r}" if action else "no action"
        raise ValueError(
            f"{what} for `flaxmill data`; use prepare, finish, show, card or check (`flaxmill data --help` "
            "explains)"
        )


def _check_workers(number: int | None) -> None:
    if number is not None and number < 1:
        raise ValueError(f"workers={number} must be at least 1")


def _prepare(arguments: list[str]) -> None:
    arguments, beam_flags = _split_at_dashes(arguments)
    config, rest = take_config(arguments)
    parsed = _override("prepare", PrepareArguments(config=config), rest)
    if beam_flags and not parsed.beam:
        raise ValueError(f"flags after --, such as {beam_flags[0]}, are for Apache Beam; give --beam as well")
    means = Means(parsed.workers, beam_flags if parsed.beam else None)
    if parsed.shard is None:
        _, mixed = _open(parsed.config, means)
        _print_datasets(mixed)
        return
    from flaxmill.data.preparation.groups import MachineShard
    from flaxmill.train.input_pipeline import prepare_data_shard

    shard = MachineShard.parse(parsed.shard)
    prepare_data_shard(_resolve(parsed.config), shard, cache_directory(), _log, means)


def _finish(arguments: list[str]) -> None:
    from flaxmill.train.input_pipeline import finish_data_shards

    config, rest = take_config(arguments)
    parsed = _override("finish", FinishArguments(config=config), rest)
    finish_data_shards(_resolve(parsed.config), cache_directory(), _log, Means(parsed.workers))
    _, mixed = _open(parsed.config)
    _print_datasets(mixed)


def _split_at_dashes(arguments: list[str]) -> tuple[list[str], tuple[str, ...]]:
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], tuple(arguments[place + 1 :])


def _print_datasets(mixed: "AnyDataset") -> None:
    from flaxmill.data.mixture.mixed_dataset import parts_of

    for source, dataset in parts_of(mixed).items():
        if source:
            print(f"source       {source}")
        print(f"directory    {dataset.directory}")
        print(f"fingerprint  {dataset.fingerprint}")
        print(f"tokenizer    {dataset.vocab_size:,} ids")
        for split, numbers in dataset.statistics.items():
            shown = {name: value for name, value in numbers.items() if name != "length_histogram"}
            print(f"{split:12} " + ", ".join(f"{name} {_number(value)}" for name, value in shown.items()))


def _card(arguments: list[str]) -> None:
    from flaxmill.data.mixture.mixed_dataset import parts_of

    config, rest = take_config(arguments)
    parsed = _override("card", CardArguments(config=config), rest)
    page = None if parsed.html is None else file_place(parsed.html, "html", "card.html")
    _, mixed = _open(parsed.config)
    from flaxmill.data.card import card_as_json, describe_dataset

    parts = parts_of(mixed)
    if page is not None:
        from flaxmill.data.card_page import make_page
        from flaxmill.data.whole_files import write_whole_text

        write_whole_text(page, make_page(parts))
        print(f"wrote {page}", file=sys.stderr)
    if parsed.json:
        cards = {source: card_as_json(dataset) for source, dataset in parts.items()}
        print(dump_json(cards[""] if list(cards) == [""] else {"sources": cards}))
        return
    for source, dataset in parts.items():
        print(f"source {source}\n{describe_dataset(dataset)}\n" if source else describe_dataset(dataset))


def _check(arguments: list[str]) -> None:
    """Exits with 1 where a shard is damaged."""
    from flaxmill.data.prepared.checking import check_shards

    (directory,), flags = take_paths(arguments, "DIR", program="flaxmill data check")
    usage = "DIR [--json]"
    parsed = override(
        CheckArguments(), flags, program="flaxmill data check", usage=usage, description=SUMMARIES["check"]
    )
    checked = list(check_shards(directory))
    damaged = [found for found in checked if found.problem is not None]
    if parsed.json:
        shards = [
            {"split": split, "file": shard.file, "rows": shard.num_rows, "problem": problem}
            for split, shard, problem in checked
        ]
        print(dump_json({"directory": str(directory), "whole": not damaged, "shards": shards}))
    else:
        for split, shard, problem in checked:
            print(f"{split:8} {shard.file}  {shard.num_rows:,} rows  {problem or 'whole'}")
        if damaged:
            print(
                f"{len(damaged)} of {len(checked)} shards are damaged; delete {directory} to prepare it again"
            )
    if damaged:
        raise SystemExit(1)


def _show(arguments: list[str]) -> None:
    config, rest = take_config(arguments)
    parsed = _override("show", ShowArguments(config=config), rest)
    from flaxmill.data.mixture.mixed_dataset import MixedDataset
    from flaxmill.data.show import batch_as_json, show_batch
    from flaxmill.train.input_pipeline import make_train_batches
    from flaxmill.train.terminal.shown_lines import print_lines

    experiment, dataset = _open(parsed.config)
    batches = make_train_batches(dataset, experiment)
    num_rows = min(parsed.rows, experiment.batch_size)
    number = parsed.step + batch_offset(experiment, parsed.step)
    batch = batches.rows(number, 0, num_rows)
    if parsed.json:
        shown = batch_as_json(batch, dataset.tokenizer, num_rows)
        print(dump_json({"step": parsed.step, "batch": number, "labels": dataset.labels, "rows": shown}))
        return
    skipped = f", batch {number} after rollbacks" if number != parsed.step else ""
    print(f"step {parsed.step}{skipped}, {num_rows} of {experiment.batch_size} rows")
    sources = tuple(dataset.sources) if isinstance(dataset, MixedDataset) else ()
    print_lines(show_batch(batch, dataset.tokenizer, num_rows, dataset.label_names, sources))


def batch_offset(experiment: Experiment, step: int) -> int:
    """How many batches the run's rollbacks have skipped before this step, according to its metrics.jsonl."""
    metrics = Path(experiment.run_dir or "") / METRICS_FILE
    if experiment.run_dir is None or not metrics.is_file():
        return 0
    rows = [row for row in read_metrics(metrics) if has_step(row) and row["step"] <= step]
    offsets = (row.get("batch_offset") for row in reversed(rows))
    return next((offset for offset in offsets if type(offset) is int), 0)


def _override(action: str, default: Arguments, flags: list[str]) -> Arguments:
    program = f"flaxmill data {action}"
    return override(default, flags, program=program, usage=CONFIG_USAGE, description=SUMMARIES[action])


def _open(experiment: Experiment, means: Means = LOCAL) -> tuple[Experiment, "AnyDataset"]:
    """The experiment as training reads it, and its data."""
    from flaxmill.train.input_pipeline import prepare_data

    experiment = _resolve(experiment)
    return experiment, prepare_data(experiment, cache_directory(), _log, means)


def _resolve(experiment: Experiment) -> Experiment:
    """The experiment as training reads it; the model to start from may decide the tokenizer."""
    from flaxmill.train.run.source import adopt_source

    return adopt_source(with_definition(with_absolute_paths(experiment)))


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _number(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(_number, value))
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if value is not None else "none"
