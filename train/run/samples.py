"""RUN/samples.jsonl: what the model wrote at the end of training, a row for each time that it ended."""

from pathlib import Path

from flaxmill.train.metrics.metrics_file import MetricsWriter, has_step, read_metrics

SAMPLES_FILE = "samples.jsonl"


def write_sample(directory: Path, step: int, text: str) -> None:
    """Add the sample of the weights after `step` updates. Raises OSError where it cannot be written."""
    with MetricsWriter(directory / SAMPLES_FILE) as writer:
        writer.write({"step": step, "sample": text})


def read_samples(directory: Path) -> dict[int, str]:
    """{step: sample}, ascending; of a step that was sampled twice the later one. A line that is not a sample
    is passed over."""
    path = directory / SAMPLES_FILE
    if not path.is_file():
        return {}
    rows = [row for row in read_metrics(path) if has_step(row) and isinstance(row.get("sample"), str)]
    return {row["step"]: row["sample"] for row in sorted(rows, key=lambda row: row["step"])}
