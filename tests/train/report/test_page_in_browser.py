"""The page in a real browser: curves are drawn, keys and switches work, nothing is loaded, no text is run."""

import json
import re

import pytest
from browser import NAMES, find_browser, open_browser
from reported_runs import HOSTILE, rows_of, write_run

from flaxmill.train.experiment import Experiment
from flaxmill.train.report.page import make_page
from flaxmill.train.report.run_files import read_runs
from flaxmill.train.run.samples import write_sample

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_browser() is None, reason=f"none of {', '.join(NAMES)} is installed; `make browser` does it"
    ),
]
SIZES = [(1280, 900), (390, 844)]
NUM_CHARTS = 9
# Of text on its background, as WCAG 2.2 asks for at level AA; lines need less.
TEXT_CONTRAST, LINE_CONTRAST = 4.5, 3.0


@pytest.fixture(scope="module")
def page():
    with open_browser() as page:
        yield page


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A short run of 40 rows, and a long one of 200,000."""
    folder = tmp_path_factory.mktemp("two")
    short = write_run(folder / "short", rows_of(40))
    long = write_run(folder / "long", rows_of(200_000, seed=1, eval_every=1000), Experiment(seed=1))
    return write_page(folder / "two.html", short, long)


@pytest.fixture(scope="module")
def short_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short")
    first = write_run(folder / "first", rows_of(40))
    second = write_run(folder / "second", rows_of(30, seed=1), Experiment(seed=1))
    return write_page(folder / "short.html", first, second)


def write_page(path, *runs):
    path.write_text(make_page(read_runs(runs)), encoding="utf-8")
    return path


def mark_of(page):
    """What the page says of its drawing: milliseconds, or an error."""
    assert page.value("document.documentElement.dataset.error") is None
    assert page.complaints == []
    return float(page.value("document.documentElement.dataset.drawn"))


def heading_of_readings(page, number=0):
    return page.value(f"document.querySelectorAll('.readings thead th:first-child')[{number}].textContent")


def drawing(page):
    """The labels of the first chart's axes, and its first line that is not faint."""
    texts = (
        "[...document.querySelector('.plot').querySelectorAll('text')].map((text) => text.textContent).join()"
    )
    line = "document.querySelector('.plot .line:not(.raw)').getAttribute('d')"
    return page.value(texts), page.value(line)


def set_control(page, name, value, event):
    """Set a control's value as a reader does."""
    control = f"document.getElementById({name!r})"
    page.value(f"{control}.value = {value}; {control}.dispatchEvent(new Event({event!r}))")


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("dark", [False, True])
def test_a_long_and_a_short_run_are_drawn_within_the_width(two_runs, page, width, height, dark):
    page.open(two_runs, width=width, height=height, dark=dark)
    mark_of(page)
    assert page.requests == [two_runs.as_uri()]
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    assert page.value("document.querySelectorAll('.plot').length") == NUM_CHARTS
    empty = (
        "[...document.querySelectorAll('.plot')].filter((plot) => !plot.querySelector('path[d^=M]')).length"
    )
    assert page.value(empty) == 0
    assert page.value("document.querySelectorAll('.plot')[0].querySelectorAll('.run-1').length") >= 2


def test_a_spike_of_one_step_in_200000_reaches_its_height(two_runs, page):
    page.open(two_runs)
    page.value("document.querySelector('[data-run=\"0\"]').click()")
    outline = page.value("document.querySelector('.plot .area').getAttribute('d')")
    top = min(float(y) for y in re.findall(r" ([\d.]+)", outline))
    texts = "[...document.querySelector('.plot').querySelectorAll('text')]"
    highest = page.value(f"{texts}.find((text) => text.textContent === '20').getAttribute('y')")
    assert top == pytest.approx(float(highest) - 4, abs=2)  # the label stands 4 pixels below its line


def test_the_cursor_moves_by_keys_and_all_charts_follow(short_runs, page):
    page.open(short_runs)
    assert heading_of_readings(page) == "last"
    page.value("document.querySelector('.plot').focus()")
    for key, step in (
        ("ArrowRight", 0),
        ("ArrowRight", 1),
        ("PageUp", 11),
        ("ArrowLeft", 10),
        ("End", 40),
        ("Home", 0),
    ):
        page.press(key)
        assert heading_of_readings(page) == f"step {step}"
    page.press("ArrowRight", shift=True)
    assert {heading_of_readings(page, number) for number in range(NUM_CHARTS)} == {"step 10"}
    assert page.value("document.querySelectorAll('.plot .cursor').length") == NUM_CHARTS
    said = page.value("document.querySelector('.plot').getAttribute('aria-valuetext')")
    assert re.fullmatch(
        r"step 10; first: training [\d.]+, held out [\d.]+; second: training [\d.]+, held out [\d.]+", said
    )
    page.press("Escape")
    assert heading_of_readings(page) == "last"
    mark_of(page)


