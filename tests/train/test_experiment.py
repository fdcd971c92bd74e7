import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.experiment import (
    DERIVED_FIELDS,
    Experiment,
    flatten,
    from_dict,
    to_dict,
)
from flaxmill.train.resolution import resolve, resolve_before_data


@dataclass
class Specials:
    """What `resolve` reads of a tokenizer."""

    vocab_size: int = 500
    mask_id: int | None = 1
    cls_id: int | None = 2
    sep_id: int | None = 3


def resolved(**fields) -> Experiment:
    tokenizer: Any = fields.pop("tokenizer", Specials())
    labels = fields.pop("labels", ())
    return resolve(Experiment(**fields), tokenizer, labels)


OF_CLASSES = ("model.num_labels", "model.problem_type", "model.pooling", "data.labels")
OF_OTHERS = ("objective_file", "objective_sha256", "callbacks_file", "model.bidirectional_prefix")


def test_resolve_leaves_nothing_to_derive():
    for objective in ("causal", "mlm", "mlm_nsp", "hybrid"):
        flat = flatten(resolved(objective=objective))
        derived = set(DERIVED_FIELDS) - {*OF_CLASSES, *OF_OTHERS}
        assert all(flat[name] is not None for name in derived)


@pytest.mark.parametrize(
    ("objective", "head", "causal"),
    [
        ("causal", "lm", True),
        ("hybrid", "lm", False),
        ("mlm", "mlm", False),
        ("mlm_nsp", "mlm_nsp", False),
        ("classification", "classification", False),
        ("token_classification", "token_classification", False),
        ("question_answering", "qa", False),
        ("seq2seq", "lm", True),
    ],
)
def test_head_and_direction_follow_from_the_objective(objective, head, causal):
    model = resolved(objective=objective).model
    assert (model.head, model.causal) == (head, causal)


def test_classes_are_the_labels_of_the_data_or_one_number():
    experiment = resolved(objective="classification", labels=("a", "b", "c"))
    assert (experiment.model.num_labels, experiment.data.labels) == (3, ("a", "b", "c"))
    number = resolved(objective="classification", data=DataConfig(label_type="number"))
    assert number.model.num_labels == 1
    with pytest.raises(ValueError, match=r"model.num_labels=4 contradicts the data, which has 3"):
        resolved(objective="classification", labels=("a", "b", "c"), model=ModelConfig(num_labels=4))


@pytest.mark.parametrize(
    ("model", "cls_id", "place"),
    [
        ({}, 2, "first"),
        ({}, None, "mean"),
        ({"causal": True}, None, "last"),
        ({"pooling": "mean"}, 2, "mean"),
    ],
)
def test_classification_reads_the_place_that_has_seen_the_whole_row(model, cls_id, place):
    experiment = resolved(
        objective="classification",
        labels=("a", "b"),
        model=ModelConfig(**model),
        tokenizer=Specials(cls_id=cls_id),
    )
    assert experiment.model.pooled_place == place


def test_an_encoder_decoder_is_trained_by_seq2seq_alone():
    model = ModelConfig(encoder_layers=2)
    assert resolved(objective="seq2seq", model=model).model.head == "lm"
    with pytest.raises(ValueError, match=r"which objective=causal cannot train"):
        resolved(model=model)
    data = DataConfig(sequence_length=80, target_length=90)
    with pytest.raises(ValueError, match=r"data.target_length=90 is longer than model.max_positions=80"):
        resolved(
            objective="seq2seq",
            model=ModelConfig(max_positions=80, encoder_layers=2, encoder_num_heads=4),
            data=data,
        )
    with pytest.raises(
        ValueError, match=r"=90 leaves no room for a prompt .* in data.sequence_length=80; raise"
    ):
        resolved(objective="seq2seq", model=ModelConfig(max_positions=80), data=data)


