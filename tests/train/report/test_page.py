"""The page as text: it is balanced, loads nothing, holds what the runs hold, and says what they lack."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from reported_runs import HOSTILE, rows_of, write_run

from flaxmill.data.config import DataConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.report.page import make_page
from flaxmill.train.report.run_files import read_runs
from flaxmill.train.run.data_card import write_data_card
from flaxmill.train.run.samples import write_sample

VOID = {"meta", "input"}
STATISTICS = {"num_documents": 3, "num_tokens": 50, "num_bytes": 90, "num_rows": 4}
CARD = {
    "source": "<corpus>.txt",
    "directory": "cache/data",
    "fingerprint": "0123abcd",
    "layout": "packed",
    "sequence_length": 64,
    "vocab_size": 2048,
    "labels": [],
    "statistics": {"train": STATISTICS, "valid": STATISTICS},
    "lengths": {"train": [[0, 7, 2], [8, 15, 1]], "valid": []},
}


class Balance(HTMLParser):
    """Keeps the elements that are open, and the attributes that load something."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.loading: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.loading += [
            f"{tag} {name}={value}"
            for name, value in attrs
            if name in ("src", "href", "srcset", "style") or name.startswith("on")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(*runs):
    return make_page(read_runs(runs))


@pytest.fixture
def classifier(tmp_path):
    data = DataConfig(labels=("a", "b", HOSTILE))
    run = write_run(tmp_path / "classifier", rows_of(20), Experiment(objective="classification", data=data))
    (run / "eval-20").mkdir()
    pairs = [("a", "a"), ("a", "b"), ("b", "b"), (HOSTILE, "a")]
    rows = (
        {"text": f"{HOSTILE} {n}", "label": wanted, "prediction": taken}
        for n, (wanted, taken) in enumerate(pairs)
    )
    (run / "eval-20" / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_page_is_balanced_and_loads_nothing_but_its_own_places(tmp_path, classifier):
    run = write_run(tmp_path / "run", rows_of(40))
    write_sample(run, 40, HOSTILE)
    write_data_card(run, {"": CARD})
    balance = Balance()
    balance.feed(page_of(run, classifier))
    assert balance.open == []
    assert all(re.fullmatch(r"a href=#[a-z-]+", one) for one in balance.loading)


def test_the_policy_lets_in_the_script_and_style_that_are_there(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy[1]


def test_a_text_of_a_run_is_never_markup(tmp_path, classifier):
    run = write_run(tmp_path / "run", [{"step": 0, "loss": 1.0, HOSTILE: 2.0}], Experiment(prompt=HOSTILE))
    write_sample(run, 1, HOSTILE)
    write_data_card(run, {HOSTILE: CARD, "other": CARD})
    page = page_of(run, classifier)
    assert "<img" not in page
    assert "<corpus>" not in page
    assert len(re.findall(r"<script\b", page)) == len(re.findall(r"</script>", page)) == 2


def test_samples_configs_events_and_cards_are_on_the_page(tmp_path):
    run = write_run(tmp_path / "run", rows_of(40))
    write_sample(run, 20, "An early one.")
    write_sample(run, 40, "The last one.")
    write_data_card(run, {"": CARD})
    page = page_of(run)
    assert page.index("The last one.") < page.index("An early one.")
    assert "step 30: loss or gradient is not finite; the update is left out" in page
    assert '<th scope="row">steps</th>' in page
    assert "0123abcd" in page
    assert "Documents by their length in tokens, training" in page
    assert "eval_loss 2.1009 at step 40" in page


def test_a_card_is_shown_once_for_all_its_runs(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("one", "two", "three")]
    for run in runs[:2]:
        write_data_card(run, {"": CARD})
    page = page_of(*runs)
    assert page.count("0123abcd") == 1
    assert "<summary>one, two</summary>" in page
    assert "three: no data_card.json" in page


@pytest.mark.parametrize(
    "changed",
    [
        {"lengths": 3},
        {"statistics": {}},
        {"sequence_length": "x"},
        {"lengths": {"train": [[0, 1, 0]], "valid": []}},
    ],
)
def test_a_card_that_lacks_what_a_card_has_is_named(changed, tmp_path):
    run = write_run(tmp_path / "run")
    write_data_card(run, {"": CARD | changed})
    with pytest.raises(ValueError, match=r"^[^\n]*data_card\.json is damaged: [^\n]*delete it"):
        page_of(run)


def test_a_classifier_has_a_confusion_matrix_and_examples(classifier):
    page = page_of(classifier)
    matrix = re.search(r'class="confusion">(.*?)</table>', page, re.DOTALL)
    assert matrix is not None
    assert re.findall(r"<td[^>]*>(\d+)</td>", matrix[1]) == ["1", "1", "0", "0", "1", "0", "1", "0", "0"]
    assert "2 of 4 are right" in page
    assert "The first of 4 held-out examples, predicted after step 20" in page


def test_a_classifier_without_predictions_says_what_makes_them(tmp_path):
    experiment = Experiment(objective="classification", data=DataConfig(labels=("a", "b")))
    run = write_run(tmp_path / "run", rows_of(5), experiment)
    assert f"<code>flaxmill eval {run}</code> writes them" in page_of(run)


def test_an_empty_run_is_shown_as_empty(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    assert ">no rows yet</span>" in page
    assert "there is nothing to draw" in page
    assert "data-chart=" not in page


def test_lines_that_were_passed_over_are_told(tmp_path):
    run = write_run(tmp_path / "run", rows_of(5))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert "run: 1 line is passed over in metrics.jsonl, the first is line 6" in page_of(run)


def test_metrics_beyond_what_is_drawn_are_named(tmp_path):
    names = {f"metric_{number}": 1.0 for number in range(100)}
    page = page_of(write_run(tmp_path / "run", [{"step": 0} | names]))
    assert page.count("data-chart=") == 80
    assert "20 more metrics: metric_80, " in page
