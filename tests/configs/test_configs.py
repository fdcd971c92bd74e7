"""The named experiments: exact architectures, and files that say what they are."""

import ast
import dataclasses
from pathlib import Path

import pytest

from flaxmill.data.objectives import CHAT_TOKENS, SENTINELS
from flaxmill.model import count_params
from flaxmill.train.experiment import Experiment, flatten
from flaxmill.train.named_configs import list_configs, load_config
from flaxmill.train.resolution import resolve

FILES = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("[a-z]*.py"))


class Specials:
    """A tokenizer that has every special token and as many ids as the model of a config."""

    mask_id, cls_id, sep_id, closing_id = 1, 2, 3, 4
    added_names = frozenset((*SENTINELS, *CHAT_TOKENS))
    chat_template = None

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size


def resolved(name: str) -> Experiment:
    config = load_config(name)
    return resolve(config, Specials(config.model.vocab_size or config.data.vocab_size))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("gpt2_124m", 124_439_808),
        ("bert_base", 110_106_428),
        ("bert_large", 336_226_108),
        ("llama3_8b", 8_030_261_248),
        ("llama3_70b", 70_553_706_496),
        ("llama31_405b", 405_853_388_800),
        ("mixtral_8x7b", 46_702_792_704),  # 46.7B
        ("qwen3_30b_a3b", 30_532_122_624),  # 30.5B
    ],
)
def test_published_models_have_the_published_number_of_parameters(name, num_params):
    assert count_params(resolved(name).model) == num_params


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("mixtral_8x7b", 12_879_925_248),  # published as 12.9B
        ("qwen3_30b_a3b", 3_353_032_704),  # published as 3.3B
        ("llama3_8b", 8_030_261_248),
    ],
)
def test_a_token_goes_through_the_published_number_of_parameters(name, num_params):
    assert count_params(resolved(name).model, active=True) == num_params


@pytest.mark.parametrize(
    ("name", "layers", "depth"),
    [
        ("medium", (24, 1024, 16), 354_823_168),
        ("large", (36, 1280, 20), 774_030_080),
        ("xl", (48, 1600, 25), 1_557_611_200),
    ],
)
def test_larger_gpt2_models_are_gpt2_with_other_sizes(name, layers, depth):
    num_layers, embed_dim, num_heads = layers
    model = dataclasses.replace(
        resolved("gpt2_124m").model, num_layers=num_layers, embed_dim=embed_dim, num_heads=num_heads
    )
    assert count_params(model) == depth


@pytest.mark.parametrize("name", list_configs())
def test_parts_of_every_config_agree(name):
    assert resolved(name).name == name


@pytest.mark.parametrize("name", list_configs())
def test_batches_divide_over_eight_devices(name):
    config = load_config(name)
    assert config.batch_size % (8 * config.accumulate) == 0


@pytest.mark.parametrize("name", [name for name in list_configs() if "tiny" in name])
def test_tiny_configs_need_nothing_from_outside(name):
    flat = flatten(load_config(name))
    assert flat["data.files"] == ()
    assert flat["data.tokenizer"] in ("bpe", "wordpiece", "bytes")
    assert flat["model.dtype"] == "float32"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_open_with_purpose_command_cost_and_expected_result(path):
    lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
    assert lines[0].endswith(".")
    words = [line.split(":")[0] for line in lines[2:] if line[:1].strip()]
    assert words == ["Command", "Cost", "Expected"]
    command = next(line for line in lines if line.startswith("Command"))
    assert f"flaxmill train {path.stem}" in command or path.stem == "gpt_tiny"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_short(path):
    assert path.read_text().count("\n") <= 45
