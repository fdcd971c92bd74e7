"""Runs on a mixture: losses by source, exact resume, any mesh, and evaluations apart."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train import train
from flaxmill.train.metrics.metrics_file import read_metrics

pytestmark = pytest.mark.slow


@pytest.fixture
def make_mixture(make_experiment, tmp_path):
    """(objective, **changes) -> an experiment on two unlike texts, 3 to 1."""
    from pydoc_data.topics import topics

    texts = [text.strip().replace("\n\n", "\n") for _, text in sorted(topics.items())]
    (tmp_path / "prose.txt").write_text("\n\n".join(texts)[:120_000], encoding="utf-8")
    (tmp_path / "shouts.txt").write_text("\n\n".join(text.upper()[::-1] for text in texts)[:60_000], "utf-8")

    def make(objective="causal", run="run", fields=None, **changes):
        experiment = make_experiment(
            objective, **{"model": {"num_layers": 1}, "eval_batches": None} | changes
        )
        sources = (f"prose=3:{tmp_path}/prose.txt", f"shouts=1:{tmp_path}/shouts.txt")
        data = dataclasses.replace(experiment.data, files=(), sources=sources, **(fields or {}))
        return dataclasses.replace(experiment, data=data, run_dir=str(tmp_path / run))

    return make


def rows_of(experiment):
    return list(read_metrics(Path(experiment.run_dir) / "metrics.jsonl"))


def steps_of(experiment):
    return [row for row in rows_of(experiment) if "loss" in row]


@pytest.mark.parametrize("objective", ["causal", "mlm", "mlm_nsp", "hybrid"])
def test_losses_of_the_sources_add_up_to_the_loss(make_mixture, objective):
    """A causal loss is the mean of its sources' losses over their tokens. Other objectives weigh other
    counts, so that the loss lies between those of the sources."""
    experiment = make_mixture(objective, steps=3)
    train(experiment)
    tokens = {"prose": 0, "shouts": 0}
    for row in steps_of(experiment):
        new = {name: row[f"num_tokens/{name}"] - count for name, count in tokens.items()}
        losses = [row["loss/prose"], row["loss/shouts"]]
        assert min(losses) - 1e-5 <= row["loss"] <= max(losses) + 1e-5
        if objective == "causal":
            # The last token of a row's last document has no target: about one in thirty.
            mean = np.average(losses, weights=list(new.values()))
            assert row["loss"] == pytest.approx(mean, abs=0.02 * abs(losses[0] - losses[1]) + 1e-5)
        tokens = {name: row[f"num_tokens/{name}"] for name in tokens}
        assert sum(tokens.values()) == row["num_tokens"]


def test_a_mixture_resumes_bit_for_bit(make_mixture, stop_after):
    fields = {"source_changes": ("4:shouts=2",)}
    straight = make_mixture(run="straight", steps=7, fields=fields)
    train(straight)
    parts = make_mixture(run="parts", steps=7, fields=fields)
    train(parts, stop=stop_after(3))
    train(parts)
    names = ("loss", "grad_norm", "loss/prose", "loss/shouts", "num_tokens/prose", "num_tokens/shouts")
    assert [[row[name] for name in names] for row in steps_of(parts)] == [
        [row[name] for name in names] for row in steps_of(straight)
    ]


@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"mesh": MeshConfig(data=2, fsdp=2, tensor=2)}])
def test_losses_of_the_sources_are_the_same_in_microbatches_and_on_any_mesh(make_mixture, changes):
    """Float32 sums in another order differ by some 1e-6."""
    model = {"num_layers": 1, "dropout": 0.0}
    one = make_mixture(run="one", steps=3, model=model)
    train(one)
    other = make_mixture(run="other", steps=3, model=model, **changes)
    train(other)
    for row, of_other in zip(steps_of(one), steps_of(other), strict=True):
        for name in ("loss", "loss/prose", "loss/shouts"):
            assert of_other[name] == pytest.approx(row[name], rel=1e-5)
        assert of_other["num_tokens/shouts"] == row["num_tokens/shouts"]


def test_each_source_and_further_text_are_evaluated_apart(make_mixture, tmp_path, flaxmill):
    (tmp_path / "digits.txt").write_text("0 1 2 3 4 5 6 7 8 9 " * 500)
    experiment = make_mixture(steps=4, fields={"valid_sources": (f"digits:{tmp_path}/digits.txt",)})
    result = train(experiment)
    found = rows_of(experiment)[-1]
    losses = {name: found[f"eval_loss/{name}"] for name in ("prose", "shouts", "digits")}
    assert all(math.isfinite(loss) for loss in losses.values())
    # Text that is evaluated alone does not count in the loss of all, which is a mean over the two sources.
    low, high = sorted((losses["prose"], losses["shouts"]))
    assert low < found["eval_loss"] < high
    assert result.metrics["eval_loss"] == found["eval_loss"]
    code, out, err = flaxmill("eval", experiment.run_dir, "--json")
    assert code == 0, err
    measured = json.loads(out)
    for name in ("eval_loss", "eval_loss/prose", "eval_loss/digits"):
        assert measured[name] == pytest.approx(found[name], rel=1e-5)  # on another mesh


def test_the_best_checkpoint_may_follow_one_source(make_mixture):
    from flaxmill.train import BestConfig

    experiment = make_mixture(steps=4, eval_every=2, best=BestConfig(metric="eval_loss/shouts"))
    train(experiment)
    with pytest.raises(ValueError, match=r"best.metric=eval_loss/nobody is not what this run evaluates"):
        train(make_mixture(run="no", eval_every=2, best=BestConfig(metric="eval_loss/nobody")))


def test_other_weights_are_another_run(make_mixture):
    experiment = make_mixture(steps=2)
    train(experiment)
    sources = tuple(source.replace("=3:", "=2:") for source in experiment.data.sources)
    changed = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, sources=sources))
    with pytest.raises(ValueError, match=r"was trained with another config: data.sources"):
        train(changed)


def test_a_run_longer_than_its_epochs_is_refused_before_it_begins(make_mixture, tmp_path):
    fields = {"sources": (f"prose=1@0.1:{tmp_path}/prose.txt",)}
    experiment = make_mixture(steps=5000)
    data = dataclasses.replace(experiment.data, **fields)
    with pytest.raises(ValueError, match=r"used up after .* rows, which are .* of steps=5000"):
        train(dataclasses.replace(experiment, data=data))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_show_and_card_tell_the_sources_apart(make_mixture, flaxmill, tmp_path):
    sources = [f"prose=3:{tmp_path}/prose.txt", f"shouts=1:{tmp_path}/shouts.txt"]
    make_mixture()
    flags = [flag for source in sources for flag in ("--data.sources", source)]
    code, out, err = flaxmill("data", "card", "gpt_tiny", *flags)
    assert code == 0, err
    assert "source prose" in out
    assert "source shouts" in out
    code, out, err = flaxmill("data", "show", "gpt_tiny", *flags)
    assert code == 0, err
