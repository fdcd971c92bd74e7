"""Measures parity on small models of every family; writes numbers and pictures into docs/parity.md.

    JAX_PLATFORMS=cpu python docs/make_parity.py WORK

WORK is a directory for models and measurements: what is there is not measured again. The script needs the
extra `parity` and matplotlib.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAGE = DOCS / "parity.md"
EXAMPLE = "bert"
CURVES = {
    "gpt2": ("packed", "A small GPT-2, packed rows, next-token loss"),
    "bert_pretraining": ("segments", "A small BERT, padded rows, masked-word + next-sentence loss"),
}
NUM_STEPS = 100


def main() -> None:
    import torch

    torch.set_num_threads(1)
    work = Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    page = PAGE.read_text(encoding="utf-8")
    page = replace(page, "table", make_table(work))
    page = replace(page, "factor", make_factor(work))
    page = replace(page, "example", make_example(work))
    for name, (variant, title) in CURVES.items():
        page = replace(page, f"curve {name}", make_curve(work, name, variant, title))
    PAGE.write_text(page, encoding="utf-8")


def replace(page: str, name: str, text: str) -> str:
    """Put `text` between the two marks of the part `name`."""
    start, end = f"<!-- made: {name} -->\n", f"<!-- end: {name} -->"
    before, rest = page.split(start)
    return before + start + text + "\n" + end + rest.split(end)[1]


def make_table(work: Path) -> str:
    """A row for each small model with the largest differences over all its batches."""
    from flaxmill.train.parity.small_models import SMALL

    head = (
        "model", "batches", "hidden", "logits", "loss (rel.)", "gradients (rel.)", "5 steps",
        "by float64: gradients", "by float64: 5 steps",
    )  # fmt: skip
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for name, small in SMALL.items():
        checks = measured(work, name)
        found = " | ".join(columns(checks))
        lines.append(f"`{name}`<br>{small.architecture} | {found}")
    return "\n".join(f"| {line} |" for line in lines)


def make_factor(work: Path) -> str:
    """The largest difference between the two sides, as a multiple of torch's own rounding."""
    from flaxmill.train.parity.comparison import ROUNDING
    from flaxmill.train.parity.small_models import SMALL

    factors = []
    for name in SMALL:
        for check in measured(work, name):
            of_torch = check.get("float64", {}).get("torch_float32_to_float64", {})
            factors += [
                check["tensors"][tensor] / (rounding or 1e-300) for tensor, rounding in of_torch.items()
            ]
    usual = [factor for factor in factors if factor <= ROUNDING]
    rest = len(factors) - len(usual)
    other = (
        f"; for {rest} more, which torch rounded almost to zero, it was within 2^-24 of the norm"
        if rest
        else ""
    )
    return (
        f"Float64 judged {len(factors)} tensors, counting every batch. The largest difference in float32 was "
        f"{max(usual):.1f} times torch's own rounding{other}."
    )


def measured(work: Path, name: str) -> list[dict[str, Any]]:
    """The checks of SMALL[name], measured now unless `work` holds them already."""
    path = work / f"{name}.json"
    if not path.exists():
        from flaxmill.train.parity.comparison import compare_directory
        from flaxmill.train.parity.report import as_json
        from flaxmill.train.parity.small_models import make_reference

        make_reference(name, work / name)
        path.write_text(json.dumps([as_json(check) for check in compare_directory(work / name)]))
        print(name, flush=True)
    return json.loads(path.read_text())


