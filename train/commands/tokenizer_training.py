"""`flaxmill tokenizer train`: from files, or a config's training text, to a directory with a tokenizer."""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from flaxmill.data.config import DataConfig
from flaxmill.data.messages import did_you_mean
from flaxmill.data.objectives import OBJECTIVE_DATA, data_of
from flaxmill.train.commands.tokenizer_command import log, override_arguments, take_words
from flaxmill.train.named_configs import load_config
from flaxmill.train.terminal.output_places import folder_place

if TYPE_CHECKING:
    from flaxmill.data.tokenization import Tokenizer
    from flaxmill.train.experiment import Experiment

Kind = Literal["bpe", "wordpiece", "unigram"]


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What `flaxmill tokenizer train` takes."""

    output: str | None = None
    """The directory that gets tokenizer.json and tokenizer_config.json, for data.tokenizer and for
    transformers' AutoTokenizer."""
    config: str | None = None
    """A named config or a file: its training text, kind, size and objective, unless a flag differs."""
    kind: Kind = "bpe"
    """bpe: byte-level; wordpiece: BERT's; unigram: SentencePiece's, with bytes for rare characters."""
    vocab_size: int = 2048
    """The size to aim at; added tokens come on top."""
    lowercase: bool = False
    """Lower-case the text; wordpiece then strips accents too, as uncased BERT. A config's wordpiece does."""
    sample_bytes: int | None = None
    """The most text to train on; of more, documents are drawn. None: 2 KiB for each entry."""
    objective: str | None = None
    """Add the special tokens that this objective needs, and refuse a kind that cannot serve it."""
    added_tokens: tuple[str, ...] = ()
    """Special tokens of your own, after the vocabulary."""
    text_column: str = "text"
    """Tables: the column of the text."""

    def __post_init__(self) -> None:
        if self.sample_bytes is not None and self.sample_bytes < 1:
            raise ValueError(f"sample_bytes={self.sample_bytes} must be at least 1")
        if self.objective is not None and self.objective not in OBJECTIVE_DATA:
            question = did_you_mean(self.objective, list(OBJECTIVE_DATA))
            raise ValueError(
                f"objective={self.objective!r} is unknown; {question} use one of {', '.join(OBJECTIVE_DATA)}"
            )
        if "" in self.added_tokens:
            raise ValueError("added_tokens holds an empty text; give each token's spelling")


def train(arguments: list[str]) -> None:
    """Read, train, write, and print what was made."""
    files, flags = take_words(arguments)
    experiment = _config_in(flags)
    parsed = override_arguments("train", _defaults(experiment, flags), flags)
    if files and experiment is not None:
        raise ValueError(f"both {files[0]} and --config={parsed.config} name text; give one of them")
    output = _check_output(parsed.output)
    from flaxmill.data.vocabulary.training import check_size

    check_size(parsed.vocab_size, parsed.kind, "vocab_size", "kind")
    texts = _read_config(experiment, parsed) if experiment else _read_files(files, parsed)
    tokenizer = _train(texts, parsed)
    _write(tokenizer, output)
    _print_result(tokenizer, output, parsed, texts)


def _config_in(flags: list[str]) -> "Experiment | None":
    for flag, following in itertools.pairwise([*flags, ""]):
        name, equals, value = flag.partition("=")
        if name == "--config":
            return load_config(value if equals else following)
    return None


def _defaults(experiment: "Experiment | None", flags: list[str]) -> TrainArguments:
    """The config's own values; what `data.tokenizer=wordpiece` trains is lower-cased."""
    if experiment is None:
        return TrainArguments()
    data = experiment.data
    names_kind = any(flag.partition("=")[0] == "--kind" for flag in flags)
    kind = data.tokenizer if data.tokenizer in get_args(Kind) else "bpe"
    return TrainArguments(
        kind=kind,  # type: ignore[arg-type]
        vocab_size=data.vocab_size,
        lowercase=kind == "wordpiece" and not names_kind,
        objective=experiment.objective if isinstance(experiment.objective, str) else None,
        text_column=data.text_column,
    )


