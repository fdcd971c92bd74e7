"""`flaxmill embed`: the texts of a file as vectors."""

from dataclasses import dataclass, field

from flaxmill.data.text.texts import read_texts
from flaxmill.model.fields import TextPooling
from flaxmill.model.huggingface.sentence_modules import read_sentence_modules
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.inference.vector_files import check_vector_file, write_vectors
from flaxmill.train.named_configs import run_definitions
from flaxmill.train.overrides import override, take_paths
from flaxmill.train.run.model_sources import check_model_source
from flaxmill.train.terminal.output_places import file_place

PROGRAM = "flaxmill embed"
DESCRIPTION = """Writes a vector for each text of --data, in order. MODEL is a run (its best checkpoint, or
else its newest), or a directory of Hugging Face or sentence-transformers, whose files say how tokens are
pooled; without such files a text's vector is the mean over all its tokens, [CLS] and [SEP] included."""


@dataclass(frozen=True, kw_only=True)
class EmbedArguments:
    """What `flaxmill embed` takes."""

    data: tuple[str, ...] = ()
    """A file or glob of texts: .txt with a text a line, or .csv, .tsv, .jsonl, .json or .parquet; may be
    repeated."""
    output: str | None = None
    """The file to write: .npy with float32 [texts, dimensions], or .parquet with the columns text and
    embedding."""
    text_column: str = "text"
    """Column of a table with the text."""
    pooling: TextPooling | None = None
    """How a text's tokens become one vector; None: as the model's files say, or else mean."""
    normalize: bool | None = None
    """Divide each vector by its length; None: as the model's files say, or else not."""
    prompt: str | None = None
    """What is put before each text; None: as the model's files say, or else nothing."""
    batch_size: int = 32
    """Rows of 64 tokens that are computed together, or as many tokens of longer rows. Short texts share a
    row."""
    config: str | None = None
    """The file that defines the objective of the run, if that is one of your own."""
    mesh: MeshConfig = field(default_factory=lambda: MeshConfig(data=1))
    """Devices to compute on."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")


def run(arguments: list[str]) -> None:
    """Embed and write."""
    (source,), flags = take_paths(arguments, "MODEL", program=PROGRAM)
    parsed = override(EmbedArguments(), flags, program=PROGRAM, usage="MODEL", description=DESCRIPTION)
    if not parsed.data or parsed.output is None:
        lacking = "--output E.npy" if parsed.data else "--data FILE"
        raise ValueError(f"{lacking} is not given: {PROGRAM} MODEL --data FILE --output E.npy")
    output = file_place(parsed.output, "output", "vectors.npy")
    check_vector_file(output)
    modules = read_sentence_modules(source)
    check_model_source(modules.body)
    run_definitions(parsed.config)
    texts = read_texts(parsed.data, parsed.text_column)
    from flaxmill.train.inference.embedding import EmbeddingOptions, embed_texts, load_embedder
    from flaxmill.train.metrics.progress import Told, warn

    options = EmbeddingOptions(parsed.pooling, parsed.normalize, parsed.prompt, parsed.batch_size)
    embedder = load_embedder(modules, options, parsed.mesh)
    embedded = embed_texts(embedder, texts, Told("texts", len(texts)))
    write_vectors(output, embedded.vectors, texts)
    if embedded.num_cut:
        warn(f"{embedded.num_cut:,} of {len(texts):,} texts are cut to {embedder.limit} tokens")
    print(f"{len(texts):,} texts, {embedder.num_dimensions} numbers each, in {output}")
