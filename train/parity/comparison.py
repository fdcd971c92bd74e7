"""The comparison with PyTorch: what is compared, how close it has to be, and what decides where it is not."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxmill.model.families.table import FAMILIES
from flaxmill.model.huggingface.directory import load_huggingface
from flaxmill.train.optimizer.optimizers import OptimizerConfig
from flaxmill.train.parity.batches import ParityBatch, make_parity_batch, variants
from flaxmill.train.parity.flaxmill_side import Flaxmill
from flaxmill.train.parity.torch_side import (
    Arrays,
    Measured,
    Precision,
    load_reference,
    measure_reference,
    reference_parameters,
    train_reference,
)

NUM_STEPS = 5
OPTIMIZER = OptimizerConfig(name="adamw", learning_rate=1e-3, beta2=0.999, weight_decay=0.1, clip_norm=1.0)
ROUNDING = 10.0
"""A float32 difference may be rounding if it is at most this many times what torch's own rounding costs."""
HALF_ULP = 2.0**-24
"""Half a unit in a float32's last place. A gradient's difference may also be rounding if it is at most this
share of the norm of all gradients: a value that is zero in truth sometimes comes out as zero, even in torch,
and a multiple of zero bounds nothing."""


class Tolerance(NamedTuple):
    """How far apart the two sides may be, in float32 and in float64."""

    float32: float
    float64: float
    relative: bool
    """Relative to the tensor's largest entry, or to `FLOOR` of the norm of all tensors if that is more."""
    reason: str


FLOOR = 1e-6

TOLERANCES = {
    "outputs": Tolerance(
        2e-5, 1e-9, False, "float32 holds 7 digits; sums in another order lose one or two of them"
    ),
    "loss": Tolerance(1e-6, 1e-12, True, "8 units in the last place of a float32"),
    "gradients": Tolerance(
        1e-4, 1e-9, True, "to the tensor's largest entry, at least 1e-6 of the global norm: sums cancel"
    ),
    # In float64: 1e-16 of noise where a gradient is zero, over Adam's epsilon of 1e-8, in 5 steps of 1e-3.
    "parameters": Tolerance(
        1e-5, 5e-11, False, "1% of a step; Adam divides a gradient by its size, so zeros make steps of noise"
    ),
}

Quantities = dict[str, tuple[str, Arrays]]
"""By name: a key of TOLERANCES, and the tensors."""
Measure = Callable[[ParityBatch, Precision], tuple[Quantities, Quantities]]


@dataclass(frozen=True)
class ParityDifference:
    """The difference between the two sides' tensors of one quantity."""

    absolute: float
    """The largest of any entry."""
    relative: float
    """The largest over the largest entry of its tensor (see `Tolerance.relative`)."""
    judged: dict[str, float]
    """For each tensor, the difference that the tolerance limits."""


@dataclass(frozen=True)
class Rounding:
    """The difference in float64, measured where float32 is outside its tolerance."""

    judged: dict[str, float]
    of_torch: dict[str, float]
    """How far torch in float32 is from torch in float64, in the tensor where that is furthest."""
    least: dict[str, float] = field(default_factory=dict)
    """`HALF_ULP` of the norm of all gradients."""

    def bound(self, name: str) -> float:
        """The largest float32 difference that may be rounding."""
        return max(ROUNDING * self.of_torch[name], self.least.get(name, 0.0))


@dataclass(frozen=True)
class ParityCheck:
    """One quantity of one batch, compared.

    A tensor is inside if it is within the tolerance for float32, or if float64 shows that its difference is
    rounding. That is so if it is within the tolerance for float64, and its float32 difference is at most
    `ROUNDING` times the distance of torch in float32 from torch in float64, or at most `HALF_ULP` of the norm
    of all gradients.
    """

    quantity: str
    kind: str
    """A key of TOLERANCES."""
    batch: str
    difference: ParityDifference
    rounding: Rounding | None = None

    @property
    def inside(self) -> bool:
        return not self.outside

    @property
    def outside(self) -> list[str]:
        """Names of the tensors that are outside."""
        return [name for name in self.beyond_float32 if not self._is_rounding(name)]

    @property
    def beyond_float32(self) -> list[str]:
        """Names of the tensors that only float64 can judge, the furthest first."""
        tolerance = TOLERANCES[self.kind].float32
        # Written so that NaN is beyond.
        names = [name for name, judged in self.difference.judged.items() if not judged <= tolerance]
        return sorted(names, key=lambda name: -np.nan_to_num(self.difference.judged[name], nan=np.inf))

    @property
    def within_float32(self) -> float:
        """The largest judged difference of the tensors that float32 decides."""
        beyond = set(self.beyond_float32)
        return max((v for name, v in self.difference.judged.items() if name not in beyond), default=0.0)

    def _is_rounding(self, name: str) -> bool:
        if self.rounding is None:
            return False
        agree = self.rounding.judged[name] <= TOLERANCES[self.kind].float64
        return agree and self.difference.judged[name] <= self.rounding.bound(name)


