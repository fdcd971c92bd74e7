"""What the files of a sentence-transformers directory say: the body, its pooling, and what follows it."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, get_args

from flaxmill.model.config_json.files import parse_object, read_json
from flaxmill.model.fields import TextPooling

MODULES_FILE, SETTINGS_FILE = "modules.json", "config_sentence_transformers.json"
_BODY_FILE = "sentence_bert_config.json"
_POOLING_FOLDER = "1_Pooling"

# In the order in which their vectors are joined, whatever the order of the file's keys.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLINGS: dict[str, TextPooling] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU"]


class DenseModule(NamedTuple):
    """A projection of the vector, and PyTorch's name of what follows it."""

    folder: Path
    activation: Activation


class SentenceModules(NamedTuple):
    """How a directory's model embeds texts."""

    body: Path
    """The folder of config.json, the weights and the tokenizer."""
    poolings: tuple[TextPooling, ...] = ()
    """Their vectors are joined; (): the files do not say."""
    after: tuple[DenseModule | Literal["normalize"], ...] = ()
    """What is done to the vector, in order."""
    max_length: int | None = None
    """The most tokens that are read of a text; None: the files do not say."""
    lowercase: bool = False
    """Texts are lower-cased first, whatever the tokenizer does."""
    prompt: str = ""
    """What is put before each text."""


def read_sentence_modules(directory: Path) -> SentenceModules:
    """How the model embeds; for a directory of another kind only `body`, which is the directory itself.

    Raises:
      ValueError: a file is torn, or names a module or a setting that is not supported.
    """
    file = directory / MODULES_FILE
    if not file.is_file():
        return SentenceModules(directory)
    entries = parse_object(b'{"modules": ' + file.read_bytes() + b"}", file)["modules"]
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file} lists no modules; copy it again from its source")
    modules = [_kind_and_folder(entry, directory, file) for entry in entries]
    kind, body = modules[0]
    if kind != "Transformer":
        raise ValueError(f"{file} begins with a module {kind}; only Transformer is supported there")
    poolings: tuple[TextPooling, ...] = ()
    after: list[DenseModule | Literal["normalize"]] = []
    for kind, folder in modules[1:]:
        match kind:
            case "Pooling" if not poolings:
                poolings = _read_pooling(folder / "config.json")
            case "Normalize" if poolings:
                after.append("normalize")
            case "Dense" if poolings:
                after.append(_read_dense(folder))
            case _:
                raise ValueError(
                    f"{file}: a module {kind} after {len(after) + bool(poolings)} others is not supported; "
                    "Transformer, one Pooling, then Dense and Normalize are"
                )
    if not poolings:
        raise ValueError(f"{file} has no Pooling, so its model gives no vector for a text; add one")
    return SentenceModules(body, poolings, tuple(after), *_read_body(body), _read_prompt(directory))


def write_sentence_modules(
    directory: Path, num_dimensions: int, max_length: int | None, pooling: TextPooling = "mean"
) -> None:
    """Write beside a model without a head what makes it one of sentence-transformers.

    Args:
      max_length: the most tokens that are read of a text; None: as many as it has.
      pooling: how its tokens become a vector.
    """
    package = "sentence_transformers.models."
    modules = [("", "Transformer"), (_POOLING_FOLDER, "Pooling")]
    entries = [
        {"idx": number, "name": str(number), "path": path, "type": package + kind}
        for number, (path, kind) in enumerate(modules)
    ]
    flags = {flag: _POOLINGS[mode] == pooling for flag, mode in _FLAGS.items()}
    modes = {"word_embedding_dimension": num_dimensions} | flags
    body = {"do_lower_case": False} | ({} if max_length is None else {"max_seq_length": max_length})
    (directory / _POOLING_FOLDER).mkdir(exist_ok=True)
    for name, content in (
        (_BODY_FILE, body),
        (f"{_POOLING_FOLDER}/config.json", modes),
        (MODULES_FILE, entries),
    ):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _kind_and_folder(entry: Any, directory: Path, file: Path) -> tuple[str, Path]:
    kind, path = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(path, str):
        raise ValueError(f"{file}: a module has no type or no path; copy it again from its source")
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError(f"{file} names {path!r}, outside its directory; put the module's folder there")
    return kind.rpartition(".")[2], directory / parts


def _read_pooling(file: Path) -> tuple[TextPooling, ...]:
    values = read_json(file)
    if values.get("include_prompt") is False:
        raise ValueError(
            f"{file}: include_prompt=false, which leaves a prompt's tokens out of the vector, is not "
            "supported; set it to true, or use a model that pools all tokens"
        )
    named = values.get("pooling_mode")
    if named is None:
        modes = [mode for flag, mode in _FLAGS.items() if values.get(flag)] or ["mean"]
    else:
        modes = named if isinstance(named, list) else [named]
    if unknown := [mode for mode in modes if not isinstance(mode, str) or mode not in _POOLINGS]:
        raise ValueError(f"{file}: pooling_mode={unknown[0]!r} is not known; use {', '.join(_POOLINGS)}")
    return tuple(_POOLINGS[mode] for mode in modes)


def _read_dense(folder: Path) -> DenseModule:
    values = read_json(folder / "config.json")
    named = values.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = str(named).rpartition(".")[2]
    odd = next((name for name in ("module_input_name", "module_output_name") if _is_odd(values, name)), None)
    if odd or values.get("use_residual"):
        name = odd or "use_residual"
        raise ValueError(f"{folder / 'config.json'}: {name}={values[name]!r} is not supported; remove it")
    if activation not in get_args(Activation):
        raise ValueError(
            f"{folder / 'config.json'}: activation_function={named!r} is not supported; "
            f"{', '.join(get_args(Activation))} of torch are"
        )
    return DenseModule(folder, activation)  # type: ignore[arg-type]  # it is one of them


def _is_odd(values: Mapping[str, Any], name: str) -> bool:
    return values.get(name, "sentence_embedding") not in ("sentence_embedding", None)


def _read_body(body: Path) -> tuple[int | None, bool]:
    """The most tokens that are read of a text, and whether it is lower-cased."""
    values = read_json(body / _BODY_FILE) if (body / _BODY_FILE).is_file() else {}
    length = values.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        raise ValueError(f"{body / _BODY_FILE}: max_seq_length={length!r} must be a whole number above 0")
    return length, bool(values.get("do_lower_case"))


def _read_prompt(directory: Path) -> str:
    file = directory / SETTINGS_FILE
    values = read_json(file) if file.is_file() else {}
    name, prompts = values.get("default_prompt_name"), values.get("prompts") or {}
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else ""
    if name is not None and not isinstance(prompt, str):
        raise ValueError(f"{file}: default_prompt_name={name!r} names none of its prompts; correct it")
    return prompt or ""
