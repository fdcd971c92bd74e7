"""PyTorch's side of parity: a Hugging Face directory's outputs, loss, gradients and AdamW steps."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxmill.train.optimizer.optimizers import OptimizerConfig
from flaxmill.train.parity.batches import ParityBatch

Precision = Literal["float32", "float64", "bfloat16"]
Arrays = dict[str, np.ndarray]


class Measured(NamedTuple):
    """What one side computes of one batch."""

    outputs: Arrays
    """`hidden`, `encoder_hidden`, and logits of tokens: [n, ...] at the real places; others [B, ...]."""
    loss: float
    gradients: Arrays
    """By the name that the file gives the parameter, in torch's layout."""


def load_reference(directory: Path, architecture: str, precision: Precision) -> Any:
    """The torch model of a Hugging Face directory: eager attention and experts, no dropout, on the CPU.

    Args:
      architecture: a class of transformers, as config.json names it.

    Raises:
      ValueError: torch or transformers is not installed, or transformers has no such class.
    """
    torch, transformers = _import()
    if not hasattr(transformers, architecture):
        raise ValueError(
            f"architectures={architecture} is unknown to transformers {transformers.__version__}; "
            "name a class of transformers in config.json"
        )
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with _arithmetic(precision):
        model = getattr(transformers, architecture).from_pretrained(
            directory,
            attn_implementation="eager",
            experts_implementation="eager",  # the others want widths of whole 16 bytes
            dtype=getattr(torch, precision),
            local_files_only=True,
        )
    for name, weight in model.named_parameters():
        # Marian's tables of sinusoids are frozen where they are made, but not once they are loaded.
        if name in (model._keys_to_ignore_on_save or ()):
            weight.requires_grad_(False)
    return model.eval()


def versions() -> dict[str, str]:
    """The versions of torch and transformers. Raises ValueError where one is not installed."""
    return {module.__name__: module.__version__ for module in _import()}


def measure_reference(model: Any, batch: ParityBatch, *, gradients: bool = True) -> Measured:
    """Outputs, loss and gradients; a parameter that the loss does not reach has gradient zero."""
    torch, _ = _import()
    model.zero_grad()
    with _arithmetic(_precision(model)), torch.set_grad_enabled(gradients):
        outputs, loss = _run(model, batch)
        if gradients:
            loss.backward()
    grads = {}
    if gradients:
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        grads = {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad
            for name, weight in trained.items()
        }
    return Measured(
        {name: _numpy(value) for name, value in outputs.items()}, loss.item(), _as_stored(model, grads)
    )


def train_reference(
    model: Any, batch: ParityBatch, optimizer: OptimizerConfig, num_steps: int
) -> Iterator[float]:
    """Train `model` in place by AdamW at a constant learning rate; yields the loss before each step.

    Norms' scales and all biases do not decay; gradients are clipped by their global norm.
    """
    step = make_reference_step(model, optimizer)
    for _ in range(num_steps):
        yield step(batch, optimizer.learning_rate)


def make_reference_step(model: Any, optimizer: OptimizerConfig) -> Any:
    """(batch, learning rate) -> loss before the step, which changes `model` in place."""
    torch, _ = _import()
    assert optimizer.name == "adamw"
    assert optimizer.bias_correction
    assert optimizer.clip_norm is not None
    clip_norm = optimizer.clip_norm
    torch_optimizer = torch.optim.AdamW(
        _groups(model, optimizer.weight_decay),
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.epsilon,
    )

    def step(batch: ParityBatch, learning_rate: float) -> float:
        for group in torch_optimizer.param_groups:
            group["lr"] = learning_rate
        torch_optimizer.zero_grad()
        with _arithmetic(_precision(model)):
            _, loss = _run(model, batch)
            loss.backward()
        _clip_gradients(model, clip_norm)
        torch_optimizer.step()
        return loss.item()

    return step


