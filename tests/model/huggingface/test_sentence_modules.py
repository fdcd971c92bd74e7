"""The files of a sentence-transformers directory are read as that library reads them, or refused."""

import json

import pytest

from flaxmill.model.huggingface.sentence_modules import DenseModule, SentenceModules, read_sentence_modules

OLD, NEW = "sentence_transformers.models", "sentence_transformers.sentence_transformer.modules.pooling"
BODY, POOLING = (f"{OLD}.Transformer", ""), (f"{OLD}.Pooling", "1_Pooling")
NORMALIZE = (f"{OLD}.Normalize", "2_Normalize")


@pytest.fixture
def write(tmp_path):
    """Writes modules.json of (type, path), and further JSON files by their names."""

    def write(*modules, **files):
        entries = [
            {"idx": n, "name": str(n), "type": kind, "path": path} for n, (kind, path) in enumerate(modules)
        ]
        (tmp_path / "modules.json").write_text(json.dumps(entries))
        for name, values in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".json").write_text(json.dumps(values))
        return tmp_path

    return write


def refusal(directory):
    with pytest.raises(ValueError, match=r"\w") as error:
        read_sentence_modules(directory)
    return str(error.value)


def test_another_directory_says_nothing(tmp_path):
    assert read_sentence_modules(tmp_path) == SentenceModules(tmp_path)


def test_all_files_are_followed(write):
    directory = write(
        ("sentence_transformers.base.modules.transformer.Transformer", "0_Transformer"),
        (f"{NEW}.Pooling", "1_Pooling"),
        (f"{OLD}.Dense", "2_Dense"),
        (f"{OLD}.Normalize", "3_Normalize"),
        **{
            "0_Transformer__sentence_bert_config": {"max_seq_length": 77, "do_lower_case": True},
            "1_Pooling__config": {"pooling_mode": ["cls", "mean_sqrt_len_tokens"]},
            "2_Dense__config": {"activation_function": "torch.nn.modules.linear.Identity"},
            "config_sentence_transformers": {
                "prompts": {"query": "query: "},
                "default_prompt_name": "query",
            },
        },
    )
    assert read_sentence_modules(directory) == SentenceModules(
        body=directory / "0_Transformer",
        poolings=("cls", "mean_sqrt_len"),
        after=(DenseModule(directory / "2_Dense", "Identity"), "normalize"),
        max_length=77,
        lowercase=True,
        prompt="query: ",
    )


@pytest.mark.parametrize(
    ("values", "poolings"),
    [
        ({}, ("mean",)),
        ({"pooling_mode_lasttoken": True}, ("last",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode": "weightedmean", "pooling_mode_cls_token": True}, ("weighted_mean",)),
    ],
)
def test_poolings_have_old_names_and_new_ones(write, values, poolings):
    assert read_sentence_modules(write(BODY, POOLING, **{"1_Pooling__config": values})).poolings == poolings


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ([(f"{OLD}.StaticEmbedding", "")], "begins with a module StaticEmbedding"),
        ([BODY], "has no Pooling"),
        ([BODY, (f"{OLD}.WordWeights", ""), POOLING], "a module WordWeights after 0 others"),
        ([BODY, POOLING, NORMALIZE, (f"{OLD}.LayerNorm", "3")], "a module LayerNorm after 2 others"),
        ([BODY, (f"{OLD}.Pooling", "../elsewhere")], "'../elsewhere', outside its directory"),
        ([], "lists no modules"),
    ],
)
def test_other_modules_are_refused(write, modules, said):
    assert said in refusal(write(*modules, **{"1_Pooling__config": {}}))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"1_Pooling__config": {"pooling_mode": "median"}}, "pooling_mode='median' is not known; use cls"),
        ({"1_Pooling__config": {"include_prompt": False}}, "include_prompt=false"),
        ({"sentence_bert_config": {"max_seq_length": 0}}, "max_seq_length=0 must be"),
        (
            {"config_sentence_transformers": {"default_prompt_name": "q"}},
            "default_prompt_name='q' names none",
        ),
        (
            {"2_Dense__config": {"activation_function": "torch.nn.Softmax"}},
            "'torch.nn.Softmax' is not supported",
        ),
        ({"2_Dense__config": {"use_residual": True}}, "use_residual=True is not supported"),
    ],
)
def test_settings_that_change_the_vectors_are_refused(write, files, said):
    files = {"1_Pooling__config": {}, "2_Dense__config": {}} | files
    assert said in refusal(write(BODY, POOLING, (f"{OLD}.Dense", "2_Dense"), **files))


def test_a_torn_file_is_one_line(write):
    directory = write(BODY)
    (directory / "modules.json").write_text('[{"type":')
    assert "is not JSON" in refusal(directory)
