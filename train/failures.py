"""Failures that end a run in one line and exit code 1: nobody's mistake, and no defect to trace."""


class RunError(RuntimeError):
    """The message is one line that names what failed and what to do."""


class DivergenceError(RunError):
    """Too many steps in a row had a loss or gradient that was not finite."""


class CheckpointError(RunError):
    """A checkpoint that cannot be used, or could not be written."""
