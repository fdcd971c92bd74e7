"""Tensors that several families name the same way: norms, linear layers, and a decoder's heads."""

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.stored_tensors import StoredTensor, TensorMap


def norm_tensors(path: str, name: str, has_bias: bool = True) -> TensorMap:
    scale = {f"{path}/scale": StoredTensor(f"{name}.weight")}
    return scale | ({f"{path}/bias": StoredTensor(f"{name}.bias")} if has_bias else {})


def linear_tensors(path: str, name: str, has_bias: bool = True) -> TensorMap:
    """The tensors of a torch Linear, which stores [out, in]."""
    kernel = {f"{path}/kernel": StoredTensor(f"{name}.weight", transposed=True)}
    return kernel | ({f"{path}/bias": StoredTensor(f"{name}.bias")} if has_bias else {})


def fused_tensors(paths: tuple[str, ...], name: str, has_bias: bool, interleaved: bool = False) -> TensorMap:
    """One torch Linear with the outputs of several layers, one after the other or head by head."""
    tensors: TensorMap = {}
    for part, path in enumerate(paths):
        place = {"part": part, "parts": len(paths), "interleaved": interleaved}
        tensors[f"{path}/kernel"] = StoredTensor(f"{name}.weight", transposed=True, **place)
        if has_bias:
            tensors[f"{path}/bias"] = StoredTensor(f"{name}.bias", **place)
    return tensors


def head_tensors(config: ModelConfig, *, lm: str, tokens: str) -> TensorMap:
    """The head's tensors; `lm`, `tokens`: a family's names for the output matrix and the token classifier."""
    match config.head:
        case "lm":
            # [vocabulary, width] on both sides, like an embedding.
            return {} if config.tie_embeddings else {"lm_head/kernel": StoredTensor(f"{lm}.weight")}
        case "classification":
            return linear_tensors("classifier", "score", has_bias=False)
        case "token_classification":
            return linear_tensors("classifier", tokens)
        case "qa":
            return linear_tensors("classifier", "qa_outputs")
    return {}
