"""`flaxmill export`: writes a run's weights for Hugging Face's transformers."""

from dataclasses import dataclass, field

from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.overrides import override, take_paths
from flaxmill.train.run.directory import read_config

DESCRIPTION = """Writes a checkpoint of RUN to HF_DIR (its best, or else its newest, or the one of --step):
config.json, model.safetensors and the tokenizer, as transformers' from_pretrained loads them. LoRA adapters
are merged into the weights; with --adapter they are written alone, for PEFT."""

_CLASSES = {
    "lm": "AutoModelForCausalLM",
    "mlm": "AutoModelForMaskedLM",
    "mlm_nsp": "AutoModelForPreTraining",
    "classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "qa": "AutoModelForQuestionAnswering",
}


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """What `flaxmill export` takes."""

    step: int | None = None
    """The checkpoint to write; None: the best, or else the newest."""
    adapter: bool = False
    """Write the adapters of a LoRA run alone, and its task's head, as PEFT loads them."""
    overwrite: bool = False
    """Replace the model in an HF_DIR that is not empty."""
    mesh: MeshConfig = field(default_factory=lambda: MeshConfig(data=1))
    """Devices that hold the weights while they are written."""


def run(arguments: list[str]) -> None:
    """Export, and say how to load it."""
    (run_dir, target), flags = take_paths(arguments, "RUN", "HF_DIR", program="flaxmill export")
    parsed = override(
        ExportArguments(), flags, program="flaxmill export", usage="RUN HF_DIR", description=DESCRIPTION
    )
    read_config(run_dir)  # refuses what is not a run before JAX is loaded
    from flaxmill.train.metrics.progress import short_number
    from flaxmill.train.run.exporting import export_adapter, export_run

    export = export_adapter if parsed.adapter else export_run
    exported = export(run_dir, target, step=parsed.step, overwrite=parsed.overwrite, mesh_config=parsed.mesh)
    if parsed.adapter:
        num_bytes = short_number(exported.num_bytes)
        print(
            f"wrote {target}: adapters of step {exported.step}, {num_bytes}B of float32\n"
            f"load them with peft.PeftModel.from_pretrained(model, {str(target)!r}), model being the "
            f"{exported.architecture} that training began from"
        )
        return
    print(
        f"wrote {target}: {exported.architecture} of step {exported.step}, "
        f"{short_number(exported.num_bytes)}B of float32\n"
        f"load it with {_loader(exported.model)}({str(target)!r})"
    )


def _loader(model: ModelConfig) -> str:
    if model.encoder_layers is not None:
        return "transformers.AutoModelForSeq2SeqLM.from_pretrained"
    if model.head == "none":
        return "sentence_transformers.SentenceTransformer"
    assert model.head is not None
    return f"transformers.{_CLASSES[model.head]}.from_pretrained"
