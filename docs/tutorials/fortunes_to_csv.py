"""Turns Debian's fortunes into train.csv and test.csv: short texts, each with its topic.

Command: python fortunes_to_csv.py FOLDER
FOLDER is where the package `fortunes` keeps its files, one for each topic, with a line of "%" between texts.
The split is drawn once: everyone who has the same package gets the same two files.
"""

import csv
import random
import sys
from pathlib import Path

TOPICS = ("computers", "food", "law", "love", "science", "sports")
MOST_TRAINED, TESTED = 60, 25  # texts of a topic
CHARACTERS = range(30, 151)  # of a text; longer ones would be cut, shorter ones say too little


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1], TOPICS[0]).is_file():
        sys.exit(f"give the folder of Debian's fortunes, which has a file for each of {', '.join(TOPICS)}")
    train, test = [], []
    for topic in TOPICS:
        texts = texts_of(Path(sys.argv[1], topic))
        test += [(text, topic) for text in texts[:TESTED]]
        train += [(text, topic) for text in texts[TESTED : TESTED + MOST_TRAINED]]
    for name, rows in (("train.csv", train), ("test.csv", test)):
        with open(name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("text", "label"), *rows])
        print(f"{name}: {len(rows)} texts, {len(TOPICS)} topics")


def texts_of(path: Path) -> list[str]:
    """A topic's texts, each on one line, in an order that depends on the topic's name alone."""
    texts = {" ".join(text.split()) for text in path.read_text(encoding="utf-8").split("\n%\n")}
    texts = sorted(text for text in texts if len(text) in CHARACTERS)
    random.Random(path.name).shuffle(texts)
    return texts


if __name__ == "__main__":
    main()
