"""`flaxmill score`: how likely a model finds the texts of a file."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flaxmill.data.json_text import dump_json
from flaxmill.data.text.texts import read_texts
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.named_configs import run_definitions
from flaxmill.train.overrides import override, take_paths
from flaxmill.train.run.model_sources import check_model_source

if TYPE_CHECKING:
    from flaxmill.data.tokenization import Tokenizer
    from flaxmill.train.inference.scoring import Scored

PROGRAM = "flaxmill score"
DESCRIPTION = """Prints the log-probability of each text of --data, in order, and of all. MODEL is a run (its
best checkpoint, or else its newest) or a Hugging Face directory. A causal model scores every token but the
first, which nothing precedes; a masked-language model scores each token of a text with that one masked
(Salazar et al. 2020), and computes as many rows as the text has tokens."""
_SHOWN = 60  # characters of a text beside its score


@dataclass(frozen=True, kw_only=True)
class ScoreArguments:
    """What `flaxmill score` takes."""

    data: tuple[str, ...] = ()
    """A file or glob of texts: .txt with a text a line, or .csv, .tsv, .jsonl, .json or .parquet; may be
    repeated."""
    text_column: str = "text"
    """Column of a table with the text."""
    batch_size: int = 32
    """Rows of 64 tokens that are computed together, or as many tokens of longer rows. Short texts share a
    row."""
    json: bool = False
    """Print one JSON object, with every token's log-probability."""
    config: str | None = None
    """The file that defines the objective of the run, if that is one of your own."""
    mesh: MeshConfig = field(default_factory=lambda: MeshConfig(data=1))
    """Devices to compute on."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")


def run(arguments: list[str]) -> None:
    """Score and print."""
    (source,), flags = take_paths(arguments, "MODEL", program=PROGRAM)
    parsed = override(ScoreArguments(), flags, program=PROGRAM, usage="MODEL", description=DESCRIPTION)
    if not parsed.data:
        raise ValueError(f"--data FILE is not given: {PROGRAM} MODEL --data FILE")
    check_model_source(source)
    run_definitions(parsed.config)
    texts = read_texts(parsed.data, parsed.text_column)
    from flaxmill.train.inference.loaded_model import load_model
    from flaxmill.train.inference.scoring import score_texts
    from flaxmill.train.metrics.progress import Told, warn

    model = load_model(source, parsed.mesh)
    scored = score_texts(model, texts, batch_size=parsed.batch_size, tell=Told("rows"))
    if scored.num_cut:
        warn(f"{scored.num_cut:,} of {len(texts):,} texts are cut to {scored.limit} tokens")
    print(_json(scored, model.tokenizer) if parsed.json else _table(scored, texts))


def _json(scored: "Scored", tokenizer: "Tokenizer") -> str:
    texts = [
        {
            "log_probability": score.log_probability,
            "num_tokens": len(score.tokens),
            "perplexity": score.perplexity,
            "tokens": [tokenizer.inner.id_to_token(token) for token in score.tokens],
            "token_log_probabilities": score.log_probabilities,
        }
        for score in scored.scores
    ]
    return dump_json({"kind": scored.kind, **_total(scored), "texts": texts}, ascii_only=True)


def _total(scored: "Scored") -> dict[str, Any]:
    from flaxmill.train.inference.scoring import perplexity

    num_tokens = sum(len(score.tokens) for score in scored.scores)
    total = sum(score.log_probability for score in scored.scores)
    return {
        "log_probability": total,
        "num_tokens": num_tokens,
        "perplexity": perplexity(total, num_tokens),
    }


def _table(scored: "Scored", texts: list[str]) -> str:
    lines = [f"{'log p':>12}  {'tokens':>6}  {'perplexity':>10}  {scored.kind.replace('_', '-')}"]
    for score, text in zip(scored.scores, texts, strict=True):
        shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
        lines.append(_line(score.log_probability, len(score.tokens), score.perplexity, repr(shown)))
    last = _line(**_total(scored), what=f"all {len(texts):,} texts")
    return "\n".join([*lines, last])


def _line(log_probability: float, num_tokens: int, perplexity: float | None, what: str) -> str:
    shown = "-" if perplexity is None else f"{perplexity:,.2f}"
    return f"{log_probability:12.3f}  {num_tokens:6,}  {shown:>10}  {what}"