def columns(checks: list[dict[str, Any]]) -> list[str]:
    batches = dict.fromkeys(check["batch"] for check in checks)
    assert all(check["inside"] for check in checks), "a model is outside its tolerance: mend it first"
    by_kind: dict[str, list[dict[str, Any]]] = {
        "hidden": [],
        "logits": [],
        "loss": [],
        "gradients": [],
        "steps": [],
    }
    for check in checks:
        last = check["quantity"].split()[-1]
        kind = "logits" if last.endswith(("logits", "pooled")) else last.removeprefix("encoder_")
        by_kind[kind].append(check)
    cells = [
        ", ".join(batches),
        largest(by_kind["hidden"], "absolute"),
        largest(by_kind["logits"], "absolute"),
    ]
    cells += [largest(by_kind["loss"], "relative")]
    cells += [within_float32(by_kind["gradients"]), within_float32(by_kind["steps"])]
    return [*cells, by_float64(by_kind["gradients"]), by_float64(by_kind["steps"])]


def largest(checks: list[dict[str, Any]], field: str) -> str:
    """The largest value of `field`, and the largest float64 difference if float32 was out of tolerance."""
    if not checks:
        return ""
    in_float64 = [max(check["float64"]["tensors"].values()) for check in checks if "float64" in check]
    note = f" (float64: {max(in_float64):.1e})" if in_float64 else ""
    return f"{max(check[field] for check in checks):.1e}{note}"


def within_float32(checks: list[dict[str, Any]]) -> str:
    """The largest difference of the tensors that float32 judges."""
    judged = [value for check in checks for value in check["tensors"].values() if value <= check["tolerance"]]
    return f"{max(judged):.1e}"


def by_float64(checks: list[dict[str, Any]]) -> str:
    """How many tensors float64 judges, and their largest difference there."""
    judged = {}
    for check in checks:
        for name, value in check.get("float64", {}).get("tensors", {}).items():
            judged[name] = max(value, judged.get(name, 0.0))
    return f"{len(judged)}: {max(judged.values()):.1e}" if judged else "none"


def make_example(work: Path) -> str:
    """What the command prints."""
    measured(work, EXAMPLE)  # this makes the model
    path = work / "example.txt"
    if not path.exists():
        command = [sys.executable, "-c", "from flaxmill.train.command_line import main; main()"]
        done = subprocess.run(
            [*command, "parity", EXAMPLE], cwd=work, capture_output=True, text=True, check=True
        )
        path.write_text(done.stdout)
    return f"```\n$ flaxmill parity {EXAMPLE}\n{path.read_text().strip()}\n```"


def make_curve(work: Path, name: str, variant: str, title: str) -> str:
    """Draw the losses of both sides; returns the picture and a line on how far apart they are."""
    from flaxmill.train.parity.curves import Curves, training_curves

    path = work / f"curves_{name}.json"
    if not path.exists():
        path.write_text(json.dumps(training_curves(name, variant, NUM_STEPS)._asdict()))
    curves = Curves(**json.loads(path.read_text()))
    draw(curves.ours, curves.theirs, title, DOCS / f"parity_{name}.svg")
    return (
        f"![{title}](parity_{name}.svg)\n\n{title}: the loss falls from {curves.theirs[0]:.3f} to "
        f"{curves.theirs[-1]:.3f} in {NUM_STEPS} steps; the largest relative difference at any step is "
        f"{curves.largest_relative_difference():.1e}."
    )


def draw(ours: list[float], theirs: list[float], title: str, path: Path) -> None:
    """Draw both curves, and below them their relative difference on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "parity", "font.size": 10, "svg.fonttype": "path"}
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(7, 5), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    above.plot(theirs, color="#d55e00", linewidth=4, alpha=0.5, label="PyTorch")
    above.plot(ours, color="#0072b2", linewidth=1.2, label="flaxmill")
    above.set(ylabel="loss (nats)", title=title)
    above.legend(frameon=False)
    apart = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
    below.semilogy([value or None for value in apart], ".", color="#0072b2", markersize=4)
    below.axhline(1e-3, color="#d55e00", linestyle="--", linewidth=1)
    below.annotate("tolerance", (0, 1e-3), (2, -3), textcoords="offset points", va="top", color="#d55e00")
    below.set(xlabel="step", ylabel="relative difference", ylim=(1e-9, 1e-2))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
