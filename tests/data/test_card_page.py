"""The page of a dataset stands alone, says what the card says, and draws every count."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from task_files import has_encoder, objective_of, write_task

from flaxmill.data.card import bins_of
from flaxmill.data.card_page import Bar, draw_columns, draw_rows, make_page
from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare

VOID = {"meta"}


class Balance(HTMLParser):
    """Keeps the elements that are open, and the attributes that load something."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.loading: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.loading += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "onload", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def dataset_of(tmp_path, task="classification"):
    config = write_task(tmp_path, task)
    objective, encoder = objective_of(task), has_encoder(task)
    return prepare(config, objective, cache=tmp_path / "cache", log=lambda line: None, has_encoder=encoder)


def pictures(page):
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def rectangles(picture):
    return picture.findall("{http://www.w3.org/2000/svg}rect")


@pytest.mark.parametrize("task", ["classification", "multi_label", "regression", "answers", "translation"])
def test_a_page_is_balanced_and_loads_nothing(task, tmp_path):
    page = make_page({"": dataset_of(tmp_path, task)})
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert balance.loading == []
    assert not balance.names & {"script", "link", "img", "iframe"}
    assert "url(" not in page
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page


def test_every_bin_and_every_label_has_a_bar_of_its_height(tmp_path):
    dataset = dataset_of(tmp_path)
    found = pictures(make_page({"": dataset}))
    assert len(found) == 4  # lengths and labels of both splits
    bins = bins_of(dataset, "train")
    heights = [float(one.get("height", 0)) for one in rectangles(found[0])]
    counts = [count for _, count in bins]
    assert [height / max(heights) for height in heights] == pytest.approx(
        [count / max(counts) for count in counts], abs=0.01
    )
    widths = [float(one.get("width", 0)) for one in rectangles(found[1])]
    labels = dataset.statistics["train"]["label_counts"]
    assert [width / max(widths) for width in widths] == pytest.approx(
        [count / max(labels) for count in labels], abs=0.01
    )


def test_a_dataset_without_histograms_has_a_page_without_them(tmp_path):
    dataset = dataset_of(tmp_path, "regression")
    for statistics in dataset.statistics.values():
        statistics.pop("length_histogram")
        statistics.pop("num_unknown")
    page = make_page({"": dataset})
    assert pictures(page) == []
    assert dataset.fingerprint in page


def test_names_from_files_cannot_write_into_the_page(tmp_path):
    picture = draw_rows([Bar('<script>"&', 3, "<b>")], "<title>")
    assert "<script>" not in picture
    assert ElementTree.fromstring(picture).get("aria-label") == "<title>"
    (tmp_path / "<i>.txt").write_text("Some text to hold out.\n" * 50)
    config = DataConfig(files=(str(tmp_path / "<i>.txt"),), tokenizer="bytes", sequence_length=16)
    page = make_page({"": prepare(config, "causal", cache=tmp_path / "cache", log=lambda line: None)})
    assert "<i>" not in page
    assert "&lt;i&gt;.txt" in page


def test_a_mixture_has_a_picture_of_its_sources_and_a_part_for_each(tmp_path):
    dataset = dataset_of(tmp_path)
    page = make_page({"web": dataset, "books": dataset})
    assert page.count("<h2>") == 3
    assert len(rectangles(pictures(page)[0])) == 2


def test_many_columns_name_only_some():
    picture = ElementTree.fromstring(draw_columns([Bar(str(n), n + 1, "") for n in range(40)], "many"))
    names = picture.findall("{http://www.w3.org/2000/svg}text")
    assert len(rectangles(picture)) == 40
    assert len(names) <= 14


def test_duplicates_and_contamination_are_told_in_sentences(tmp_path):
    dataset = dataset_of(tmp_path)
    assert '<th scope="row">duplicates' not in make_page({"": dataset})
    dataset.statistics["train"] |= {"num_duplicates": 2, "num_near_duplicates": 1, "num_dropped": 3}
    dataset.statistics["valid"] |= {"contaminated_tokens": 0.25, "num_contaminated": 1, "num_checked": 4}
    dataset.statistics["valid"]["run_length"] = 13
    page = make_page({"": dataset})
    assert "<td>3 documents dropped: 2 exact duplicates, 1 near duplicate</td>" in page
    assert '<th scope="row">contamination</th><td>25.00% of the tokens are in runs of 13' in page
    assert ">checked<" not in page