def _check_output(output: str | None) -> Path:
    if output is None:
        raise ValueError("no output; name the directory to write: --output DIR")
    directory = folder_place(output, "output")
    if (directory / "tokenizer.json").exists():
        raise ValueError(
            f"output={output} holds a tokenizer.json already; name another directory, or delete it"
        )
    return directory


def _read_files(files: list[str], parsed: TrainArguments) -> list[str]:
    from flaxmill.data.text.held_out import read_documents
    from flaxmill.data.vocabulary.sample import draw_documents
    from flaxmill.data.vocabulary.training import SAMPLE_BYTES_PER_ENTRY

    config = DataConfig(files=tuple(files), text_column=parsed.text_column)
    num_bytes = parsed.sample_bytes or parsed.vocab_size * SAMPLE_BYTES_PER_ENTRY
    return [document.text for document in draw_documents(read_documents(config, log), num_bytes)]


def _read_config(experiment: "Experiment", parsed: TrainArguments) -> list[str]:
    """The training documents; held-out ones are not read."""
    from flaxmill.data.examples.corpus import as_documents, split_examples
    from flaxmill.data.mixture.preparation import mixture_corpus
    from flaxmill.data.text.held_out import split_corpus
    from flaxmill.data.vocabulary.sample import draw_documents
    from flaxmill.data.vocabulary.training import sample_training
    from flaxmill.train.experiment import with_absolute_paths, with_definition

    experiment = with_definition(with_absolute_paths(experiment))
    data = dataclasses.replace(experiment.data, vocab_size=parsed.vocab_size, text_column=parsed.text_column)
    if data.sources:
        corpus = mixture_corpus(data, log)
    elif data_of(experiment.objective).examples is None:
        corpus = split_corpus(data, log)
    else:
        corpus = as_documents(split_examples(data, experiment.objective, log), experiment.objective)
    if parsed.sample_bytes is None:
        return list(sample_training(data, corpus))
    training = (document for split, document in corpus.documents() if split == "train")
    return [document.text for document in draw_documents(training, parsed.sample_bytes)]


def _train(texts: list[str], parsed: TrainArguments) -> "Tokenizer":
    from flaxmill.data.special_tokens import check_trained_specials
    from flaxmill.data.tokenization import Tokenizer
    from flaxmill.data.vocabulary.training import train as train_kind

    needed: tuple[str, ...] = ()
    if parsed.objective is not None:
        check_trained_specials(DataConfig(tokenizer=parsed.kind), parsed.objective)
        needed = data_of(parsed.objective).added_tokens
    inner = train_kind(parsed.kind, texts, parsed.vocab_size, parsed.lowercase)
    inner.add_special_tokens(list(dict.fromkeys([*needed, *parsed.added_tokens])))
    return Tokenizer(inner)


def _write(tokenizer: "Tokenizer", directory: Path) -> None:
    """Writes both files; tokenizer.json has the template by which flaxmill frames examples."""
    from flaxmill.data.examples.framing import framed_json
    from flaxmill.data.whole_files import write_whole, write_whole_text

    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / "tokenizer_config.json", tokenizer.save_settings)
    write_whole_text(directory / "tokenizer.json", framed_json(tokenizer, "template"))


def _print_result(tokenizer: "Tokenizer", directory: Path, parsed: TrainArguments, texts: list[str]) -> None:
    from flaxmill.data.special_tokens import lacking_tokens

    serves = [name for name in OBJECTIVE_DATA if not lacking_tokens(tokenizer, name, DataConfig())]
    num_bytes = sum(len(text.encode()) for text in texts)
    print(f"directory    {directory}")
    print(f"kind         {parsed.kind}{', lower-cased' if parsed.lowercase else ''}")
    print(f"size         {tokenizer.vocab_size:,} ids")
    print(f"text         {len(texts):,} documents, {num_bytes:,} bytes")
    print(f"serves       {', '.join(serves)}")
