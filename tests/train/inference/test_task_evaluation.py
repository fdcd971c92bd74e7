"""`flaxmill eval` on labelled examples gives scores and predictions, the same as transformers'."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tokenizers
from small_tasks import NUM_VALID, task_data, task_experiment

from flaxmill.data.preparation.cache import prepare
from flaxmill.model.config import ModelConfig
from flaxmill.train.caches import cache_directory
from flaxmill.train.evaluation import evaluation_names
from flaxmill.train.inference.other_data import OtherData
from flaxmill.train.inference.run_evaluation import evaluate_run
from flaxmill.train.loop import train
from flaxmill.train.metrics.metrics_file import read_metrics
from flaxmill.train.run.directory import read_config
from flaxmill.train.run.exporting import export_run

pytestmark = pytest.mark.slow

SCORES = {
    "classification": {"accuracy", "f1_macro", "matthews", "majority"},
    "multi_label": {"accuracy", "f1_micro", "f1_macro"},
    "regression": {"mean_squared_error", "pearson", "spearman"},
    "tagging": {"accuracy", "f1", "f1_macro", "matthews", "majority"},
    "answers": {"exact_match", "f1"},
    "translation": {"exact_match", "bleu", "chrf", "rouge1", "rouge2", "rougeL"},
    "prompts": {"exact_match", "bleu", "chrf", "rouge1", "rouge2", "rougeL"},
}
BODY: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
BODY |= {"intermediate_size": 64, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """{task: directory of a run of a few steps}, each made when first asked for."""
    made = {}

    def make(name, steps=4):
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            data = task_data(name, directory)
            made[name] = train(task_experiment(name, data, directory / "run", steps=steps)).directory
        return made[name]

    return make


def predictions_in(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", SCORES)
def test_a_task_has_its_scores_and_a_prediction_beside_each_input(name, trained, tmp_path):
    measured = evaluate_run(trained(name), output=tmp_path)
    assert set(measured) == {"step", "eval_loss", "num_examples", "predictions"} | SCORES[name]
    assert measured["num_examples"] == NUM_VALID
    rows = predictions_in(tmp_path)
    assert len(rows) == NUM_VALID
    assert all({"prediction", "text" if name != "answers" else "context"} <= set(row) for row in rows)
    assert (tmp_path / "confusion_matrix.png").exists() == (name == "classification")


@pytest.mark.parametrize("name", SCORES)
def test_what_a_run_evaluates_is_known_before_it_and_is_what_eval_says(name, trained, tmp_path):
    run = trained(name)
    *_, row = read_metrics(run / "metrics.jsonl")
    assert {key for key in row if key != "step"} == set(evaluation_names(read_config(run)))
    measured = evaluate_run(run, output=tmp_path)
    # Words that were cut off count as wrong at the end, and are not seen on the way; here there is none.
    shared = {"accuracy", "f1", "f1_macro", "f1_micro", "matthews"} & measured.keys()
    shared -= {"f1"} if name == "answers" else set()
    assert shared == {key.removeprefix("eval_") for key in row} & SCORES[name]
    # float32 sums on the way, float64 at the end.
    assert [row[f"eval_{score}"] for score in shared] == pytest.approx(
        [measured[s] for s in shared], rel=1e-4
    )


def test_json_is_one_object_whose_keys_are_the_scores(trained, flaxmill):
    run = trained("classification")
    code, out, _ = flaxmill("eval", run, "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == pytest.approx(evaluate_run(run)["accuracy"])
    assert (run / "eval-4" / "predictions.jsonl").is_file()


def test_other_data_have_columns_of_their_own_or_no_labels(trained, tmp_path, flaxmill):
    other = tmp_path / "other.csv"
    other.write_text("input,kind\nthe fox,animal\nold stones,weather\n")
    columns = {"text_column": "input", "label_column": "kind"}
    labelled = evaluate_run(trained("classification"), OtherData(str(other), columns), output=tmp_path / "a")
    assert labelled["num_examples"] == 2
    unlabelled = OtherData(str(other), {"text_column": "input"}, unlabelled=True)
    assert evaluate_run(trained("classification"), unlabelled, output=tmp_path / "b") == {
        "step": 4,
        "num_examples": 2,
        "predictions": str(tmp_path / "b" / "predictions.jsonl"),
    }
    same = [[row["prediction"] for row in predictions_in(tmp_path / folder)] for folder in "ab"]
    assert same[0] == same[1]
    code, _, err = flaxmill("eval", trained("classification"), "--data", other, "--text-column", "input")
    assert (code, err.count("\n")) == (2, 1)
    assert "'label' is not a column of" in err
    code, _, err = flaxmill("eval", trained("classification"), "--unlabelled")
    assert code == 2
    assert "add --data FILE" in err


def write_bert(directory, architecture, tokenizer, num_labels):
    import transformers

    settings: dict[str, Any] = BODY | {"num_labels": num_labels, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**settings)
    model = getattr(transformers, architecture)(config)
    model.save_pretrained(directory)
    tokenizer.save(directory / "tokenizer.json")


def exported(name, tmp_path, architecture, **settings):
    """A run that begins with a transformers model, and the trained model, exported and read back."""
    import torch
    import transformers

    torch.manual_seed(0)
    data = task_data(name, tmp_path, **settings)
    experiment = task_experiment(name, data, tmp_path / "run", steps=3)
    dataset = prepare(experiment.data, experiment.objective, cache=cache_directory(), log=lambda line: None)
    write_bert(tmp_path / "bert", architecture, dataset.tokenizer, len(dataset.labels) or 2)
    begun = dataclasses.replace(experiment, init_from=str(tmp_path / "bert"), model=ModelConfig())
    run = train(begun).directory
    export_run(run, tmp_path / "out")
    model = getattr(transformers, architecture).from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    return data, run, model, tokenizer


def test_an_exported_model_of_many_labels_gives_transformers_the_same_probabilities(tmp_path):
    import torch

    data, run, model, tokenizer = exported("multi_label", tmp_path, "BertForSequenceClassification")
    assert model.config.problem_type == "multi_label_classification"
    measured = evaluate_run(run, output=tmp_path)
    rows = [json.loads(line) for line in Path(data.valid_files[0]).read_text().splitlines()]
    names = list(model.config.label2id)
    labels = torch.tensor([[float(name in row["label"]) for name in names] for row in rows])
    options = {"padding": True, "truncation": True, "max_length": data.sequence_length}
    with torch.no_grad():
        outputs = model(
            **tokenizer([row["text"] for row in rows], **options, return_tensors="pt"), labels=labels
        )
    theirs = outputs.logits.sigmoid().numpy()
    found = predictions_in(tmp_path)
    ours = [[row["probabilities"][name] for name in names] for row in found]
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert [row["prediction"] for row in found] == [
        [name for name, share in zip(names, shares, strict=True) if share > 0.5] for shares in theirs
    ]
    assert measured["eval_loss"] == pytest.approx(float(outputs.loss), rel=1e-6)


@pytest.mark.parametrize("name", ["classification", "pairs"])
def test_an_exported_classifier_gives_transformers_the_same_probabilities(name, tmp_path):
    import torch

    data, run, model, tokenizer = exported(name, tmp_path, "BertForSequenceClassification")
    measured = evaluate_run(run, output=tmp_path)
    rows = [json.loads(line) for line in Path(data.valid_files[0]).read_text().splitlines()]
    texts = [[row[column] for row in rows] for column in ("text", "pair") if column in rows[0]]
    options = {"padding": True, "truncation": "longest_first", "max_length": data.sequence_length}
    inputs = tokenizer(*texts, **options, return_tensors="pt")
    labels = torch.tensor([model.config.label2id[row["label"]] for row in rows])
    with torch.no_grad():
        outputs = model(**inputs, labels=labels)
    theirs = outputs.logits.softmax(-1).numpy()
    ours = [
        [row["probabilities"][label] for label in model.config.label2id] for row in predictions_in(tmp_path)
    ]
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert measured["eval_loss"] == pytest.approx(float(outputs.loss), rel=1e-6)


def test_an_exported_tagger_gives_transformers_the_same_tags(tmp_path):
    import torch

    data, run, model, tokenizer = exported("tagging", tmp_path, "BertForTokenClassification")
    evaluate_run(run, output=tmp_path)
    examples = [json.loads(line) for line in Path(data.valid_files[0]).read_text().splitlines()]
    for example, row in zip(examples, predictions_in(tmp_path), strict=True):
        encoded = tokenizer(example["text"], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            classes = model(**encoded).logits[0].argmax(-1)
        words = encoded.word_ids()
        first = [words.index(number) for number in range(len(example["text"]))]
        assert row["prediction"] == [model.config.id2label[int(classes[place])] for place in first]


def test_an_exported_reader_gives_transformers_the_same_logits(tmp_path):
    import torch

    from flaxmill.data.examples.corpus import read_examples

    _, run, model, tokenizer = exported("answers", tmp_path, "BertForQuestionAnswering", sequence_length=40)
    evaluate_run(run, output=tmp_path)
    from flaxmill.train.run.directory import read_config

    examples = read_examples(read_config(run).data, "question_answering", "valid")
    for example, row in zip(examples, predictions_in(tmp_path), strict=True):
        encoded = tokenizer(*example.texts, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**encoded)
        start, end = outputs.start_logits[0].numpy(), outputs.end_logits[0].numpy()
        inside = [place for place, sequence in enumerate(encoded.sequence_ids()) if sequence == 1]
        spans = [(start[i] + end[j], i, j) for i in inside for j in inside if i <= j < i + 30]
        score, i, j = max(spans)
        assert row["score"] == pytest.approx(score - start[0] - end[0], abs=1e-4)
        if row["prediction"]:
            offsets = tokenizer(*example.texts, return_offsets_mapping=True)["offset_mapping"]
            assert row["prediction"] == example.texts[1][offsets[i][0] : offsets[j][1]]


def test_predictions_of_several_files_stand_apart_and_each_is_measured(trained, tmp_path, flaxmill):
    run = trained("classification")
    for folder, kind in (("a", "animal"), ("b", "weather")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "other.csv").write_text(f"text,label\nthe fox,{kind}\n")
    paths = [str(tmp_path / folder / "other.csv") for folder in "ab"]
    code, out, _ = flaxmill("eval", run, "--data", paths[0], "--data", paths[1], "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == paths
    assert {values["num_examples"] for values in found.values()} == {1}
    labels = [json.loads(Path(values["predictions"]).read_text())["label"] for values in found.values()]
    assert labels == ["animal", "weather"]
    assert (run / "eval-4") in Path(found[paths[0]]["predictions"]).parents
    # Measured alone, into a folder that the user chose, the numbers are the same.
    alone = json.loads(flaxmill("eval", run, "--data", paths[0], "--json", "--output", tmp_path / "own")[1])
    assert alone | {"predictions": ""} == found[paths[0]] | {"predictions": ""}
    assert alone["predictions"] == str(tmp_path / "own" / "predictions.jsonl")
    table = flaxmill("eval", run, "--data", paths[0], "--data", paths[1])[1]
    assert table.index(paths[0]) < table.index("eval_loss") < table.index(paths[1])
    assert "given twice" in flaxmill("eval", run, "--data", paths[0], "--data", paths[0])[2]


def test_a_hugging_face_model_reads_as_much_as_it_can_and_says_what_it_cuts(tmp_path, flaxmill):
    import torch
    import transformers

    tokenizer = small_tokenizers.ours("bert")
    write_bert(tmp_path / "hf", "BertForSequenceClassification", tokenizer, 2)
    text = " ".join(small_tokenizers.TEXT.split()[:20])
    (tmp_path / "long.csv").write_text(f'text\n"{text}"\n')
    long = ["eval", tmp_path / "hf", "--data", tmp_path / "long.csv", "--unlabelled", "--json"]

    def probability(*flags):
        code, out, err = flaxmill(*long, *flags)
        assert code == 0, err
        row = json.loads(Path(json.loads(out)["predictions"]).read_text())
        return row["probabilities"], err

    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    for flags, length in (((), BODY["max_position_embeddings"]), (("--sequence-length", 8), 8)):
        with torch.no_grad():
            inputs = theirs(text, return_tensors="pt", truncation=True, max_length=length)
            expected = model(**inputs).logits.softmax(-1)[0].tolist()
        found, err = probability(*flags, "--output", tmp_path / str(length))
        assert list(found.values()) == pytest.approx(expected, abs=1e-5)
        cut = f"1 of 1 examples are cut to {length} tokens; --sequence-length N reads more"
        assert (cut in err) == (len(theirs(text)["input_ids"]) > length)
    longest = BODY["max_position_embeddings"]
    code, _, err = flaxmill(*long, "--sequence-length", longest + 1)
    says = (
        f"sequence_length={longest + 1} is longer than the {longest} tokens that this model reads; lower it"
    )
    assert (code, says in err, err.count("\n")) == (2, True, 1), err
