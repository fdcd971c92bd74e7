"""Compares two runs: their rows, and the arrays and counters of their last checkpoints."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxmill.train.metrics.metrics_file import MetricsRow

NAMED = ("batch_digest", "key", "loss", "grad_norm", "learning_rate", "num_tokens")  # causes before effects
TIMINGS = ("step_seconds", "data_seconds", "tokens_per_second", "mfu", "mfu_causal")
PROVENANCE = ("saved_at", "config", "mesh", "num_processes")  # metadata about where, not about what

PARAMETERS = "parameters"

Arrays = Mapping[str, Mapping[str, Any]]
"""{name: dtype, shape and digest} from a checkpoint's manifest."""
ReadArray = Callable[[str], np.ndarray]


class Tolerances(NamedTuple):
    """Relative tolerances; for arrays, relative to the norm of all together."""

    loss: float
    grad_norm: float
    parameters: float
    optimizer_state: float


class ResumeCheck(NamedTuple):
    """One thing that was compared. `tolerance` None: bit for bit."""

    name: str
    compared: str
    passed: bool
    first: str = ""
    """Where it first differs, and by what."""
    first_step: int | None = None
    num_differing: int = 0
    difference: float | None = None
    """The largest difference, in the unit of the tolerance."""
    tolerance: float | None = None


def is_step(row: MetricsRow) -> bool:
    """Whether a row belongs to a step, not to an evaluation or a rollback."""
    return "loss" in row


def compare_steps(
    straight: Sequence[MetricsRow], rows: Sequence[MetricsRow], steps: range
) -> list[ResumeCheck]:
    """Compare each field of the rows of these steps, bit for bit; a row written twice is compared twice."""
    pairs, whole = _pair(straight, rows, steps)
    return [whole, *(_compare_field(pairs, name) for name in _fields(straight, rows))]


def compare_steps_within(
    straight: Sequence[MetricsRow], rows: Sequence[MetricsRow], steps: range, tolerances: Tolerances
) -> list[ResumeCheck]:
    """Like `compare_steps`, but losses and gradient norms may differ within tolerances; nothing else that is
    derived from rounded numbers, such as accuracies, is judged."""
    pairs, whole = _pair(straight, rows, steps)
    checks = [whole]
    for name in _fields(straight, rows):
        if name.endswith("loss"):
            checks.append(_compare_field_within(pairs, name, tolerances.loss))
        elif name == "grad_norm":
            checks.append(_compare_field_within(pairs, name, tolerances.grad_norm))
        elif name in NAMED:
            checks.append(_compare_field(pairs, name))
    return checks


def compare_evaluations(straight: Iterable[MetricsRow], resumed: Iterable[MetricsRow]) -> ResumeCheck:
    """Compare the rows of evaluations, bit for bit."""
    wanted, found = ([row for row in rows if "eval_loss" in row] for rows in (straight, resumed))
    pairs = list(zip(wanted, found, strict=False))
    different = [(pair, name) for pair in pairs for name in sorted(pair[0].keys() | pair[1].keys())]
    different = [(pair, name) for pair, name in different if not _same(pair, name)]
    first = _describe(*different[0], prefix=different[0][1] + " ") if different else ""
    if len(wanted) != len(found):
        first = first or f"{len(found)} instead of {len(wanted)}"
    return ResumeCheck("evaluation", f"{len(wanted)} rows", not first, first, None, len(different))


def compare_arrays(
    straight: Arrays, resumed: Arrays, read_straight: ReadArray, read_resumed: ReadArray
) -> list[ResumeCheck]:
    """Compare parameters, optimizer state and the rest by digests; read what differs to say by how much."""
    checks = []
    for group, names in _groups(straight, resumed).items():
        different = [name for name in names if straight.get(name) != resumed.get(name)]
        first = ""
        if different:
            name = different[0]
            first = f"{name}: {_how(name, straight, resumed, read_straight, read_resumed)}"
        checks.append(ResumeCheck(group, _size(names, straight), not different, first, None, len(different)))
    return checks


def compare_arrays_within(
    straight: Arrays,
    resumed: Arrays,
    read_straight: ReadArray,
    read_resumed: ReadArray,
    tolerances: Tolerances,
) -> list[ResumeCheck]:
    """Compare the distance of all parameters together, and of the optimizer state, relative to their norm;
    integers exactly. Memory holds two arrays at a time."""
    groups = _groups(straight, resumed).values()
    checks = compare_arrays(straight, resumed, read_straight, read_resumed)
    for index, (check, names) in enumerate(zip(checks, groups, strict=True)):
        alike = all(_kind(straight, name) == _kind(resumed, name) for name in names)
        if check.passed or not alike:
            continue
        apart = {name: _distance(read_straight(name), read_resumed(name)) for name in names}
        norm = math.hypot(*(norm for _, norm in apart.values()))
        difference = _ratio(math.hypot(*(distance for distance, _ in apart.values())), norm)
        tolerance = tolerances.parameters if check.name == PARAMETERS else tolerances.optimizer_state
        passed = difference <= tolerance
        far = max(apart, key=lambda name: apart[name][0])
        first = "" if passed else f"{far}: {apart[far][0]:.2g} from one of norm {apart[far][1]:.2g}"
        checks[index] = check._replace(passed=passed, first=first, difference=difference, tolerance=tolerance)
    return checks


