"""What XLA is told beyond its defaults, for each platform: what `train` runs and what `plan` compiles."""

from collections.abc import Mapping

CompilerOptions = dict[str, bool | int | str]

_OPTIONS: Mapping[str, CompilerOptions] = {
    # Left alone, XLA turns gathers of small weights into rings of permutes between pieces of a product. GPT-2
    # over 16 devices then has 7,128 permutes a step, of slices that are too narrow for the matrix unit.
    "tpu": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000},
    "gpu": {},
    "cpu": {},
}


def compiler_options(platform: str) -> CompilerOptions:
    """The options of `jax.jit(..., compiler_options=)` on a platform: tpu, gpu or cpu."""
    return dict(_OPTIONS[platform])
