"""The families whose files can be read and written, by the model_type of their config.json."""

from flaxmill.model.families import (
    bert,
    gpt2,
    gpt_neo,
    gpt_neox,
    llama,
    marian,
    modernbert,
    roberta,
    t5,
)
from flaxmill.model.families.description import FamilyDescription

FAMILIES: dict[str, FamilyDescription] = {
    family.model_type: family
    for family in (
        bert.DESCRIPTION,
        roberta.DESCRIPTION,
        modernbert.DESCRIPTION,
        gpt2.DESCRIPTION,
        gpt_neo.DESCRIPTION,
        gpt_neox.DESCRIPTION,
        llama.LLAMA,
        llama.MISTRAL,
        llama.QWEN2,
        llama.QWEN3,
        llama.MIXTRAL,
        llama.QWEN3_MOE,
        t5.DESCRIPTION,
        marian.DESCRIPTION,
    )
}
