"""Conversations become rows in which exactly what the assistant wrote is predicted."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from chats import CONVERSATION, HEADERS, MARKED, write_jsonl, write_tokenizer

from flaxmill.data.batches import Batches
from flaxmill.data.card import describe_dataset
from flaxmill.data.config import DataConfig
from flaxmill.data.conversations.chatml import CHATML
from flaxmill.data.preparation import parts, row_units
from flaxmill.data.preparation.beam import make_group_encoder
from flaxmill.data.preparation.cache import finish_shards, prepare, prepare_shard
from flaxmill.data.preparation.groups import MachineShard, make_groups
from flaxmill.data.preparation.means import Means
from flaxmill.data.preparation.text_corpus import find_text
from flaxmill.data.preparation.work_directory import WorkDirectory
from flaxmill.data.prepared.dataset import open_dataset
from flaxmill.data.text.held_out import Split

PACKINGS = ["best_fit", "first_fit", "concatenate"]


def make_conversations(num=60):
    """Different in length; what the assistant says is in capitals."""
    return [
        [
            {"role": "user", "content": f"question {n} " + "why " * (n % 7)},
            {"role": "assistant", "content": "BECAUSE " * (1 + n % 5) + str(n)},
            {"role": "user", "content": "and then"},
            {"role": "assistant", "content": "NOTHING"},
        ]
        for n in range(num)
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("chats") / "chats.jsonl", *make_conversations())


def config_of(path, **fields) -> DataConfig:
    defaults: dict[str, Any] = dict(tokenizer="bytes", sequence_length=256, packing="best_fit")
    return DataConfig(files=(str(path),), **defaults | fields)


def prepare_quietly(config, cache, objective="conversation"):
    return prepare(config, objective, cache=cache, log=lambda line: None)


def batch_of(dataset, config, split: Split = "train", seed=0):
    num_rows = dataset.statistics[split]["num_rows"]
    return Batches(
        dataset, split, config=config, objective="conversation", batch_size=num_rows, seed=seed
    ).batch(0)


def predicted(batch, tokenizer):
    """The texts that are predicted without a gap."""
    texts = []
    for row in range(len(batch["weights"])):
        places = np.flatnonzero(batch["weights"][row])
        for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            if len(run):
                texts.append(tokenizer.decode(batch["targets"][row, run], skip_specials=False))
    return texts


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("template", [None, CHATML, HEADERS, MARKED])
def test_weights_are_1_exactly_on_what_the_assistant_wrote(packing, template, chats, cache, tmp_path):
    tokenizer = {} if template is None else {"tokenizer": str(write_tokenizer(tmp_path, template))}
    config = config_of(chats, packing=packing, valid_files=(str(chats),), **tokenizer)
    dataset = prepare_quietly(config, cache)
    end = "<|eot|>" if template == HEADERS else "<|im_end|>"
    said = [
        message["content"] + end
        for c in make_conversations()
        for message in c
        if message["role"] == "assistant"
    ]
    batch = batch_of(dataset, config)
    found = predicted(batch, dataset.tokenizer)
    if packing == "concatenate":  # a turn may be cut at the end of a row
        assert sorted("".join(found)) == sorted("".join(said))
    else:
        assert sorted(found) == sorted(said)
    assert set(np.unique(batch["weights"])) == {0.0, 1.0}
    assert not batch["targets"][batch["weights"] == 0].any()
    inputs, documents = batch["tokens"], batch["documents"]
    follows = (documents[:, 1:] == documents[:, :-1]) & (batch["weights"][:, :-1] > 0)
    np.testing.assert_array_equal(batch["targets"][:, :-1][follows], inputs[:, 1:][follows])


def test_a_fitted_row_holds_whole_conversations_apart(chats, cache):
    config = config_of(chats)
    dataset = prepare_quietly(config, cache)
    batch = batch_of(dataset, config)
    for row in range(len(batch["tokens"])):
        for document in range(1, batch["documents"][row].max() + 1):
            places = np.flatnonzero(batch["documents"][row] == document)
            text = dataset.tokenizer.decode(batch["tokens"][row, places], skip_specials=False)
            assert text.startswith("<|im_start|>user\nquestion ")
            assert text.endswith("<|im_start|>assistant\nNOTHING<|im_end|>\n")
            np.testing.assert_array_equal(batch["positions"][row, places], np.arange(len(places)))
    assert batch["documents"].max() > 1


def test_a_long_conversation_is_cut_and_keeps_its_targets(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", *make_conversations(20))
    config = config_of(path, sequence_length=16, valid_files=(str(path),))
    dataset = prepare_quietly(config, tmp_path)
    said = [
        m["content"] + "<|im_end|>" for c in make_conversations(20) for m in c if m["role"] == "assistant"
    ]
    found = "".join(predicted(batch_of(dataset, config), dataset.tokenizer))
    assert sorted(found) == sorted("".join(said))


def test_a_dataset_says_how_much_of_it_is_learned(chats, cache):
    dataset = prepare_quietly(config_of(chats), cache)
    for split in get_args(Split):
        statistics = dataset.statistics[split]
        batch = batch_of(dataset, config_of(chats), split)
        assert statistics["num_targets"] == batch["weights"].sum()
        share = statistics["num_targets"] / statistics["num_tokens"]
        assert f"{share:.1%} of the tokens are the assistant's" in describe_dataset(dataset)


def test_the_form_that_was_used_stays_with_the_dataset(chats, cache, tmp_path):
    assert prepare_quietly(config_of(chats), cache).tokenizer.chat_template == CHATML
    trained = prepare_quietly(config_of(chats, tokenizer="bpe", vocab_size=300), cache)
    assert trained.tokenizer.chat_template == CHATML
    assert "im_" not in "".join(trained.tokenizer.inner.get_vocab(with_added_tokens=False))
    own = config_of(chats, tokenizer=str(write_tokenizer(tmp_path, HEADERS)))
    assert prepare_quietly(own, cache).tokenizer.chat_template == HEADERS


def test_another_template_makes_another_dataset(chats, cache, tmp_path):
    config = config_of(chats, tokenizer=str(write_tokenizer(tmp_path, CHATML)))
    first = prepare_quietly(config, cache)
    assert prepare_quietly(config, cache).directory == first.directory
    (tmp_path / "chat_template.jinja").write_text(HEADERS)
    second = prepare_quietly(config, cache)
    assert second.directory != first.directory
    assert second.fingerprint != first.fingerprint
    assert prepare_quietly(replace(config, markup=False), cache).directory != second.directory


def test_where_turns_are_is_a_part_of_the_fingerprint(chats, cache, tmp_path):
    """Both templates write the same text."""
    answer = "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    plain = "{% for m in messages %}{{ m.content }}<|eot|>{% endfor %}"
    marked = plain.replace("{{ m.content }}", answer + "{% else %}{{ m.content }}{% endif %}")
    made = []
    for name, template in (("plain", plain), ("marked", marked)):
        tokenizer = str(write_tokenizer(tmp_path / name, template))
        made.append(prepare_quietly(config_of(chats, tokenizer=tokenizer), cache))
    assert made[0].fingerprint != made[1].fingerprint
    for split in ("train", "valid"):
        turns = 2 * made[0].statistics[split]["num_documents"]
        num_targets = [dataset.statistics[split]["num_targets"] for dataset in made]
        assert num_targets[0] - num_targets[1] == turns


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"packing": "full_sentences"}, "data.packing=full_sentences .* conversations; use best_fit"),
        ({"fim_rate": 0.5}, "data.fim_rate=0.5 moves the middles of documents, which objective=conversation"),
        ({"embedded": "prose", "files": ()}, "data.embedded=prose holds no conversations"),
    ],
)
def test_settings_that_conversations_do_not_have_are_refused(fields, message, chats, tmp_path):
    with pytest.raises(ValueError, match=message):
        prepare_quietly(replace(config_of(chats), **fields), tmp_path)


def test_a_tokenizer_without_a_template_and_its_tokens_is_refused(chats, tmp_path):
    tokenizer = write_tokenizer(tmp_path / "a")
    prepare_quietly(config_of(chats, tokenizer=str(tokenizer)), tmp_path)
    (tmp_path / "a" / "tokenizer.json").write_text(
        (tmp_path / "a" / "tokenizer.json").read_text().replace("<|im_", "<|am_")
    )
    with pytest.raises(
        ValueError, match=r"needs the tokens <\|im_start\|>, .* beside it as chat_template.jinja"
    ):
        prepare_quietly(config_of(chats, tokenizer=str(tokenizer)), tmp_path)


def test_a_single_conversation_cannot_be_split(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", CONVERSATION)
    with pytest.raises(
        ValueError, match=r"row 1 of .*a.jsonl is the only conversation, and none is left to hold"
    ):
        prepare_quietly(config_of(path), tmp_path)


def test_rows_of_conversations_serve_no_other_objective(chats, cache):
    config = config_of(chats)
    dataset = open_dataset(prepare_quietly(config, cache).directory)
    with pytest.raises(ValueError, match="objective=causal cannot read the conversations rows of"):
        Batches(dataset, "train", config=config, objective="causal", batch_size=2, seed=0)


def test_skipped_conversations_are_counted(tmp_path):
    bad = [{"role": "user", "content": "x"}]
    path = write_jsonl(tmp_path / "a.jsonl", *make_conversations(9), bad)
    dataset = prepare_quietly(config_of(path, bad_rows="skip"), tmp_path)
    assert dataset.statistics["train"]["num_bad_rows"] == 1
    with pytest.raises(ValueError, match=r"row 10 of .* has no message of the assistant"):
        prepare_quietly(config_of(path), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("packing", PACKINGS)
def test_workers_and_shards_change_no_row(packing, tmp_path, monkeypatch):
    """Parts and shards are made so small that there are many."""
    monkeypatch.setattr(parts, "PART_CHARACTERS", 2_000)
    monkeypatch.setattr(row_units, "_FITTED_ROWS", 8)
    monkeypatch.setattr(row_units, "rows_per_shard", lambda record_format: 8)
    path = write_jsonl(tmp_path / "a.jsonl", *make_conversations(120))
    config = config_of(path, sequence_length=64, packing=packing, valid_files=(str(path),))
    made = [
        prepare(
            config,
            "conversation",
            cache=tmp_path / str(n),
            log=lambda line: None,
            means=Means(num_workers=n),
        )
        for n in (1, 3)
    ]
    rows = np.arange(made[0].statistics["train"]["num_rows"])
    assert made[0].fingerprint == made[1].fingerprint
    assert len(list(made[0].directory.glob("*train.array_record*"))) > 5
    for name, values in made[0].read("train", rows).items():
        np.testing.assert_array_equal(values, made[1].read("train", rows)[name])
    said = [m["content"] for c in make_conversations(120) for m in c if m["role"] == "assistant"]
    found = "".join(predicted(batch_of(made[0], config), made[0].tokenizer))
    assert sorted(found) == sorted("".join(f"{text}<|im_end|>" for text in said))


def test_machines_make_the_same_dataset_together(chats, cache, tmp_path):
    config = config_of(chats, valid_files=(str(chats.parent / "*.jsonl"),))
    whole = prepare_quietly(config, cache)
    for index in (1, 2):
        shard = MachineShard(index, 2)
        prepare_shard(config, "conversation", shard, cache=tmp_path, log=lambda line: None)
    made = finish_shards(config, "conversation", cache=tmp_path, log=lambda line: None)
    assert made.fingerprint == whole.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("is_embedded", [False, True])
def test_a_worker_of_beam_reads_the_same_conversations(is_embedded, chats, cache, tmp_path):
    """What Beam would call in another process, called here."""
    config = DataConfig(tokenizer="bytes") if is_embedded else config_of(chats)
    corpus = find_text(config, "conversations", lambda line: None)
    work = WorkDirectory(tmp_path / "work")
    work.begin({})
    prepare_quietly(config_of(chats), cache).tokenizer.save(work.tokenizer)
    groups = make_groups(corpus.streams())
    encode = make_group_encoder(work, config, "conversations", corpus.inventory)
    for group in groups:
        encode((group.number, group.place))
    found = [parts.load_part(work.part(group.number, 0), "lengths").lengths for group in groups]
    assert sum(map(len, found)) == sum(1 for _ in corpus.documents())


def test_what_no_error_shows_is_said(chats, tmp_path):
    said: list[str] = []
    prepare(config_of(chats), "conversation", cache=tmp_path, log=said.append)
    assert not [line for line in said if "concatenate" in line or "no special token" in line]
    endless = write_tokenizer(
        tmp_path / "a", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    config = config_of(chats, packing="concatenate", tokenizer=str(endless))
    prepare(config, "conversation", cache=tmp_path, log=said.append)
    assert any("cuts conversations where rows end; best_fit keeps them whole" in line for line in said)
    assert any("no special token behind what the assistant says" in line for line in said)


def test_an_equal_conversation_is_a_duplicate_and_held_out_ones_are_looked_for(tmp_path):
    train = write_jsonl(tmp_path / "a.jsonl", *make_conversations(30), *make_conversations(10))
    valid = write_jsonl(tmp_path / "b.jsonl", *make_conversations(4))
    config = config_of(train, valid_files=(str(valid),), duplicates="drop_exact")
    statistics = prepare_quietly(config, tmp_path).statistics
    assert statistics["train"]["num_documents"] == 30 - 4
    kept = prepare_quietly(replace(config, duplicates="keep"), tmp_path).statistics
    assert kept["train"]["num_documents"] == 40
    assert kept["valid"]["num_contaminated"] == 4