def compare_directory(
    directory: Path, *, seed: int = 0, say: Callable[[str], None] = lambda text: None
) -> Iterator[ParityCheck]:
    """Compare the model of a Hugging Face directory, in float32, on random batches.

    Yields, for each shape of batch that the model has, hidden states, logits, loss and gradients; at the end
    the parameters after `NUM_STEPS` steps of AdamW.

    Args:
      say: is told what begins, and which part of the whole it is.

    Raises:
      ValueError: no such directory, a model that flaxmill does not have, or PyTorch is not installed.
    """
    say("reading the model")
    sides = Sides(directory)
    batches = [make_parity_batch(sides.config, name, seed) for name in variants(sides.config)]
    total = len(batches) + 1

    def told(measure: Measure, number: int, what: str) -> Measure:
        def tell_and_measure(batch: ParityBatch, precision: Precision) -> tuple[Quantities, Quantities]:
            say(f"comparison {number} of {total}: {what}, in {precision}")
            return measure(batch, precision)

        return tell_and_measure

    for number, batch in enumerate(batches, 1):
        yield from compare(told(sides.measure, number, f"batch {batch.name}"), batch)
    yield from compare(told(sides.train, total, f"{NUM_STEPS} steps of training"), batches[0])


class Sides:
    """flaxmill's and torch's model of one directory, in float32 and, once it is asked for, in float64."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ours = Flaxmill(*load_huggingface(directory))
        self.config = self.ours.config
        self._pairs: dict[Precision, tuple[Flaxmill, Any]] = {}

    def measure(self, batch: ParityBatch, precision: Precision) -> tuple[Quantities, Quantities]:
        """Outputs, loss and gradients: flaxmill's and torch's."""
        with _arithmetic(precision):
            ours, theirs = self.pair(precision)
            return _quantities(ours.measure(batch)), _quantities(measure_reference(theirs, batch))

    def train(self, batch: ParityBatch, precision: Precision) -> tuple[Quantities, Quantities]:
        """The parameters after training. It changes both models of this precision, so it comes last."""
        with _arithmetic(precision):
            ours, theirs = self.pair(precision)
            list(ours.train(batch, OPTIMIZER, NUM_STEPS))
            list(train_reference(theirs, batch, OPTIMIZER, NUM_STEPS))
            trained = (ours.parameters(), reference_parameters(theirs))
        name = f"parameters after {NUM_STEPS} steps"
        return {name: ("parameters", trained[0])}, {name: ("parameters", trained[1])}

    def pair(self, precision: Precision) -> tuple[Flaxmill, Any]:
        if precision not in self._pairs:
            assert self.config.family is not None
            assert self.config.head is not None
            architecture = FAMILIES[self.config.family].architectures[self.config.head]
            theirs = load_reference(self.directory, architecture, precision)
            self._pairs[precision] = (self.ours.in_precision(precision), theirs)
        return self._pairs[precision]


def compare(measure: Measure, batch: ParityBatch) -> Iterator[ParityCheck]:
    """Compare in float32, and in float64 where that leaves a doubt."""
    ours, theirs = measure(batch, "float32")
    checks = [
        ParityCheck(name, kind, batch.name, difference(kind, ours.get(name, (kind, {}))[1], tensors))
        for name, (kind, tensors) in theirs.items()
    ]
    if all(check.inside for check in checks):
        return (yield from checks)
    exact = measure(batch, "float64")
    for check in checks:
        yield check if check.inside else _with_float64(check, theirs[check.quantity][1], exact)


def _with_float64(check: ParityCheck, theirs: Arrays, exact: tuple[Quantities, Quantities]) -> ParityCheck:
    exact_ours, exact_theirs = (side.get(check.quantity, (check.kind, {}))[1] for side in exact)
    judged = difference(check.kind, exact_ours, exact_theirs).judged
    of_torch = difference(check.kind, theirs, exact_theirs).judged
    names = check.beyond_float32
    # Take the largest over all tensors: which has a near-zero gradient entry is luck of the CPU's rounding.
    largest = max(of_torch.values())
    norm = _norm(theirs)
    is_relative = TOLERANCES[check.kind].relative
    least = {name: HALF_ULP * norm / _unit(theirs.get(name), norm) for name in names} if is_relative else {}
    rounding = Rounding({name: judged[name] for name in names}, dict.fromkeys(names, largest), least)
    return dataclasses.replace(check, rounding=rounding)


def difference(kind: str, ours: Arrays, theirs: Arrays) -> ParityDifference:
    """The difference of all tensors; one that a side lacks, or has in another shape, is infinitely far."""
    norm = _norm(theirs)
    absolute, relative = {}, {}
    for name in sorted(ours.keys() | theirs.keys()):
        apart = absolute[name] = _apart(ours.get(name), theirs.get(name))
        unit = _unit(theirs.get(name), norm)
        relative[name] = apart / unit if unit else apart
    judged = relative if TOLERANCES[kind].relative else absolute
    # numpy's max keeps NaN.
    return ParityDifference(float(np.max([*absolute.values()])), float(np.max([*relative.values()])), judged)


def _norm(tensors: Arrays) -> float:
    return float(np.sqrt(sum(np.sum(np.square(value, dtype=np.float64)) for value in tensors.values())))


def _unit(tensor: np.ndarray | None, norm: float) -> float:
    """What a tensor's relative difference is relative to (see `Tolerance.relative`)."""
    return max(0.0 if tensor is None else _largest(tensor), FLOOR * norm)


def _apart(ours: np.ndarray | None, theirs: np.ndarray | None) -> float:
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return np.inf
    return _largest(ours - theirs)


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))


def _quantities(measured: Measured) -> Quantities:
    outputs: Quantities = {name: ("outputs", {name: value}) for name, value in measured.outputs.items()}
    loss = {"loss": np.asarray(measured.loss)}
    return outputs | {"loss": ("loss", loss), "gradients": ("gradients", measured.gradients)}


@contextlib.contextmanager
def _arithmetic(precision: Precision) -> Iterator[None]:
    # Accelerators multiply float32 in fewer bits unless told otherwise.
    with jax.default_matmul_precision("highest"), jax.enable_x64(precision == "float64"):
        yield
