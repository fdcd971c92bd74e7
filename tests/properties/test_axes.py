"""Ten steps on any mesh equal those of one device: each axis alone, and axes together."""

import functools
from typing import Any

import numpy as np
import pytest
from parameters import in_turn
from small_steps import ROWS, VOCABULARY, take_steps

from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.optimizer.config import OptimizerConfig

pytestmark = pytest.mark.slow

TOKENS, STEPS = 32, 10
# float32 sums have another order on every mesh, and ten updates carry that on.
TOLERANCE = 1e-5
SLOWLY = OptimizerConfig(learning_rate=5e-4)  # for eight layers, which carry it on faster

PARTS: list[dict[str, Any]] = [{"context": size} for size in (2, 4, 8)]
PARTS_TOGETHER: list[dict[str, Any]] = [
    {"data": 2, "context": 2, "tensor": 2},
    {"fsdp": 2, "context": 4},
    {"data": 2, "fsdp": 2, "context": 2},
    {"fsdp": 2, "context": 2, "tensor": 2},
    {"context": 2, "tensor": 2, "sequence_parallel": True},
    {"data": 2, "context": 4, "slices": 2},
]
WHOLE: list[dict[str, Any]] = [
    *({axis: size} for axis in ("data", "fsdp") for size in (2, 4, 8)),
    {"tensor": 2},
]
WHOLE_TOGETHER: list[dict[str, Any]] = [
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"data": 2, "fsdp": 4},
    {"fsdp": 4, "tensor": 2},
]
STAGES: list[dict[str, Any]] = [{"stage": size} for size in (2, 4, 8)]
STAGES_TOGETHER: list[dict[str, Any]] = [
    {"stage": 4, "data": 2},
    {"stage": 4, "fsdp": 2},
    {"stage": 2, "context": 4},
    {"stage": 2, "fsdp": 2, "context": 2},
    {"stage": 2, "context": 2, "tensor": 2},
    {"stage": 2, "fsdp": 2, "tensor": 2},
    {"stage": 2, "data": 2, "slices": 2},
    {"stage": 2, "tensor": 2, "sequence_parallel": True},
]
DEEP = ("deep gpt", "deep bert", "deep experts")
SMALL: dict[str, Any] = dict(
    vocab_size=VOCABULARY, max_positions=TOKENS, num_layers=2, embed_dim=32, num_heads=4
)
GPT: dict[str, Any] = dict(**SMALL, causal=True, head="lm", positions="rotary", num_kv_heads=2)
BERT: dict[str, Any] = dict(
    **SMALL, causal=False, head="mlm_nsp", norm_position="post", embedding_norm=True, num_segments=2
)
EXPERTS: dict[str, Any] = dict(num_experts=4, moe_every=2, shared_experts=1, expert_dim=16)
TASK: dict[str, Any] = dict(**SMALL, causal=False, num_labels=3)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt": ("causal", GPT),
    "gpt with dropout": ("causal", GPT | dict(dropout=0.1, attention_dropout=0.0)),
    "gpt with windows": (
        "causal",
        GPT | dict(layer_pattern=("global", "local"), window=7, positions="learned", remat="full"),
    ),
    "bert": ("mlm_nsp", BERT | dict(dropout=0.1, attention_dropout=0.0)),
    "experts": ("causal", GPT | EXPERTS | dict(dropout=0.1, attention_dropout=0.0, load_balance_loss=0.01)),
    "encoder-decoder": (
        "span_corruption",
        SMALL
        | dict(encoder_layers=2, causal=True, head="lm", positions="relative", dropout=0.1, norm="rmsnorm"),
    ),
    "deep gpt": ("causal", GPT | dict(num_layers=8)),
    "deep bert": ("mlm_nsp", BERT | dict(num_layers=8, dropout=0.1, attention_dropout=0.0)),
    "deep experts": (
        "causal",
        GPT | EXPERTS | dict(num_layers=8, moe_every=1, load_balance_loss=0.01, router_z_loss=0.001),
    ),
    "layers before and after": (
        "causal",
        GPT
        | dict(num_layers=6, first_attention_norm=False, layer_pattern=("global", "local"), window=7)
        | dict(dropout=0.1, remat="dots"),
    ),
    "prefix": ("prefix_lm", GPT | dict(bidirectional_prefix=True)),
    "hybrid": ("hybrid", GPT | dict(causal=False)),
    "first token": ("classification", TASK | dict(head="classification", pooling="first")),
    "last token": ("classification", TASK | dict(head="classification", pooling="last", causal=True)),
    "mean token": ("classification", TASK | dict(head="classification", pooling="mean")),
    "tags": ("token_classification", TASK | dict(head="token_classification")),
    "answers": ("question_answering", TASK | dict(head="qa", num_labels=None)),
}


