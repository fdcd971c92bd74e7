"""Failures that end a run in one line and exit code 1: neither a user's mistake nor a defect to trace."""

import traceback

EXIT_DONE, EXIT_FAILURE, EXIT_MISTAKE = 0, 1, 2


class RunError(RuntimeError):
    """The message is one line that names what failed and what to do."""


class DivergenceError(RunError):
    """Too many steps in a row had a loss or gradient that was not finite, or the loss spiked too often."""

    def __init__(self, message: str, batches: list[int]) -> None:
        """Keep the numbers of the batches that caused it."""
        super().__init__(message)
        self.batches = batches


class CheckpointError(RunError):
    """A checkpoint that cannot be used, or could not be written."""


class DamagedCheckpointError(CheckpointError):
    """A committed checkpoint that is not what was saved: `damage` says what is wrong, `advice` what to do."""

    def __init__(self, damage: str, advice: str) -> None:
        super().__init__(f"{damage}; {advice}")
        self.damage = damage
        self.advice = advice


def describe_error_in(file: str, error: Exception) -> str:
    """`FILE:LINE: TypeError: ...`, with the last line of a user's file that led to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f":{frame.lineno}" for frame in frames if frame.filename == file]
    return f"{file}{lines[-1] if lines else ''}: {type(error).__name__}: {error}"
