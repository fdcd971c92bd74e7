"""`flaxmill tokenizer` writes what flaxmill and transformers load alike, and compares by the same text."""

import json

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.framing import make_framer
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.tokenization import Tokenizer
from flaxmill.train.commands.tokenizer_command import run

TEXT = "The quick brown fox jumps over the lazy dog; der Bär läuft 3 km.\n\n"
TEXTS = ["The dog jumps", " a  Bär\n", "東京 [MASK]", "", "</s> <|endoftext|> x"]
SIZES = {"bpe": 300, "wordpiece": 200, "unigram": 400}


@pytest.fixture
def files(tmp_path) -> str:
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(TEXT * 20 + f"Document {number}.\n" * 9, encoding="utf-8")
    return str(tmp_path / "*.txt")


def train(files, directory, kind, *flags) -> Tokenizer:
    run(
        ["train", files, "--kind", kind, "--vocab-size", str(SIZES[kind]), "--output", str(directory), *flags]
    )
    return Tokenizer.load(directory)


@pytest.mark.parametrize("flags", [[], ["--lowercase"], ["--added-tokens", "<tool>"]], ids=" ".join)
@pytest.mark.parametrize("kind", SIZES)
def test_transformers_loads_what_is_written_as_flaxmill_does(kind, flags, files, tmp_path):
    import transformers

    ours = train(files, tmp_path / "made", kind, *flags)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    assert len(theirs) == ours.vocab_size
    for text in TEXTS:
        plain = theirs(text, add_special_tokens=False)["input_ids"]
        assert plain == ours.encode(text, markup=True)
        framer = make_framer(ours, "", markup=True)
        assert theirs(text)["input_ids"] == framer.encode(text).ids
        assert theirs(text, "b")["input_ids"] == framer.encode(text, "b").ids
    for role, id_ in ours.roles.items():
        assert getattr(theirs, f"{role}_token_id") == id_
    assert ("<tool>" in ours.added_names) == ("<tool>" in flags)


@pytest.mark.parametrize("kind", SIZES)
def test_two_trainings_write_equal_files(kind, files, tmp_path):
    for name in "ab":
        train(files, tmp_path / name, kind)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("objective", ["mlm_nsp", "span_corruption", "seq2seq", "causal"])
def test_a_tokenizer_made_for_an_objective_prepares_it(objective, files, tmp_path):
    train(files, tmp_path / "made", "unigram", "--objective", objective)
    if objective == "seq2seq":
        return
    config = DataConfig(
        files=(files,), tokenizer=str(tmp_path / "made"), sequence_length=16, documents="blank_lines"
    )
    dataset = prepare(config, objective, cache=tmp_path / "cache", log=lambda line: None)
    assert dataset.statistics["train"]["num_rows"] > 0


def test_a_config_trains_what_its_preparation_trains(files, tmp_path):
    experiment = tmp_path / "mine.py"
    data = f"DataConfig(files=({files!r},), tokenizer='wordpiece', vocab_size=200, documents='blank_lines')"
    experiment.write_text(
        "from flaxmill.data.config import DataConfig\nfrom flaxmill.train.experiment import Experiment\n"
        f"config = Experiment(objective='mlm_nsp', data={data})\n"
    )
    run(["train", "--config", str(experiment), "--output", str(tmp_path / "made")])
    config = DataConfig(files=(files,), tokenizer="wordpiece", vocab_size=200, documents="blank_lines")
    dataset = prepare(config, "mlm_nsp", cache=tmp_path / "cache", log=lambda line: None)
    assert Tokenizer.load(tmp_path / "made").inner.get_vocab() == dataset.tokenizer.inner.get_vocab()
    assert Tokenizer.load(tmp_path / "made").encode("The BÄR") == dataset.tokenizer.encode("The BÄR")


def test_a_mixture_trains_on_all_of_its_sources(files, tmp_path, capsys):
    experiment = tmp_path / "mine.py"
    (tmp_path / "other.md").write_text("Quartz zigzags.\n" * 200)
    sources = (f"a=0.5:{files}", f"b=0.5:{tmp_path / 'other.md'}")
    experiment.write_text(
        "from flaxmill.data.config import DataConfig\nfrom flaxmill.train.experiment import Experiment\n"
        f"config = Experiment(objective='causal', data=DataConfig(sources={sources!r}, vocab_size=500))\n"
    )
    run(["train", "--config", str(experiment), "--output", str(tmp_path / "made")])
    words = Tokenizer.load(tmp_path / "made").inner.get_vocab()
    assert any("Quartz"[:3] in word for word in words)
    assert any("quick"[:3] in word for word in words)


