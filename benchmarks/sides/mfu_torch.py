"""PyTorch's side of mfu.py, which starts it: transformers' GPT-2, LLaMA and BERT, plain and compiled."""

import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from mfu import make_rows, median_seconds, report

from flaxmill.model.config import ModelConfig
from flaxmill.train.experiment import Experiment

_SETTINGS: dict[str, Any] = {"attn_implementation": "sdpa", "use_cache": False}


def measure_torch(case: str, experiment: Experiment, peak: float | None) -> None:
    """transformers' model as it is, then compiled."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    kind = torch.cuda.get_device_name() if cuda else "cpu"
    torch.set_float32_matmul_precision("high")
    rows = {name: torch.from_numpy(value).to(device) for name, value in make_rows(experiment).items()}
    model = make_torch_model(experiment).to(device).train()
    settings = experiment.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=cuda
    )
    loss_of = make_loss(model, rows)
    for side, run_loss in (("torch", loss_of), ("torch compiled", torch.compile(loss_of))):
        losses: list[Any] = []

        def run(steps: int, loss_of: Any = run_loss, losses: list[Any] = losses) -> None:
            for _ in range(steps):
                with torch.autocast(device.type, torch.bfloat16):
                    loss = loss_of()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                losses.append(loss.detach())
            if cuda:
                torch.cuda.synchronize()

        started = time.perf_counter()
        run(1)
        first = time.perf_counter() - started
        seconds = median_seconds(run)
        memory = torch.cuda.max_memory_allocated() if cuda else 0
        notes = {"first_step_seconds": round(first, 1), "torch": torch.__version__}
        notes |= {"transformers": transformers.__version__, "loss": round(float(losses[0]), 4)}
        report(case, side, experiment, seconds, (kind, peak), memory, notes)


def make_torch_model(experiment: Experiment) -> Any:
    """The same shape in transformers, without dropout."""
    config = experiment.model
    if config.positions == "rotary":
        return _make_llama(config)
    if experiment.objective == "causal":
        sizes: dict[str, Any] = dict(
            n_embd=config.embed_dim, n_layer=config.num_layers, n_head=config.num_heads
        )
        sizes |= dict(
            n_positions=config.max_positions, n_inner=config.hidden_dim, vocab_size=config.vocab_size
        )
        dropping = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None)
        shape: Any = transformers.GPT2Config(**sizes, **dropping, **_SETTINGS)
        return transformers.GPT2LMHeadModel(shape)
    if experiment.objective == "seq2seq":
        return _make_encoder_decoder(config)
    sizes = dict(hidden_size=config.embed_dim, num_hidden_layers=config.num_layers)
    sizes |= dict(num_attention_heads=config.num_heads, intermediate_size=config.hidden_dim)
    sizes |= dict(vocab_size=config.vocab_size, max_position_embeddings=config.max_positions)
    dropping = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    if experiment.objective == "classification":
        sizes |= dict(num_labels=config.num_classes)
        shape = transformers.BertConfig(**sizes, **dropping, **_SETTINGS)
        return transformers.BertForSequenceClassification(shape)
    shape = transformers.BertConfig(**sizes, **dropping, **_SETTINGS)
    return transformers.BertForPreTraining(shape)


def _make_llama(config: ModelConfig) -> Any:
    sizes: dict[str, Any] = dict(hidden_size=config.embed_dim, num_hidden_layers=config.num_layers)
    sizes |= dict(num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads)
    sizes |= dict(intermediate_size=config.hidden_dim, vocab_size=config.vocab_size)
    sizes |= dict(max_position_embeddings=config.max_positions, tie_word_embeddings=config.tie_embeddings)
    rotary = {"rope_type": "default", "rope_theta": config.rope_theta}
    shape: Any = transformers.LlamaConfig(**sizes, rope_parameters=rotary, **_SETTINGS)
    return transformers.LlamaForCausalLM(shape)


def _make_encoder_decoder(config: ModelConfig) -> Any:
    """The original Transformer."""
    sizes: dict[str, Any] = dict(d_model=config.embed_dim, vocab_size=config.vocab_size, pad_token_id=0)
    sizes |= dict(encoder_layers=config.encoder_layers, decoder_layers=config.num_layers)
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_attention_heads": config.num_heads, f"{side}_ffn_dim": config.hidden_dim}
    sizes |= dict(
        max_position_embeddings=config.max_positions, scale_embedding=True, decoder_start_token_id=0
    )
    dropping = dict(dropout=0.0, attention_dropout=0.0)
    shape = transformers.MarianConfig(**sizes, **dropping, activation_function="relu", **_SETTINGS)
    return transformers.MarianMTModel(shape)


def make_loss(model: Any, rows: dict[str, Any]) -> Callable[[], torch.Tensor]:
    """The loss of these rows. A BERT's head reads the masked places alone, as flaxmill's does."""
    tokens = rows["tokens"].long()
    if "labels" in rows:
        labels = rows["labels"].long()
        return lambda: model(input_ids=tokens, labels=labels).loss
    if "decoder_tokens" in rows:
        given = {"decoder_input_ids": rows["decoder_tokens"].long(), "labels": rows["targets"].long()}
        return lambda: model(input_ids=tokens, **given).loss
    if "nsp_labels" not in rows:
        return lambda: model(input_ids=tokens, labels=tokens).loss  # it shifts the labels itself
    is_masked, segments, is_random = rows["weights"] > 0, rows["segments"].long(), rows["nsp_labels"].long()
    places_BP = is_masked.nonzero()[:, 1].reshape(len(tokens), -1)  # each row has as many
    targets = rows["targets"].long().gather(1, places_BP).flatten()

    def loss_of() -> torch.Tensor:
        outputs = model.bert(input_ids=tokens, token_type_ids=segments)
        hidden_BTD = outputs.last_hidden_state
        hidden_BPD = hidden_BTD.gather(1, places_BP[..., None].expand(-1, -1, hidden_BTD.shape[-1]))
        words = model.cls.predictions(hidden_BPD).flatten(0, 1)
        next_sentence = model.cls.seq_relationship(outputs.pooler_output)
        cross_entropy = torch.nn.functional.cross_entropy
        return cross_entropy(words.float(), targets) + cross_entropy(next_sentence.float(), is_random)

    return loss_of
