"""What flaxmill computed beside what transformers and sentence-transformers compute from the exported model.

Command: python compare_export.py MODEL PREDICTIONS.jsonl VECTORS.npy
It prints the largest differences, and ends with code 1 if one of them is above 1e-5 or a topic is another.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from transformers import pipeline

BOUND = 1e-5


def main() -> None:
    model, predictions, vectors = sys.argv[1:]
    rows = [json.loads(line) for line in Path(predictions).read_text(encoding="utf-8").splitlines()]
    texts = [row["text"] for row in rows]

    classify = pipeline("text-classification", model=model, device="cpu", top_k=None)
    topics, apart = 0, 0.0
    for row, answers in zip(rows, classify(texts), strict=True):
        topics += max(answers, key=lambda answer: answer["score"])["label"] == row["prediction"]
        apart = max(
            apart, *(abs(answer["score"] - row["probabilities"][answer["label"]]) for answer in answers)
        )
    print(f"transformers: {topics} of {len(rows)} topics the same, probabilities at most {apart:.1e} apart")

    theirs = SentenceTransformer(model, device="cpu").encode(texts)
    distance = float(np.abs(theirs - np.load(vectors)).max())
    print(f"sentence-transformers: numbers of the vectors at most {distance:.1e} apart")
    sys.exit(int(topics < len(rows) or max(apart, distance) > BOUND))


if __name__ == "__main__":
    main()