def compare_counters(
    straight: Mapping[str, Any], resumed: Mapping[str, Any], *, exact: bool = True
) -> ResumeCheck:
    """Compare what the checkpoints' metadata say of the run, but for when and where; `exact`: losses too."""
    ignored = PROVENANCE if exact else (*PROVENANCE, "losses")
    names = [name for name in {**straight, **resumed} if name not in ignored]
    different = [name for name in names if repr(straight.get(name)) != repr(resumed.get(name))]
    first = ""
    if different:
        name = different[0]
        first = f"{name}: {straight.get(name)!r:.60} straight, {resumed.get(name)!r:.60} resumed"
    return ResumeCheck("counters", f"{len(names)} values", not different, first, None, len(different))


Pair = tuple[MetricsRow, MetricsRow]


def _pair(
    straight: Sequence[MetricsRow], rows: Sequence[MetricsRow], steps: range
) -> tuple[list[Pair], ResumeCheck]:
    """Rows of the same step, in the order of the steps, and the check that each step has its row."""
    wanted = {row["step"]: row for row in straight if is_step(row) and row["step"] in steps}
    found = sorted((row for row in rows if is_step(row)), key=lambda row: row["step"])
    wrong = sorted(set(steps) ^ {row["step"] for row in found}) or sorted(set(steps) - wanted.keys())
    first = f"step {wrong[0]} {'has no row' if wrong[0] in steps else 'is too many'}" if wrong else ""
    check = ResumeCheck(
        "steps", f"{len(steps)} steps", not wrong, first, wrong[0] if wrong else None, len(wrong)
    )
    return [(wanted[row["step"]], row) for row in found if row["step"] in wanted], check


def _compare_field(pairs: Sequence[Pair], name: str) -> ResumeCheck:
    different = [pair for pair in pairs if not _same(pair, name)]
    return _judge(pairs, different, name)


def _compare_field_within(pairs: Sequence[Pair], name: str, tolerance: float) -> ResumeCheck:
    distances = [_relative(a.get(name), b.get(name)) for a, b in pairs]
    outside = [pair for pair, far in zip(pairs, distances, strict=True) if not far <= tolerance]
    furthest = max(distances, default=0.0)
    return _judge(pairs, outside, name)._replace(difference=furthest, tolerance=tolerance)


def _judge(pairs: Sequence[Pair], different: Sequence[Pair], name: str) -> ResumeCheck:
    compared = f"{len(pairs)} rows"
    if not different:
        return ResumeCheck(name, compared, True)
    first = different[0]
    return ResumeCheck(name, compared, False, _describe(first, name), first[0]["step"], len(different))


def _fields(*runs: Sequence[MetricsRow]) -> list[str]:
    """The fields of step rows that are not times; the fields that are named in the docs come first."""
    found = {name for rows in runs for row in rows if is_step(row) for name in row} - {"step", *TIMINGS}
    return [*NAMED, *sorted(found - {*NAMED})]


def _same(pair: Pair, name: str) -> bool:
    """Whether both have it and it is the same; repr tells -0.0 from 0.0, and floats are written exactly."""
    straight, resumed = pair
    return name in straight and name in resumed and repr(straight[name]) == repr(resumed[name])


def _describe(pair: Pair, name: str, prefix: str = "") -> str:
    straight, resumed = (row.get(name, "absent") for row in pair)
    return f"{prefix}step {pair[0]['step']}: {straight!r} straight, {resumed!r} resumed"


def _relative(straight: Any, resumed: Any) -> float:
    if straight is None and resumed is None:
        return 0.0  # not finite in both
    if straight is None or resumed is None:
        return math.inf
    return _ratio(abs(resumed - straight), abs(straight))


def _groups(straight: Arrays, resumed: Arrays) -> dict[str, list[str]]:
    """The names of all arrays, by what they are."""
    groups: dict[str, list[str]] = {}
    kinds = {"params": PARAMETERS, "optimizer": "optimizer state"}
    for name in {**straight, **resumed}:
        groups.setdefault(kinds.get(name.partition("/")[0], "step and skips"), []).append(name)
    return groups


def _size(names: list[str], arrays: Arrays) -> str:
    elements = sum(math.prod(arrays[name]["shape"]) for name in names if name in arrays)
    return f"{len(names)} arrays, {elements:,} elements"


def _kind(arrays: Arrays, name: str) -> Any:
    return {key: arrays[name][key] for key in ("dtype", "shape")} if name in arrays else None


def _how(name: str, straight: Arrays, resumed: Arrays, read_a: ReadArray, read_b: ReadArray) -> str:
    """What is different about an array, in words."""
    for arrays, run in ((straight, "straight"), (resumed, "resumed")):
        if name not in arrays:
            return f"absent from the {run} run"
    if _kind(straight, name) != _kind(resumed, name):
        shapes = (f"{arrays[name]['dtype']}{list(arrays[name]['shape'])}" for arrays in (straight, resumed))
        return "{} straight, {} resumed".format(*shapes)
    a, b = read_a(name), read_b(name)
    changed = np.asarray(_bits(a) != _bits(b)).reshape(a.size, -1).any(axis=1)
    largest = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)
    return f"{changed.sum():,} of {a.size:,} elements differ, by at most {largest:.3g}"


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)


def _distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Euclidean distance of b from a, and the norm of a; integers are equal or infinitely far."""
    if a.dtype.kind in "biu":
        return (0.0 if np.array_equal(a, b) else math.inf), 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm((a - b).ravel())), float(np.linalg.norm(a.ravel()))


def _ratio(distance: float, of: float) -> float:
    return distance / of if of else (0.0 if distance == 0 else math.inf)
