"""Writes a run's weights as a directory that Hugging Face's transformers loads."""

import errno
import json
import shutil
from pathlib import Path
from typing import NamedTuple

from flaxmill.data.config import Framing
from flaxmill.data.examples.framing import document_frame, framed_json
from flaxmill.data.objectives import OBJECTIVE_DATA
from flaxmill.data.tokenization import Tokenizer, canonical_json
from flaxmill.data.tokenizer.reading import find_tokenizer
from flaxmill.model.adapters import merge_lora
from flaxmill.model.config import ModelConfig
from flaxmill.model.huggingface.adapter_export import save_adapter
from flaxmill.model.huggingface.directory import save_huggingface
from flaxmill.model.huggingface.files import read_json
from flaxmill.model.huggingface.sentence_modules import write_sentence_modules
from flaxmill.model.huggingface.writing import ADAPTER_WEIGHTS, TOKENIZER_FILES
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.experiment import Experiment
from flaxmill.train.failures import RunError
from flaxmill.train.run.decoding_settings import GENERATION_FILE
from flaxmill.train.run.directory import (
    CHECKPOINTS,
    CONFIG_FILE,
    IMPORTED_STEP,
    TOKENIZER_FILE,
    read_trained_config,
)
from flaxmill.train.run.importing import HUGGINGFACE
from flaxmill.train.run.restoring import load_params
from flaxmill.train.run.source import is_huggingface
from flaxmill.train.run.token_ids import with_token_ids


class Exported(NamedTuple):
    """What was written: from which step, for which class of transformers."""

    step: int
    model: ModelConfig
    architecture: str
    num_bytes: int


def export_run(
    run: Path,
    target: Path,
    *,
    step: int | None = None,
    overwrite: bool = False,
    mesh_config: MeshConfig | None = None,
) -> Exported:
    """Write the checkpoint of `step` (None: the best, or else the newest) to `target`, with the run's
    tokenizer.

    The tokenizer's files and the generation settings of an imported run are given back as they came, unless
    it was trained with another tokenizer, framing or end token. LoRA adapters are merged into the weights.

    Args:
      overwrite: replace the model in a `target` that is not empty.
      mesh_config: devices that hold the weights while they are written; None: one.

    Raises:
      ValueError: no such run or step, no family has this model, or `target` is in use or cannot be written.
    """
    experiment = read_trained_config(run)
    _check_target(target, overwrite)
    mesh = make_mesh(mesh_config or MeshConfig(data=1))
    params, _, step = load_params(run, experiment, mesh, step)
    model, params = merge_lora(experiment.model, params)
    file = run / TOKENIZER_FILE
    tokenizer = Tokenizer.load(file, is_trusted=True) if file.is_file() else None
    framing = experiment.data.framing
    kept = _kept_tokenizer(run, tokenizer, framing)
    own = None if kept else tokenizer
    if step == IMPORTED_STEP:  # export it as it came
        kept += (GENERATION_FILE,)
    elif tokenizer is not None:
        # An objective of the user's own is looked for only where its file was run: weights need no code.
        data = OBJECTIVE_DATA.get(experiment.objective)
        may_converse = data is not None and data.may_converse and tokenizer.chat_template is not None
        converses = may_converse or (data is not None and data.reads_conversations)
        model = with_token_ids(model, tokenizer, converses=converses)
    generation = run / HUGGINGFACE / GENERATION_FILE
    try:
        save_huggingface(
            target,
            model,
            params,
            tokenizer_json=framed_json(own, framing) if own else None,
            tokenizer_settings=own.settings_with_roles() if own else None,
            generation_settings=read_json(generation) if generation.is_file() else None,
            labels=experiment.data.labels,
        )
        if model.head == "none" and model.encoder_layers is None:
            write_sentence_modules(target, model.embed_dim, model.max_positions, experiment.text_pooling)
        for name in kept:
            if (run / HUGGINGFACE / name).is_file():
                shutil.copyfile(run / HUGGINGFACE / name, target / name)
    except OSError as error:
        raise _cannot_write(target, error) from None
    architecture = json.loads((target / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    num_bytes = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    return Exported(step, experiment.model, architecture, num_bytes)


def export_adapter(
    run: Path,
    target: Path,
    *,
    step: int | None = None,
    overwrite: bool = False,
    mesh_config: MeshConfig | None = None,
) -> Exported:
    """Write a LoRA run's adapters, and the head of its task, for PEFT; arguments as for `export_run`.

    Raises:
      ValueError: as in `export_run`, or the run has no adapters.
    """
    experiment = read_trained_config(run)
    if experiment.model.lora_rank is None:
        raise ValueError(f"{run} has no adapters: its model.lora_rank is None; export it without --adapter")
    _check_target(target, overwrite)
    mesh = make_mesh(mesh_config or MeshConfig(data=1))
    params, _, step = load_params(run, experiment, mesh, step)
    try:
        architecture = save_adapter(target, experiment.model, params, _base_name(experiment))
    except OSError as error:
        raise _cannot_write(target, error) from None
    num_bytes = (target / ADAPTER_WEIGHTS).stat().st_size
    return Exported(step, experiment.model, architecture, num_bytes)


def _base_name(experiment: Experiment) -> str | None:
    """The Hugging Face directory that the run started from; None if it was a run, which PEFT cannot load."""
    source = experiment.init_from
    return source if source is not None and is_huggingface(Path(source)) else None


def _cannot_write(target: Path, error: OSError) -> Exception:
    """A place that cannot be written is the user's mistake; a disk that fills up or fails is not."""
    what = f"{target} cannot be written ({error.strerror or error})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return RunError(f"{what}; make room there, or give another directory")
    return ValueError(f"{what}; give another directory")


def _check_target(target: Path, overwrite: bool) -> None:
    if (target / CHECKPOINTS).is_dir() and (target / CONFIG_FILE).is_file():
        raise ValueError(f"{target} is a run directory; give another one for the export")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise ValueError(f"{target} is not empty; add --overwrite to replace the model in it")


def _kept_tokenizer(run: Path, tokenizer: Tokenizer | None, framing: Framing) -> tuple[str, ...]:
    """Files of the imported tokenizer; none where the run was not imported, or was trained differently from
    what they say."""
    imported = find_tokenizer(run / HUGGINGFACE) if (run / HUGGINGFACE).is_dir() else None
    if tokenizer is None:
        return TOKENIZER_FILES
    if imported is None:
        return ()
    try:
        was, now = Tokenizer.load(imported), tokenizer
    except ValueError:  # a SentencePiece model can only be read next to its config.json
        return ()
    # Some roles may have come from the model's ids, which are stored elsewhere.
    is_same = canonical_json(Tokenizer(was.inner, roles=now.roles)) == canonical_json(now)
    # Conversations may have been written in a form that the files do not say.
    is_same &= now.chat_template in (None, was.chat_template)
    is_same &= was.roles.items() <= now.roles.items() and not was.roles_spelled_otherwise
    is_same &= document_frame(was, "template") == document_frame(now, framing)
    return TOKENIZER_FILES if is_same else ()
