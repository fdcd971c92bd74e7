"""Scores simple methods on the held-out embedded examples: a model must beat these scores.

    python benchmarks/baselines.py [TASK ...]

Prints one line per baseline, with its scores. It needs scikit-learn, rouge-score and sacrebleu, not JAX.
"""

import collections
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from flaxmill.data.embedded_tasks.tasks import TASKS, embedded_examples

Examples = list[dict[str, Any]]
Scores = dict[str, float]

_SENTENCE_END = re.compile(r"(?<=[.!?:])\s|\n\n")


def main() -> int:
    """Prints the table."""
    for task in sys.argv[1:] or TASKS:
        splits: dict[str, Examples] = {"train": [], "valid": []}
        for example in embedded_examples(task):
            splits[example["split"]].append(example)
        counts = f"{len(splits['train'])} to train, {len(splits['valid'])} held out"
        print(f"{task}: {counts}", flush=True)
        for name, scores in _BASELINES[task](splits["train"], splits["valid"]):
            values = "  ".join(f"{metric} {value:.3f}" for metric, value in scores.items())
            print(f"  {name:<34}{values}", flush=True)
    return 0


def classify(train: Examples, valid: Examples) -> Iterator[tuple[str, Scores]]:
    """Majority class, and logistic regression on bags of the words of all texts of an example."""
    labels = [example["label"] for example in train]
    majority = collections.Counter(labels).most_common(1)[0][0]
    yield "majority class", {"accuracy": _accuracy([majority] * len(valid), valid)}
    for name, bag in (
        ("bag of words, counts", CountVectorizer()),
        ("bag of words, TF-IDF", TfidfVectorizer(sublinear_tf=True)),
        ("bag of words and signs, counts", CountVectorizer(token_pattern=r"\w+|[^\w\s]")),
    ):
        model = make_pipeline(bag, LogisticRegression(max_iter=1000))
        model.fit([_all_text(example) for example in train], labels)
        found = model.predict([_all_text(example) for example in valid])
        yield name, {"accuracy": _accuracy(list(found), valid)}


def tag(train: Examples, valid: Examples) -> Iterator[tuple[str, Scores]]:
    """Each word's most frequent tag; an unseen word has the tag that most of the once-seen words have."""
    tags_of: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for example in train:
        for word, tag_ in zip(example["text"], example["label"], strict=True):
            tags_of[word][tag_] += 1
    rare = collections.Counter(next(iter(tags)) for tags in tags_of.values() if tags.total() == 1)
    unseen = rare.most_common(1)[0][0]
    all_tags = collections.Counter(tag_ for example in train for tag_ in example["label"])
    for name, guess in (
        ("majority tag", lambda word: all_tags.most_common(1)[0][0]),
        (
            "most frequent tag of the word",
            lambda word: tags_of[word].most_common(1)[0][0] if word in tags_of else unseen,
        ),
    ):
        found = [guess(word) for example in valid for word in example["text"]]
        wanted = [tag_ for example in valid for tag_ in example["label"]]
        named = [a == b for a, b in zip(found, wanted, strict=True) if b != "O"]
        every = [a == b for a, b in zip(found, wanted, strict=True)]
        yield name, {"accuracy": statistics.mean(every), "accuracy of names": statistics.mean(named)}


def answer(train: Examples, valid: Examples) -> Iterator[tuple[str, Scores]]:
    """No answer at all, and the sentence that shares most words with the question."""
    del train
    for name, guess in (
        ("always without an answer", lambda example: ""),
        ("sentence nearest to the question", _nearest_sentence),
    ):
        pairs = [(guess(example), _wanted_answer(example)) for example in valid]
        yield (
            name,
            {
                "exact match": statistics.mean(_words(a) == _words(b) for a, b in pairs),
                "F1": statistics.mean(_answer_f1(_words(a), _words(b)) for a, b in pairs),
            },
        )


def summarize(train: Examples, valid: Examples) -> Iterator[tuple[str, Scores]]:
    """The first sentence below the definition's head, the words of its name, and the most frequent target."""
    wanted = [example["target"] for example in valid]
    scorer = RougeScorer(["rougeL"])  # it drops signs, so it cannot score translation

    def scores(found: list[str]) -> Scores:
        rouge = [scorer.score(a, b)["rougeL"].fmeasure for a, b in zip(wanted, found, strict=True)]
        return {"ROUGE-L": statistics.mean(rouge), **_text_scores(found, wanted)}

    frequent = collections.Counter(example["target"] for example in train).most_common(1)[0][0]
    names, _, bodies = zip(*(example["text"].split("\n", 2) for example in valid), strict=True)
    yield "copy the first sentence", scores([_SENTENCE_END.split(body)[0] for body in bodies])
    yield "the name as words", scores(list(names))
    yield "'Return the' and the name", scores([f"Return the {name}." for name in names])
    yield "most frequent target", scores([frequent] * len(wanted))


def translate(train: Examples, valid: Examples) -> Iterator[tuple[str, Scores]]:
    """The source as it is, and its operands followed by its operators."""
    del train
    wanted = [example["target"] for example in valid]
    sources = [example["text"] for example in valid]
    yield "copy the source", _text_scores(sources, wanted)
    yield "operands, then operators", _text_scores([_operators_last(text) for text in sources], wanted)


def _all_text(example: dict[str, Any]) -> str:
    return example["text"] + "\n" + example.get("pair", "")


def _accuracy(found: list[str], examples: Examples) -> float:
    return statistics.mean(a == example["label"] for a, example in zip(found, examples, strict=True))


def _nearest_sentence(example: dict[str, Any]) -> str:
    asked = set(_words(example["question"]))
    sentences = [part for part in re.split(r"(?<=[.!?:])\s", example["context"]) if part.strip()]
    return max(sentences, key=lambda sentence: len(asked & set(_words(sentence))))


def _wanted_answer(example: dict[str, Any]) -> str:
    return example["answers"][0]["text"] if example["answers"] else ""


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _answer_f1(found: list[str], wanted: list[str]) -> float:
    shared = (collections.Counter(found) & collections.Counter(wanted)).total()
    if not found or not wanted:
        return float(found == wanted)
    return 2 * shared / (len(found) + len(wanted))


def _text_scores(found: list[str], wanted: list[str]) -> Scores:
    return {
        "exact match": statistics.mean(a == b for a, b in zip(found, wanted, strict=True)),
        "BLEU": sacrebleu.corpus_bleu(found, [wanted], tokenize="none", force=True).score,
        "chrF": sacrebleu.corpus_chrf(found, [wanted]).score,
    }


def _operators_last(text: str) -> str:
    signs = [sign for sign in text.split() if sign not in "()"]
    return " ".join([s for s in signs if s.isalnum()] + [s for s in signs if not s.isalnum()])


_BASELINES: dict[str, Callable[[Examples, Examples], Iterator[tuple[str, Scores]]]] = {
    "classification": classify,
    "areas": classify,
    "pairs": classify,
    "answers": answer,
    "tags": tag,
    "summaries": summarize,
    "translation": translate,
}


if __name__ == "__main__":
    sys.exit(main())