def test_every_control_is_reached_by_tab_and_its_focus_is_seen(short_runs, page):
    page.open(short_runs)
    reached = []
    for _ in range(60):
        page.press("Tab")
        place, width = page.value(
            "(() => { const at = document.activeElement, style = getComputedStyle(at);"
            " return [at.id || at.dataset.run || at.className || at.tagName,"
            " style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth)]; })()"
        )
        if place == "BODY":
            break
        assert width >= 1, place
        reached.append(place)
    assert reached.count("plot") == NUM_CHARTS
    assert {"0", "1", "smoothing", "logarithmic", "from", "to", "all-steps", "SUMMARY"} <= set(reached)


def test_a_run_is_hidden_by_the_blank_key(short_runs, page):
    page.open(short_runs)
    count = "document.querySelectorAll('.plot .run-1').length"
    assert page.value(count) > 0
    page.value("document.querySelector('[data-run=\"1\"]').focus()")
    page.press(" ")
    assert page.value(count) == 0
    assert "second" not in page.value("document.querySelector('.readings').textContent")
    page.press(" ")
    assert page.value(count) > 0


def test_steps_scale_and_smoothing_redraw(short_runs, page):
    page.open(short_runs)
    seen = {drawing(page)}
    page.value("document.getElementById('logarithmic').click()")
    seen.add(drawing(page))
    set_control(page, "from", 20, "change")
    seen.add(drawing(page))
    set_control(page, "smoothing", 6, "input")
    seen.add(drawing(page))
    assert len(seen) == 4
    assert page.value("document.getElementById('smoothed').textContent") == "over 2 steps"
    page.value("document.getElementById('all-steps').click()")
    assert page.value("document.getElementById('from').value") == "0"
    mark_of(page)


def test_every_control_and_chart_has_a_name(short_runs, page):
    page.open(short_runs)
    nameless = (
        "[...document.querySelectorAll('input, button, [role=slider]')].filter((one) =>"
        " !(one.labels && [...one.labels].some((label) => label.textContent.trim()))"
        " && !one.getAttribute('aria-label') && !one.textContent.trim()).length"
    )
    assert page.value(nameless) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_lines_stand_out_from_the_background(short_runs, page, dark):
    page.open(short_runs, dark=dark)
    names = ["ink", "soft", "focus", "paper", *(f"run-{number}" for number in range(8))]
    read = "(name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
    colours = dict(zip(names, page.value(f"{json.dumps(names)}.map({read})"), strict=True))
    assert (luminance(colours["paper"]) < 0.1) == dark
    for name, colour in colours.items():
        if name != "paper":
            least = LINE_CONTRAST if name.startswith("run-") else TEXT_CONTRAST
            assert contrast(colour, colours["paper"]) >= least, name


def test_no_text_of_a_run_becomes_markup(page, tmp_path):
    rows = [{"step": step, "loss": 3.0 - step, HOSTILE: 1.0} for step in range(3)]
    folder = tmp_path / HOSTILE.replace("/", "|")
    run = write_run(folder, rows, Experiment(name=HOSTILE.replace("/", "|"), prompt=HOSTILE))
    write_sample(run, 3, HOSTILE)
    page.open(write_page(tmp_path / "page.html", run))
    mark_of(page)
    assert page.requests == [(tmp_path / "page.html").as_uri()]
    assert page.value("document.title") == folder.name
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("document.scripts.length") == 2
    assert page.value("document.querySelector('pre').textContent") == HOSTILE


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [2.0],
        [None, None],
        [0.0, 0.0],
        [-1.0, -1.0],
        [1e16, 1e16 + 2],
        [3e38, -3e38],
        [5e-324, 0.0, 1e-40],
    ],
)
@pytest.mark.parametrize("logarithmic", [False, True])
def test_odd_values_are_shown_without_an_error(losses, logarithmic, page, tmp_path):
    rows = [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=5)]
    page.open(write_page(tmp_path / "page.html", write_run(tmp_path / "run", rows)))
    assert page.value("document.documentElement.dataset.error") is None
    assert page.complaints == []
    if logarithmic and losses:
        page.value("document.getElementById('logarithmic').click()")
    page.value("document.querySelector('.plot')?.focus()")
    page.press("ArrowRight")
    assert page.value("document.documentElement.dataset.error") is None
    assert page.complaints == []


def luminance(colour):
    """The relative luminance of #rrggbb (WCAG 2.2)."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