def rows_of(objective: str, seed: int) -> dict[str, np.ndarray]:
    """Rows of two or three documents and some padding, with what the objective predicts."""
    draw = np.random.default_rng(seed)
    shape = (ROWS, TOKENS)
    tokens = draw.integers(1, VOCABULARY, (ROWS, TOKENS + 1)).astype(np.int32)
    documents = np.sort(draw.integers(1, 4, shape), axis=1).astype(np.int32)
    if objective in (
        "classification",
        "question_answering",
        "token_classification",
        "mlm_nsp",
        "span_corruption",
    ):
        documents = np.ones(shape, np.int32)
    documents[:, -3:] = 0
    mask = (documents > 0).astype(np.int32)
    starts = np.diff(documents, axis=1, prepend=-1) != 0
    places = np.arange(TOKENS, dtype=np.int32)
    positions = places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    rows = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": mask.astype(np.float32),
        "mask": mask,
        "documents": documents,
        "positions": positions.astype(np.int32),
    }
    return rows | _wanted(objective, draw, mask)


def _wanted(objective: str, draw: np.random.Generator, mask: np.ndarray) -> dict[str, np.ndarray]:
    labels = draw.integers(0, 3, ROWS).astype(np.int32)
    of_row = np.ones(ROWS, np.float32)
    masked = (mask * (draw.random(mask.shape) < 0.2)).astype(np.float32)
    match objective:
        case "mlm_nsp":
            segments = np.repeat([[0, 1]], ROWS, 0).repeat(TOKENS // 2, 1).astype(np.int32)
            return {"weights": masked, "segments": segments, "nsp_labels": labels % 2}
        case "prefix_lm":
            return {"prefix": draw.integers(0, TOKENS, ROWS).astype(np.int32)}
        case "span_corruption":
            return {
                "decoder_tokens": draw.integers(1, VOCABULARY, mask.shape).astype(np.int32),
                "decoder_mask": mask,
                "decoder_documents": mask,
                "decoder_positions": np.tile(np.arange(TOKENS, dtype=np.int32), (ROWS, 1)),
            }
        case "hybrid":
            return {"causal": (labels % 2).astype(np.int32)}
        case "classification":
            return {"labels": labels, "weights": of_row}
        case "token_classification":
            return {"targets": draw.integers(0, 3, mask.shape).astype(np.int32)}
        case "question_answering":
            return {"starts": labels, "ends": labels + 9, "weights": of_row}
    return {}


def steps_on(
    name: str, mesh: dict[str, Any], optimizer: OptimizerConfig, **changes: Any
) -> list[dict[str, float]]:
    objective, fields = MODELS[name]
    taken = take_steps(
        ModelConfig(**fields),
        optimizer,
        STEPS,
        mesh=MeshConfig(**{"data": 1, **mesh}),
        make_rows=_maker(objective),
        objective=objective,
        log_digests=True,
        seed=1,  # with the masks of seed 0 an encoder-decoder enlarges any rounding a hundredfold
        **changes,
    )
    return taken.metrics


@functools.cache  # one function for each, since `take_steps` keeps what it has done
def _maker(objective: str):
    return functools.partial(rows_of, objective)


def assert_same_steps(name: str, mesh: dict[str, Any], schedule: Any = None, **changes: Any) -> None:
    depth = MODELS[name][1]["num_layers"]
    optimizer = SLOWLY if depth > 2 else OptimizerConfig(learning_rate=3e-3)
    found = steps_on(name, mesh, optimizer, **changes, **(schedule or {}))
    wanted = steps_on(name, {"data": 1}, optimizer, **changes)
    assert len({step["loss"] for step in wanted}) == STEPS  # it trained
    for one, other in zip(found, wanted, strict=True):
        assert one["batch_digest"] == other["batch_digest"]
        assert {n: one[n] for n in ("loss", "grad_norm")} == pytest.approx(
            {n: other[n] for n in ("loss", "grad_norm")}, rel=TOLERANCE
        )


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        *in_turn(["gpt", "bert", "experts"], PARTS),
        *in_turn(["gpt", "bert"], WHOLE),
        *in_turn(["gpt", "bert", "experts"], PARTS_TOGETHER),
    ],
)
def test_parts_of_rows_make_the_steps_of_one_device(name, mesh):
    assert_same_steps(name, mesh)


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        *in_turn(["experts", "encoder-decoder"], WHOLE),
        *in_turn(["encoder-decoder", "experts"], WHOLE_TOGETHER),
    ],
)
def test_other_models_train_alike_on_whole_rows(name, mesh):
    assert_same_steps(name, mesh)


