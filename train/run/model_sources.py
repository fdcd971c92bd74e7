"""Checks what a command is asked to read before JAX is loaded, so that a wrong name is reported at once."""

from pathlib import Path

from flaxmill.train.run.directory import CONFIG_FILE


def check_model_source(source: Path) -> None:
    """Refuse what is neither a run nor a Hugging Face directory.

    Raises:
      ValueError: it has no config.json.
    """
    if not (source / CONFIG_FILE).is_file():
        raise ValueError(
            f"{source} is neither a run nor a Hugging Face model: it has no {CONFIG_FILE}; give a run "
            "directory, or a directory with a model's config.json and weights"
        )


def check_import_places(source: Path, run: Path) -> None:
    """Refuse an import from nowhere, or into a directory that is in use.

    Raises:
      ValueError: `source` is not a directory, or `run` is not empty.
    """
    if not source.is_dir():
        raise ValueError(
            f"{source} is not a directory; give one with a model's config.json and weights, as "
            "`hf download NAME --local-dir DIR` makes it"
        )
    if run.is_dir() and any(run.iterdir()):
        raise ValueError(f"{run} is not empty; give the import a new directory")
