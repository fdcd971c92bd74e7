"""Finds the experiments in configs/ by their files, and experiments in a user's own files."""

import ast
import importlib
import importlib.util
import itertools
import pkgutil
import runpy
from pathlib import Path
from typing import Any

from flaxmill.data.files.local_paths import local_path
from flaxmill.data.messages import did_you_mean
from flaxmill.train.experiment import Experiment
from flaxmill.train.failures import describe_error_in
from flaxmill.train.run.directory import CONFIG_FILE, read_config

DEFAULT_CONFIG = "gpt_tiny"
CONFIG_USAGE = "[CONFIG | FILE.py]"
PACKAGE = "flaxmill.configs"


def list_configs() -> dict[str, str]:
    """{name: first line of its docstring} for every file in configs/ and its rooms, without running any."""
    return {name: _summary(module) for name, module in config_modules().items()}


def config_modules() -> dict[str, str]:
    """{name: module} for every file in configs/ and its rooms; the name does not say the room."""
    package = importlib.import_module(PACKAGE)
    found = pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")
    modules = {module.name.rpartition(".")[2]: module.name for module in found if not module.ispkg}
    return dict(sorted(modules.items()))


def load_config(name_or_path: str) -> Experiment:
    """The experiment of that name, or the `config` of a .py file.

    Raises:
      ValueError: there is no such name or file, or the file does not define an Experiment.
    """
    if name_or_path.endswith(".py") or "/" in name_or_path:
        return _load_file(local_path(name_or_path, "CONFIG"))
    modules = config_modules()
    if name_or_path not in modules:
        question = did_you_mean(name_or_path.replace("-", "_").lower(), list(modules))
        raise ValueError(
            f"unknown config {name_or_path!r}; {question + ' ' if question else ''}"
            "`flaxmill configs` lists them, and a path ends in .py"
        )
    return importlib.import_module(modules[name_or_path]).config


def run_definitions(name_or_path: str | None) -> None:
    """Run the file that defines the objective of the run that a command reads; None: there is no file.

    Raises:
      ValueError: as `load_config` does.
    """
    if name_or_path is not None:
        load_config(name_or_path)


def take_config(arguments: list[str]) -> tuple[Experiment, list[str]]:
    """The config that the first argument names, if it is not a flag, else the config of the run in --run-dir,
    else the default; and the other arguments."""
    if arguments and not arguments[0].startswith("-"):
        return load_config(arguments[0]), arguments[1:]
    run_dir = _run_dir(arguments)
    if run_dir is not None and (run_dir / CONFIG_FILE).is_file():
        return read_config(run_dir), arguments
    return load_config(DEFAULT_CONFIG), arguments


def _run_dir(arguments: list[str]) -> Path | None:
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, equals, value = argument.partition("=")
        if flag in ("--run-dir", "--run_dir"):
            return local_path(value if equals else following, "--run-dir")
    return None


def _summary(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0]


def _load_file(path: Path) -> Experiment:
    if not path.is_file():
        raise ValueError(f"the config file {path} does not exist; `flaxmill configs` lists the named ones")
    config = _run_file(path).get("config")
    if not isinstance(config, Experiment):
        found = "defines no `config`" if config is None else f"has config={config!r:.60}"
        raise ValueError(f"{path} {found}; give it `config = Experiment(...)`")
    return config


def _run_file(path: Path) -> dict[str, Any]:
    try:
        return runpy.run_path(str(path))
    except SyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: {error.msg}; correct the file") from None
    except Exception as error:
        raise ValueError(f"{describe_error_in(str(path), error)}; correct the file") from None