def test_positions_of_an_encoder_decoder_reach_the_longer_of_source_and_target():
    data = DataConfig(sequence_length=32, target_length=64)
    model = ModelConfig(encoder_layers=2)
    assert resolved(objective="seq2seq", model=model, data=data).model.max_positions == 64
    data = dataclasses.replace(data, sequence_length=96)
    assert resolved(objective="seq2seq", model=model, data=data).model.max_positions == 96
    # In other models the target is in the row, or no table of positions needs to reach it.
    data = dataclasses.replace(data, target_length=128)
    assert resolved(model=ModelConfig(), data=data).model.max_positions == 96
    model = ModelConfig(encoder_layers=2, positions="relative")
    assert resolved(objective="seq2seq", model=model, data=data).model.max_positions == 96


REGRESSION: dict[str, Any] = dict(objective="classification", data=DataConfig(label_type="number"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(model=ModelConfig(head="mlm")), "model.head=mlm contradicts objective=causal"),
        (
            dict(model=ModelConfig(max_positions=64)),
            "data.sequence_length=128 is longer than model.max_positions=64",
        ),
        (
            dict(objective="mlm", model=ModelConfig(causal=True)),
            "model.causal=True contradicts objective=mlm",
        ),
        (
            dict(
                objective="classification",
                model=ModelConfig(num_labels=3),
                data=DataConfig(label_type="number"),
            ),
            "num_l",
        ),
    ],
)
def test_what_no_data_can_mend_is_refused_before_them(fields, message):
    with pytest.raises(ValueError, match=message):
        resolve_before_data(Experiment(**fields))


def test_numbers_have_no_labels_before_their_data_either():
    assert resolve_before_data(Experiment(**REGRESSION)).data.labels == ()


@pytest.mark.parametrize(
    "objective", ["causal", "mlm_nsp", "classification", "token_classification", "seq2seq"]
)
def test_what_data_may_still_decide_is_not_refused_before_them(objective):
    experiment = Experiment(objective=objective, model=ModelConfig(vocab_size=7, num_labels=None))
    resolve_before_data(experiment)
    resolve_before_data(dataclasses.replace(experiment, data=DataConfig(labels=("a", "b", "c"))))


def test_vocabulary_and_positions_follow_from_the_data():
    model = resolved(data=DataConfig(sequence_length=77)).model
    assert (model.vocab_size, model.max_positions) == (500, 77)


def test_given_values_are_kept():
    model = resolved(model=ModelConfig(vocab_size=512, max_positions=1000)).model
    assert (model.vocab_size, model.max_positions) == (512, 1000)


def test_vocabulary_smaller_than_the_tokenizer_is_refused():
    with pytest.raises(
        ValueError, match=r"model.vocab_size=499 is smaller than the tokenizer's 500 ids; use"
    ):
        resolved(model=ModelConfig(vocab_size=499))


def test_rows_longer_than_the_learned_positions_are_refused():
    with pytest.raises(ValueError, match=r"data.sequence_length=128 is longer than model.max_positions=64"):
        resolved(model=ModelConfig(max_positions=64))


def test_rows_may_be_longer_than_max_positions_where_positions_are_not_learned():
    assert resolved(model=ModelConfig(max_positions=64, positions="rotary")).model.max_positions == 64


@pytest.mark.parametrize(("objective", "head"), [("causal", "mlm"), ("mlm", "lm"), ("mlm_nsp", "mlm")])
def test_head_that_contradicts_the_objective_is_refused(objective, head):
    with pytest.raises(ValueError, match=f"model.head={head} contradicts objective={objective}"):
        resolved(objective=objective, model=ModelConfig(head=head))


@pytest.mark.parametrize(("objective", "causal"), [("causal", False), ("mlm", True), ("hybrid", True)])
def test_direction_that_contradicts_the_objective_is_refused(objective, causal):
    with pytest.raises(ValueError, match=f"model.causal={causal} contradicts objective={objective}"):
        resolved(objective=objective, model=ModelConfig(causal=causal))


