"""`flaxmill embed`: vectors in files, in order, from directories and runs; mistakes in one line."""

import numpy as np
import pytest
from small_text_models import save_model

TEXTS = ["The quick brown fox", "", "a lazy dog; " * 30, "Déjà vu: 42."]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bert")
    save_model(directory, "bert", max_position_embeddings=66)
    return directory


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


def refusal(outcome):
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_a_file_of_arrays_and_a_table_hold_the_same_vectors(bert, data, flaxmill, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    array, table = tmp_path / "e.npy", tmp_path / "e.parquet"
    code, out, err = flaxmill("embed", bert, "--data", data, "--output", array)
    assert (code, out) == (0, f"4 texts, 30 numbers each, in {array}\n")
    assert "1 of 4 texts are cut to 66 tokens" in err
    assert flaxmill("embed", bert, "--data", data, "--output", table, "--batch-size", 1)[0] == 0
    vectors, columns = np.load(array), parquet.read_table(table)
    assert (vectors.shape, vectors.dtype) == ((4, 30), np.float32)
    assert columns["text"].to_pylist() == TEXTS
    assert columns.schema.field("embedding").type.list_size == 30
    np.testing.assert_allclose(np.array(columns["embedding"].to_pylist()), vectors, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npy", "e.parquet", "texts.txt"]


def test_a_run_gives_the_vectors_of_the_directory_that_it_came_from(bert, data, flaxmill, tmp_path):
    assert flaxmill("import", bert, tmp_path / "run", "--head", "mlm")[0] == 0
    for source, name in ((bert, "a.npy"), (tmp_path / "run", "b.npy")):
        flags = ("--pooling", "weighted_mean", "--normalize")
        assert flaxmill("embed", source, "--data", data, "--output", tmp_path / name, *flags)[0] == 0
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-6)


def test_devices_share_the_rows(bert, data, flaxmill, tmp_path):
    for devices in (1, 4):
        flags = ("--mesh.data", devices, "--output", tmp_path / f"{devices}.npy")
        assert flaxmill("embed", bert, "--data", data, *flags)[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "1.npy"), np.load(tmp_path / "4.npy"), atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--output", "e.npy"), "--data FILE is not given"),
        (("--data", "{data}"), "--output E.npy is not given"),
        (
            ("--data", "{data}", "--output", "none/e.npy"),
            "output=none/e.npy is in none, which is no directory",
        ),
        (("--data", "{data}", "--output", "e.csv"), "suffix '.csv' is not written; use .npy or .parquet"),
        (("--data", "none.txt", "--output", "e.npy"), "--data='none.txt' names no file"),
        (("--data", "{data}", "--output", "e.npy", "--pooling", "first"), "first"),
        (("--data", "{data}", "--output", "e.npy", "--batch-size", 0), "batch_size=0 must be at least 1"),
    ],
)
def test_mistakes_are_one_line(bert, data, flaxmill, tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    given = [str(flag).format(data=data) for flag in flags]
    assert said in refusal(flaxmill("embed", bert, *given))


def test_a_missing_column_is_named_with_those_that_are_there(bert, flaxmill, tmp_path):
    (tmp_path / "a.csv").write_text("title,body\nx,y\n")
    err = refusal(flaxmill("embed", bert, "--data", tmp_path / "a.csv", "--output", tmp_path / "e.npy"))
    assert "it has title, body" in err
    flags = ("--text-column", "body", "--output", tmp_path / "e.npy")
    assert flaxmill("embed", bert, "--data", tmp_path / "a.csv", *flags)[0] == 0


def test_a_file_without_texts_and_a_directory_without_a_model_are_refused(bert, data, flaxmill, tmp_path):
    (tmp_path / "empty.txt").touch()
    flags = ("--output", tmp_path / "e.npy")
    assert "holds no text" in refusal(flaxmill("embed", bert, "--data", tmp_path / "empty.txt", *flags))
    assert "neither a run nor" in refusal(flaxmill("embed", tmp_path, "--data", data, *flags))
