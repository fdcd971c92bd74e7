"""Bad examples end a command in one line that names file, row, rule and fix, with exit code 2."""

import json

import pytest

SQUAD = {"context": "The fox.", "qas": [{"id": "q7", "question": "Who?"}]}


def squad(answer: str, start: int) -> str:
    question = SQUAD["qas"][0] | {"answers": [{"text": answer, "answer_start": start}]}
    return json.dumps({"data": [{"paragraphs": [SQUAD | {"qas": [question]}]}]})


@pytest.mark.parametrize(
    ("objective", "name", "content", "flags", "message"),
    [
        (
            "classification",
            "a.csv",
            "input,label\na,x\n",
            (),
            "data.text_column='text' is not a column of {}; it has",
        ),
        (
            "classification",
            "a.csv",
            'text,label\na,x\n"b\nb",\n',
            (),
            "row 2 (line 3) of {} has no label in the",
        ),
        (
            "classification",
            "a.tsv",
            "text\tlabel\n \tx\n",
            (),
            "row 1 (line 2) of {}: the text in 'text' is empty",
        ),
        (
            "classification",
            "a.csv",
            "text,label\na,x,y\n",
            (),
            "row 1 (line 2) of {} cannot be read (it has 3 fiel",
        ),
        (
            "classification",
            "a.jsonl",
            '{"text": "a"\n',
            (),
            "row 1 of {} cannot be read (Expecting ',' delimiter",
        ),
        ("classification", "a.csv", "text,label\n", (), "data.files={} holds no examples; give files with"),
        (
            "classification",
            "a.csv",
            "text,label\na,x\nb,y\n",
            ("--data.labels", "x"),
            "row 2 (line 3) of {}: the label 'y' is unknown; known are x; correct it",
        ),
        (
            "classification",
            "a.csv",
            "text,label\na,x\nb,y\n",
            ("--data.label-type", "number"),
            "row 1 (line 2) of {}: the label 'x' in 'label' is not a number, which data.label_type=number",
        ),
        (
            "token_classification",
            "a.conll",
            "a O\nb\n",
            (),
            "line 2 of {} cannot be read ('b' has no tag beside it)",
        ),
        (
            "question_answering",
            "a.json",
            squad("cat", 4),
            ("--data.stride", "20"),
            "question 'q7' of {}: the answer 'cat' is not at character",
        ),
        (
            "question_answering",
            "a.json",
            squad("fox", 3),
            ("--data.stride", "20"),
            "at character 3 of its context; it is at 4: correct",
        ),
        (
            "seq2seq",
            "a.csv",
            "text,target\na,\n",
            (),
            "row 1 (line 2) of {}: the text in 'target' is empty; fill it",
        ),
    ],
)
def test_a_bad_example_ends_in_one_line_and_code_2(
    flaxmill, tmp_path, objective, name, content, flags, message
):
    path = tmp_path / name
    path.write_text(content)
    data = ("--data.files", path, "--data.valid-files", path, "--data.tokenizer", "wordpiece")
    code, _, error = flaxmill("data", "prepare", "--objective", objective, *data, *flags)
    (line,) = [line for line in error.splitlines() if line.startswith("flaxmill: ")]
    assert code == 2
    assert message.format(path) in line
    assert "Traceback" not in error


TEXTS = {"a.txt": "The mill stands.\n" * 50, "b.txt": "The wheel turns.".encode("utf-16")}
ROWS = {"a.csv": "text,label\nthe mill,a\nthe cat,b\n", "b.csv": "texts,label\nthe mill,a\n"}
PAIRS = {"a.csv": "text,target\nab,xy\ncd,zw\n", "b.csv": "text,target\nef,uv\ngh,\n"}


@pytest.mark.parametrize(
    ("config", "files", "flags", "message"),
    [
        ("gpt_tiny", TEXTS, (), "b.txt is UTF-16, as its first bytes say"),
        ("gpt_tiny", {"a.csv": "texts\nthe mill\n"}, (), "data.text_column='text' is not a column of row 1"),
        ("classify", ROWS, (), "data.text_column='text' is not a column of"),
        ("seq2seq", PAIRS, (), "b.csv: the text in 'target' is empty"),
        (
            "seq2seq",
            PAIRS,
            ("--model.max-positions", "30"),
            "data.sequence_length=48 is longer than model.max_pos",
        ),
        (
            "seq2seq",
            PAIRS,
            ("--best.metric", "eval_acuracy"),
            "best.metric=eval_acuracy is not what this run evaluates",
        ),
        ("gpt_tiny", TEXTS, ("--optimizer.freeze", "layers/none"), "optimizer.freeze=layers/none matches"),
        (
            "summarize",
            PAIRS,
            ("--data.target-length", "200"),
            "data.target_length=200 leaves no room for a prompt and its separator in data.sequence_length",
        ),
    ],
)
def test_what_can_be_refused_is_before_a_tokenizer_is_trained(
    flaxmill, tmp_path, config, files, flags, message
):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    data = ("--data.files", tmp_path / "*.*", "--run-dir", tmp_path / "run")
    code, out, error = flaxmill("train", config, *data, *flags)
    assert code == 2
    assert message in error
    assert "tokenizer" not in out + error
    assert not (tmp_path / "run").exists()