def reference_parameters(model: Any) -> Arrays:
    """The trained parameters, by the name that a file gives them."""
    return _as_stored(
        model, {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    )


def _import() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ValueError(
            f"parity needs PyTorch and transformers, and {error.name} is not installed; "
            "run: pip install 'flaxmill[parity]'"
        ) from None
    return torch, transformers


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: what decays, and biases and norms' scales, which do not."""
    torch, _ = _import()
    spared = {
        id(weight)
        for module in model.modules()
        for name, weight in module.named_parameters(recurse=False)
        if name.endswith("bias") or (weight.ndim == 1 and not isinstance(module, torch.nn.Linear))
    }
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return [
        {"params": [w for w in trained if id(w) not in spared], "weight_decay": weight_decay},
        {"params": [w for w in trained if id(w) in spared], "weight_decay": 0.0},
    ]


def _clip_gradients(model: Any, clip_norm: float) -> None:
    """Clip as flaxmill does. torch's own clip_grad_norm_ divides by the norm + 1e-6: two otherwise equal
    programs would differ by a millionth of each gradient, which is more than float64 rounds."""
    torch, _ = _import()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    scale = (clip_norm / torch.nn.utils.get_total_norm(gradients)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


def _run(model: Any, batch: ParityBatch) -> tuple[dict[str, Any], Any]:
    """The outputs that `Measured` has, as tensors, and the loss."""
    torch, _ = _import()
    inputs = {name: torch.from_numpy(value) for name, value in batch.theirs.items()}
    if batch.name != "full":
        # transformers' loss of an answer's ends counts padding among the places; see `_answer_loss`.
        inputs = {name: value for name, value in inputs.items() if not name.endswith("_positions")}
    distance_to = inputs.pop("distance_to", None)
    _forget_lengths(model)
    with _hidden_states(model) as hidden:
        found = model(**inputs)
    outputs: dict[str, Any] = {"hidden": hidden["body"][batch.places.theirs]}
    if batch.encoder_places is not None:
        outputs["encoder_hidden"] = hidden["encoder"][batch.encoder_places.theirs]
    names = {
        "seq_relationship_logits": "nsp_logits",
        "prediction_logits": "logits",
        "pooler_output": "pooled",
    }
    for name in ("logits", "prediction_logits", "seq_relationship_logits", "start_logits", "end_logits"):
        if found.get(name) is not None:
            value = found[name]
            of_tokens = value.shape[:2] == hidden["body"].shape[:2]
            outputs[names.get(name, name)] = value[batch.places.theirs] if of_tokens else value
    if found.get("pooler_output") is not None:
        outputs["pooled"] = found["pooler_output"]
    loss = found.get("loss")
    if distance_to is not None:
        loss = _distance(hidden["body"], distance_to, batch.places.theirs, found.get("pooler_output"))
    return outputs, _answer_loss(found, batch) if loss is None else loss


def _forget_lengths(model: Any) -> None:
    """Run one token: rotary positions that stretch with the length keep to the longest row that they have
    seen, until they see a row that is shorter than the original length."""
    torch, _ = _import()
    if "dynamic" in str(getattr(model.config, "rope_parameters", None)):
        with torch.no_grad():
            model(input_ids=torch.ones(1, 1, dtype=torch.int64))


def _answer_loss(found: Any, batch: ParityBatch) -> Any:
    """The loss of an answer's start and end among a row's real places; transformers counts padding too."""
    torch, _ = _import()
    padding = torch.from_numpy(batch.theirs["attention_mask"]) == 0
    total = 0.0
    for end in ("start", "end"):
        logits = found[f"{end}_logits"].masked_fill(padding, -torch.inf)
        labels = torch.from_numpy(batch.theirs[f"{end}_positions"])
        total = total + torch.nn.functional.cross_entropy(logits, labels) / 2
    return total


def _distance(hidden: Any, distance_to: Any, places: Any, pooled: Any) -> Any:
    """transformers has no loss for a model without a head; see `parity_loss`."""
    rows, columns = places
    difference = hidden[rows, columns] - distance_to[rows, columns].to(hidden.dtype)
    loss = difference.square().mean() / 2
    return loss if pooled is None else loss + pooled.square().mean() / 2


@contextmanager
def _hidden_states(model: Any) -> Iterator[dict[str, Any]]:
    """Catch what the body hands to the head: `body`, and `encoder` of an encoder-decoder."""
    body = model.base_model
    modules = {"body": getattr(body, "decoder", body) if model.config.is_encoder_decoder else body}
    if model.config.is_encoder_decoder:
        modules["encoder"] = body.encoder
    caught: dict[str, Any] = {}

    def catch(name: str) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            caught[name] = output[0]

        return hook

    handles = [module.register_forward_hook(catch(name)) for name, module in modules.items()]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _as_stored(model: Any, tensors: Mapping[str, Any]) -> Arrays:
    """The tensors under the names that save_pretrained would write: a few differ from the modules'."""
    from transformers.core_model_loading import revert_weight_conversion

    return {name: _numpy(value) for name, value in revert_weight_conversion(model, dict(tensors)).items()}


def _numpy(value: Any) -> np.ndarray:
    torch, _ = _import()
    wide = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
    return wide.numpy().copy()


def _precision(model: Any) -> Precision:
    return str(model.dtype).removeprefix("torch.")  # type: ignore[return-value]


def _arithmetic(precision: Precision) -> AbstractContextManager[Any]:
    return _all_in_float64() if precision == "float64" else nullcontext()


def _all_in_float64() -> AbstractContextManager[Any]:
    """A float64 model computes softmax, norms, rotary angles and losses in float32; here in float64 too."""
    torch, _ = _import()
    from torch.overrides import TorchFunctionMode

    def widen(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value

    class AllInFloat64(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # Tables of whole numbers stay float32: T5's buckets of distances are rounded from its logarithms.
            # LongRoPE's powers of theta begin with a row of whole numbers.
            if func is torch.Tensor.float and (args[0].is_floating_point() or args[0].ndim == 1):
                func = torch.Tensor.double
            widened = {name: widen(value) for name, value in (kwargs or {}).items()}
            return func(*map(widen, args), **widened)

    @contextmanager
    def mode() -> Iterator[None]:
        usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # for whole numbers that are divided
        try:
            with AllInFloat64():
                yield
        finally:
            torch.set_default_dtype(usual)

    return mode()