def test_a_column_of_a_table_is_read_and_a_sample_bounded(tmp_path, capsys):
    rows = "".join(json.dumps({"body": f"{TEXT}{number}"}) + "\n" for number in range(50))
    (tmp_path / "rows.jsonl").write_text(rows)
    train(
        str(tmp_path / "rows.jsonl"),
        tmp_path / "made",
        "bpe",
        *("--text-column", "body", "--sample-bytes", "700"),
    )
    assert "10 documents, 698 bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "no output; name the directory to write: --output DIR"),
        (["--output", "OUT", "--vocab-size", "100"], "vocab_size=100 is too small for kind=bpe"),
        (["--output", "OUT", "--kind", "unigram", "--vocab-size", "319"], "use 320 or more"),
        (["--output", "OUT", "--objective", "mlm_nps"], r"did you mean mlm_nsp\?"),
        (["--output", "OUT", "--objective", "mlm_nsp"], r"needs the tokens \[CLS\], \[SEP\]"),
        (["--output", "OUT", "--config", "gpt_tiny"], r"both .* and --config=gpt_tiny name text"),
        (["--output", "OUT", "--text-column", ""], "names no column"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(flags, words, files, tmp_path):
    given = [str(tmp_path / "made") if flag == "OUT" else flag for flag in flags]
    with pytest.raises(ValueError, match=words) as caught:
        run(["train", files, *given])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_a_tokenizer_is_not_overwritten(files, tmp_path):
    train(files, tmp_path / "made", "bpe")
    with pytest.raises(ValueError, match="already; name another directory, or delete it"):
        train(files, tmp_path / "made", "bpe")


def test_show_prints_roles_objectives_and_pieces(files, tmp_path, capsys):
    train(files, tmp_path / "made", "wordpiece")
    capsys.readouterr()
    run(["show", str(tmp_path / "made"), "The Bär"])
    out = capsys.readouterr().out
    assert "kind         WordPiece" in out
    assert "causal                 yes" in out
    assert "'Bär'" in out
    run(["show", str(tmp_path / "made"), "The Bär", "--json"])
    described = json.loads(capsys.readouterr().out)
    ids = [id_ for word in described["pieces"] for id_ in word["ids"]]
    assert ids == Tokenizer.load(tmp_path / "made").encode("The Bär")


def test_compare_measures_each_on_the_same_text(files, tmp_path, capsys):
    names = [str(tmp_path / kind) for kind in SIZES]
    for kind in SIZES:
        train(files, tmp_path / kind, kind)
    capsys.readouterr()
    run(["compare", *names, "--files", files, "--json"])
    measured = json.loads(capsys.readouterr().out)["tokenizers"]
    assert list(measured) == names
    assert len({(one["num_documents"], one["num_bytes"]) for one in measured.values()}) == 1
    assert [one["exact_share"] for one in measured.values()] == [1.0, 0.0, 1.0]
    run(["compare", *names, "--files", files])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3 + 1
    assert lines[-1].startswith(f"{names[1]} does not give back ")


def test_compare_refuses_text_that_a_tokenizer_cannot_represent(files, tmp_path, capsys):
    train(files, tmp_path / "made", "wordpiece")
    (tmp_path / "jp").write_text("東京は日本の首都です。" * 50, encoding="utf-8")
    with pytest.raises(ValueError, match=r"made: the tokenizer has no piece for \d\d+\.\d% of the text's"):
        run(["compare", str(tmp_path / "made"), "--files", str(tmp_path / "jp")])
    assert "documents" in capsys.readouterr().out  # the table comes first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no action; use train, show or compare"),
        (["shw"], r"did you mean show\?"),
        (["show"], "come first, none given"),
        (["show", "bpe"], "bpe is a kind, trained on text"),
        (["show", "nowhere"], "nowhere' is not a file"),
        (["compare"], "no tokenizer given"),
        (["compare", "x", "--sample-bytes", "0"], "sample_bytes=0 must be at least 1"),
    ],
)
def test_other_mistakes_name_the_fix(arguments, words):
    with pytest.raises(ValueError, match=words):
        run(arguments)


def test_help_names_the_actions(capsys):
    run(["--help"])
    assert "compare  Measures tokenizers" in capsys.readouterr().out
