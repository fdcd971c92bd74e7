"""The running Python's library yields labelled examples for every task, the same at every call."""

import ast
import collections
import re
import subprocess
import sys

import pytest

from flaxmill.data.embedded_tasks.expressions import find_expressions
from flaxmill.data.embedded_tasks.notations import draw_notations
from flaxmill.data.embedded_tasks.questions import ask
from flaxmill.data.embedded_tasks.roles import tag_lines
from flaxmill.data.embedded_tasks.statements import judge
from flaxmill.data.embedded_tasks.tasks import TASKS, embedded_examples

# The least and most examples, wide enough for Python 3.11 to 3.13 and the builds of distributions.
RANGES = {
    "classification": (2_500, 7_000),
    "areas": (3_000, 6_000),
    "pairs": (6_000, 14_000),
    "answers": (5_000, 13_000),
    "tags": (11_000, 26_000),
    "summaries": (3_500, 6_500),
    "translation": (24_000, 24_000),
    "conversations": (2_000, 4_500),
    "preferences": (1_500, 3_800),
    "matches": (3_500, 6_500),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def examples():
    return {task: list(embedded_examples(task)) for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_two_calls_give_the_same_examples(task, examples):
    assert list(embedded_examples(task)) == examples[task]


def test_the_salt_of_hashes_changes_nothing(examples):
    program = (
        "from flaxmill.data.embedded_tasks.tasks import embedded_examples\n"
        "print([example['split'] for example in embedded_examples('pairs')])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str([example["split"] for example in examples["pairs"]])


@pytest.mark.parametrize("task", TASKS)
def test_counts_and_held_out_shares_are_in_their_ranges(task, examples):
    found = examples[task]
    least, most = RANGES[task]
    assert least <= len(found) <= most
    held_out = sum(example["split"] == "valid" for example in found)
    assert 0.08 < held_out / len(found) < 0.25
    assert {example["split"] for example in found} == {"train", "valid"}


@pytest.mark.parametrize("task", TASKS)
def test_identities_are_unique(task, examples):
    identities = [example["id"] for example in examples[task]]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize("task", TASKS)
def test_no_held_out_text_is_trained_on(task, examples):
    def texts(split):
        columns = {"answers": "context", "conversations": "messages", "preferences": "prompt"}
        column = columns.get(task, "text")
        return {str(example[column]) for example in examples[task] if example["split"] == split}

    assert not texts("train") & texts("valid")


@pytest.mark.parametrize("task", ["areas", "pairs", "answers", "summaries", "conversations"])
def test_a_class_is_held_out_as_a_whole(task, examples):
    splits = collections.defaultdict(set)
    for example in examples[task]:
        splits[re.split("[.#]", example["id"].partition(":")[2])[0], example["id"].partition(":")[0]].add(
            example["split"]
        )
    assert max(map(len, splits.values())) == 1


def test_few_docstrings_of_the_held_out_part_resemble_those_of_training(examples):
    def triples(example):
        words = re.findall(r"\w+", example["text"].lower())
        return set(zip(words, words[1:], words[2:], strict=False))

    train = set().union(*(triples(e) for e in examples["areas"] if e["split"] == "train"))
    shares = [
        len(found & train) / len(found)
        for e in examples["areas"]
        if e["split"] == "valid" and len(found := triples(e)) > 3
    ]
    assert sum(share > 0.6 for share in shares) / len(shares) < 0.01


@pytest.mark.parametrize(("task", "num_labels", "most"), [("classification", 7, 0.35), ("areas", 9, 0.3)])
def test_no_class_has_most_of_the_examples(task, num_labels, most, examples):
    for split in ("train", "valid"):
        labels = collections.Counter(e["label"] for e in examples[task] if e["split"] == split)
        assert len(labels) == num_labels
        assert max(labels.values()) / labels.total() < most
        assert min(labels.values()) >= 15


def test_a_statement_holds_as_often_as_not(examples):
    for split in ("train", "valid"):
        labels = collections.defaultdict(collections.Counter)
        for example in examples["pairs"]:
            if example["split"] == split:
                labels[example["pair"]][example["label"]] += 1
        assert len(labels) == 12
        for counts in labels.values():
            assert abs(counts["yes"] - counts["no"]) <= 4


def test_answers_stand_where_they_are_said_to(examples):
    found = examples["answers"]
    for example in found:
        assert example["is_impossible"] == (not example["answers"])
        for answer in example["answers"]:
            start = answer["answer_start"]
            assert example["context"][start : start + len(answer["text"])] == answer["text"].strip() != ""
    assert 0.1 < sum(example["is_impossible"] for example in found) / len(found) < 0.2


def test_every_word_has_a_tag(examples):
    for example in examples["tags"]:
        assert len(example["text"]) == len(example["label"])
        assert all(word and not word.isspace() for word in example["text"])


def test_no_held_out_summary_is_that_of_a_docstring_to_learn_from(examples):
    targets = collections.defaultdict(set)
    for example in examples["summaries"]:
        targets[example["split"]].add(example["target"].lower())
    assert not targets["train"] & targets["valid"]


def test_roles_follow_the_grammar():
    source = "import os.path as p\ndef f(a, *b, c=None):\n    x = a.y.z(c, d=g(b[0]))\n    return x != p\n"
    lines = source.splitlines()
    found = {
        number: dict(zip(words, tags, strict=True))
        for number, words, tags in tag_lines(ast.parse(source), lines)
    }
    assert found[1] == {
        "import": "O",
        "os": "imported",
        ".": "O",
        "path": "imported",
        "as": "O",
        "p": "imported",
    }
    named = {word: tag for word, tag in found[2].items() if tag != "O"}
    assert named == {"f": "function", "a": "parameter", "b": "parameter", "c": "parameter"}
    named = {word: tag for word, tag in found[3].items() if tag != "O"}
    assert named == dict(
        x="assigned", a="read", y="attribute", z="method", c="read", d="argument", g="call", b="read"
    )


def test_questions_have_one_answer_or_none():
    source = (
        "def f(self, a, b=1):\n    if a > b:\n        raise ValueError('no')\n"
        "    self.x = g(a)\n    return a\n"
    )
    found = {
        text: answer and source[slice(*answer)] for text, answer in ask(source, ast.parse(source).body[0])
    }
    assert found == {
        "What does it return?": "a",
        "What does it raise?": "ValueError",
        "What does it handle?": None,
        "What does it loop over?": None,
        "What does it test?": "a > b",
        "What is the default of a?": None,
        "What is the default of b?": "1",
        "What does it assign to self.x?": "g(a)",
    }
    twice = "def f(a):\n    if a:\n        return 1\n    return 2\n"
    assert "What does it return?" not in dict(ask(twice, ast.parse(twice).body[0]))


def test_statements_are_judged_by_syntax():
    judged = judge(ast.parse("def f(a, *b):\n    for x in b:\n        a.y = x + 1\n").body[0])
    assert {statement for statement, holds in judged.items() if holds} == {
        "It repeats something.",
        "It sets an attribute.",
        "It calculates.",
        "It takes any number of arguments.",
    }


def test_an_expression_is_what_stands_at_its_top():
    lines = ["x = f(a + b)[0] * 12", "if not (a and b[1:2]):", "    y = 1"]
    found = dict(find_expressions(ast.parse("\n".join(lines)), lines))
    assert found == {"f(a + b)[0] * 12": "binary", "not (a and b[1:2])": "unary"}


def test_both_notations_mean_the_same():
    values = {name: number for number, name in enumerate("abcdefghij", start=2)}
    for number, (infix, reverse_polish) in enumerate(draw_notations()):
        if number == 500:
            break
        stack = []
        for sign in reverse_polish.split():
            if sign in values:
                stack.append(f"{values[sign]}.0")
            else:
                right, left = stack.pop(), stack.pop()
                stack.append(f"({left} {sign} {right})")
        meant = re.sub("[a-j]", lambda match: f"{values[match[0]]}.0", infix)
        assert ast.dump(ast.parse(stack.pop())) == ast.dump(ast.parse(meant))


def test_an_answer_alone_does_not_tell_whether_it_is_chosen(examples):
    chosen, rejected = (
        sorted(str(example[name]) for example in examples["preferences"]) for name in ("chosen", "rejected")
    )
    assert chosen == rejected
    for example in examples["preferences"]:
        assert example["prompt"][-1]["role"] == "user"
        assert example["chosen"] != example["rejected"]