@pytest.mark.parametrize(
    ("objective", "lacking", "words"),
    [
        ("mlm", {"mask_id": None}, r"\[MASK\]"),
        ("hybrid", {"mask_id": None}, r"\[MASK\]"),
        ("mlm_nsp", {"cls_id": None, "sep_id": None}, r"\[CLS\] and \[SEP\]"),
    ],
)
def test_tokenizer_without_the_special_tokens_is_refused(objective, lacking, words):
    with pytest.raises(ValueError, match=rf"objective={objective} needs the token {words}"):
        resolved(objective=objective, tokenizer=Specials(**lacking))
    for other in ("causal", "classification", "token_classification", "seq2seq"):
        assert resolved(objective=other, tokenizer=Specials(**lacking))


def test_one_segment_embedding_is_too_few_for_pairs():
    with pytest.raises(ValueError, match=r"model.num_segments=1 is too few"):
        resolved(objective="mlm_nsp", model=ModelConfig(num_segments=1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 6, "accumulate": 4}, "batch_size=6 does not divide into accumulate=4"),
        ({"seed": -1}, "seed=-1 must be in"),
        ({"eval_every": 0}, "eval_every=0 must be at least 1"),
        ({"z_loss": -1.0}, "z_loss=-1.0 must be 0 or more"),
        ({"objective": "clm"}, "objective='clm' is unknown; use one of causal"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**fields)


def test_json_keeps_every_field():
    experiment = resolved(
        seed=3, data=DataConfig(files=("a", "b")), mesh=MeshConfig(data=1, fsdp=None), log_digests=True
    )
    assert from_dict(json.loads(json.dumps(to_dict(experiment)))) == experiment


def test_fields_of_earlier_versions_that_decided_nothing_are_passed_over():
    assert from_dict(to_dict(Experiment(seed=5)) | {"tensorboard": False}) == Experiment(seed=5)


def test_absent_field_has_its_default():
    values = to_dict(Experiment(seed=5))
    del values["z_loss"], values["model"]["dropout"]
    assert from_dict(values) == Experiment(seed=5)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        (None, "stepz", 3, "unknown field stepz"),
        ("model", "depth", 3, "unknown field model.depth"),
        (None, "steps", "3", "steps='3' is not of type int"),
        (None, "steps", True, "steps=True is not of type int"),
        (None, "log_digests", 1, "log_digests=1 is not of type bool"),
        ("model", "norm", "batchnorm", "model.norm='batchnorm' is not of type"),
        ("mesh", "data", 1.5, "mesh.data=1.5 is not of type"),
        ("data", "files", "a.txt", "data.files='a.txt' is not of type"),
        ("data", "files", [1], "data.files=.1. is not of type"),
        (None, "model", 3, "model=3 must be an object"),
    ],
)
def test_foreign_values_are_refused(section, field, value, message):
    values = to_dict(Experiment())
    (values[section] if section else values)[field] = value
    with pytest.raises(ValueError, match=message):
        from_dict(values)


def test_no_field_is_an_optional_dataclass():
    for field in dataclasses.fields(Experiment):
        value = getattr(Experiment(), field.name)
        assert dataclasses.is_dataclass(value) or not hasattr(field.type, "__dataclass_fields__")
    assert not any(dataclasses.is_dataclass(value) for value in flatten(Experiment()).values())


def test_more_steps_than_can_be_counted_are_refused():
    with pytest.raises(ValueError, match=r"^steps=2147483648 is above 2147483647; use that or less"):
        Experiment(steps=2**31)


def test_text_may_be_smoothed_whatever_the_labels_of_examples_would_be():
    smoothed = Experiment(label_smoothing=0.1, data=DataConfig(label_type="number"))
    assert smoothed.label_smoothing == 0.1
    with pytest.raises(ValueError, match="does not choose one class"):
        dataclasses.replace(smoothed, objective="classification")