@pytest.mark.parametrize(
    ("name", "mesh"),
    in_turn(DEEP, STAGES + STAGES_TOGETHER),
)
def test_stages_of_layers_make_the_steps_of_one_device(name, mesh):
    assert_same_steps(name, mesh)


@pytest.mark.parametrize(
    ("name", "mesh", "schedule"),
    [
        ("deep experts", {"stage": 2}, dict(pipeline_rounds=2)),
        ("deep bert", {"stage": 2, "fsdp": 2}, dict(pipeline_rounds=4, pipeline_microbatches=2)),
        ("deep experts", {"stage": 4}, dict(pipeline_rounds=2, pipeline_microbatches=8)),
    ],
    ids=str,
)
def test_rounds_and_microbatches_change_nothing(name, mesh, schedule):
    assert_same_steps(name, mesh, schedule)


@pytest.mark.parametrize(
    "mesh",
    [
        {"stage": 2, "expert": 4},
        {"stage": 2, "expert": 2, "tensor": 2},
        {"stage": 2, "fsdp": 2, "expert": 2},
        {"stage": 2, "expert": 2, "context": 2},
    ],
    ids=str,
)
def test_stages_may_divide_their_experts(mesh):
    assert_same_steps("deep experts", mesh)


def test_layers_that_do_not_repeat_run_before_and_after_the_pipeline():
    assert_same_steps("layers before and after", {"stage": 2, "fsdp": 2, "tensor": 2})


def test_a_pipeline_runs_for_each_microbatch_of_an_update():
    assert_same_steps("deep bert", {"stage": 2, "data": 2}, accumulate=2)


IN_PARTS = [
    *("gpt with dropout", "gpt with windows", "prefix", "hybrid"),
    *("first token", "last token", "mean token", "tags", "answers"),
]


@pytest.mark.parametrize("name", IN_PARTS)
def test_every_objective_trains_on_parts_of_rows(name):
    assert_same_steps(name, {"fsdp": 2, "context": 4})


def test_masked_places_are_gathered_on_each_device():
    assert_same_steps("bert", {"context": 4}, max_predictions=12)


def test_microbatches_divide_rows_and_not_tokens():
    assert_same_steps("gpt with dropout", {"data": 2, "context": 4}, accumulate=2)
