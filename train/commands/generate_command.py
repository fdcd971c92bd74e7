"""`flaxmill generate`: text from a trained model, or words for the gaps of a text."""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from flaxmill.data.files.local_paths import local_path
from flaxmill.data.json_text import dump_json
from flaxmill.model.generation.config import GenerationConfig, WeightType
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.named_configs import run_definitions
from flaxmill.train.overrides import INLINE, override
from flaxmill.train.run.model_sources import check_model_source

if TYPE_CHECKING:
    from flaxmill.train.inference.text_model import TextModel

USAGE = "SOURCE PROMPT [PROMPT ...]"
DESCRIPTION = """Continues each PROMPT with the model of SOURCE: a run (its best checkpoint, or else its
newest) or a Hugging Face directory. For an encoder-decoder the prompt is the source. An encoder fills the
mask tokens of its prompts, and reads only the flags --candidates, --json, --markup and --mesh."""


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """What `flaxmill generate` takes."""

    stop: tuple[str, ...] = ()
    """A text ends before this string; may be repeated."""
    markup: bool = True
    """Read special tokens that a prompt spells as these tokens, as transformers does; no: as text."""
    candidates: int = 5
    """Words shown for each gap that an encoder fills."""
    json: bool = False
    """Print one JSON object, {"text": [...], "tokens": [[...]]}: the new text alone, to be appended to the
    prompt as it is."""
    config: str | None = None
    """The file that defines the objective of the run, if that is one of your own."""
    mesh: MeshConfig = field(default_factory=lambda: MeshConfig(data=1))
    """Devices to compute on."""
    weights: WeightType | None = None
    """How a decoder's weights are kept: fewer bytes are read sooner, but are less exact. None: in the model's
    compute dtype. int8 has a scale for each output, and is for one CPU device."""
    decoding: Annotated[GenerationConfig, INLINE] = field(default_factory=GenerationConfig)

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates={self.candidates} must be at least 1")
        if "" in self.stop:
            raise ValueError("stop='' would end every text before it begins; give it some text")


def run(arguments: list[str]) -> None:
    """Generate and print."""
    flags_from = next((i for i, text in enumerate(arguments) if text.startswith("--") or text == "-h"), None)
    words, flags = arguments[:flags_from], [] if flags_from is None else arguments[flags_from:]
    parsed = override(
        GenerateArguments(), flags, program="flaxmill generate", usage=USAGE, description=DESCRIPTION
    )
    if len(words) < 2:
        given = "neither is given" if not words else "no prompt is given"
        raise ValueError(f"SOURCE and a PROMPT come first, {given}: flaxmill generate {USAGE}")
    source, prompts = local_path(words[0], "SOURCE"), words[1:]
    check_model_source(source)
    run_definitions(parsed.config)
    from flaxmill.train.inference.text_model import load_text_model

    model = load_text_model(source, parsed.mesh, markup=parsed.markup)
    if model.config.head == "lm":
        _generate(model, prompts, parsed)
    else:
        _fill(model, prompts, parsed)


def _generate(model: "TextModel", prompts: list[str], arguments: GenerateArguments) -> None:
    from flaxmill.train.inference.text_generation import stream_texts, write_texts

    options, stop, weights = arguments.decoding, arguments.stop, arguments.weights
    shown = prompts[0] if model.continues else ""
    if arguments.json:
        written = write_texts(model, prompts, options, stop, weights, frees=True)
        print(dump_json({"text": written.texts, "tokens": written.tokens}, ascii_only=True))
    elif len(prompts) == options.num_samples == 1:
        begins = True
        for news in stream_texts(model, prompts, options, stop, weights, frees=True):
            sys.stdout.write(shown * begins + news[0])
            sys.stdout.flush()
            begins = False
        print()
    else:
        written = write_texts(model, prompts, options, stop, weights, frees=True)
        for number, text in enumerate(written.texts):
            prompt = prompts[number // options.num_samples]
            print(f"{prompt!r} {'continues' if model.continues else 'gives'}:\n{text}\n")


def _fill(model: "TextModel", prompts: list[str], arguments: GenerateArguments) -> None:
    from flaxmill.train.inference.gap_filling import fill_gaps

    filled = fill_gaps(model, prompts, arguments.candidates)
    if arguments.json:
        print(
            dump_json(
                {
                    "text": [one.text for one in filled],
                    "tokens": [one.tokens for one in filled],
                    "candidates": [
                        [[candidate._asdict() for candidate in gap] for gap in one.candidates]
                        for one in filled
                    ],
                },
                ascii_only=True,
            )
        )
        return
    for one in filled:
        print(one.text)
        for number, gap in enumerate(one.candidates):
            words = "  ".join(f"{candidate.text} {candidate.probability:.3f}" for candidate in gap)
            print(f"  gap {number}: {words}")
