"""A conversation about a definition: what it does, how it is defined, and what it belongs to."""

from flaxmill.data.embedded_tasks.areas import area_of
from flaxmill.data.embedded_tasks.definitions import Definition
from flaxmill.data.embedded_tasks.docstrings import sum_up

_SYSTEM = "You answer questions about the standard library of Python."
_MOST_HEADER = 120  # characters


def ask_about(definition: Definition, *, has_system: bool) -> list[dict[str, str]]:
    """Its messages, with or without the system's; none where its docstring has no summary."""
    if (summed_up := sum_up(definition)) is None:
        return []
    name = definition.identity.partition(":")[2]
    asked = f"What is {name}?" if definition.is_class else f"What does {name} do?"
    turns = [(f"{asked} It is in {definition.module}.", summed_up[1])]
    if len(definition.header) <= _MOST_HEADER:
        turns.append(("How is it defined?", definition.header))
    if area := area_of(definition.module):
        turns.append(("What is its module about?", f"About {area}."))
    messages = [{"role": "system", "content": _SYSTEM}] if has_system else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages
