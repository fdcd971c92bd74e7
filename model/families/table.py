"""The families whose files can be read and written, by the model_type of their config.json."""

from flaxmill.model import (
    family_bert,
    family_gpt2,
    family_gpt_neo,
    family_gpt_neox,
    family_llama,
    family_marian,
    family_modernbert,
    family_roberta,
    family_t5,
)
from flaxmill.model.families.description import FamilyDescription

FAMILIES: dict[str, FamilyDescription] = {
    family.model_type: family
    for family in (
        family_bert.DESCRIPTION,
        family_roberta.DESCRIPTION,
        family_modernbert.DESCRIPTION,
        family_gpt2.DESCRIPTION,
        family_gpt_neo.DESCRIPTION,
        family_gpt_neox.DESCRIPTION,
        family_llama.LLAMA,
        family_llama.MISTRAL,
        family_llama.QWEN2,
        family_llama.QWEN3,
        family_t5.DESCRIPTION,
        family_marian.DESCRIPTION,
    )
}
