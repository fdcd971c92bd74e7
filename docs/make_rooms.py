"""Draws into CONTRIBUTING.md which rooms import which, from the imports themselves.

python docs/make_rooms.py
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
START, END = "<!-- made: rooms -->\n", "<!-- end: rooms -->"
FOLDERS = ("sharding", "data", "model", "train")

Arrows = dict[str, set[str]]


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    PAGE.write_text(before + START + draw_rooms() + END + rest.split(END)[1], encoding="utf-8")


def draw_rooms() -> str:
    """A line for each room, below the rooms that it imports; what an imported room imports is left out."""
    arrows = rooms_alone(find_arrows())
    reachable: Arrows = {}
    for room in graphlib.TopologicalSorter(arrows).static_order():
        reachable[room] = set().union(*({other} | reachable[other] for other in arrows[room]))
    lines = []
    for folder in FOLDERS:
        rooms = [room for room in reachable if room.startswith(f"{folder}/")]
        for room in sorted(rooms, key=lambda room: (_depth(room, arrows), room)):
            through = set().union(*(reachable[other] for other in arrows[room]))
            nearest = ", ".join(sorted(arrows[room] - through))
            lines.append(f"{room:22} -> {nearest}" if nearest else room)
        lines.append("")
    return "```\n" + "\n".join(lines).rstrip("\n") + "\n```\n"


def rooms_alone(arrows: Arrows) -> Arrows:
    """The arrows between rooms; an import by way of a file outside of rooms counts."""
    reached: Arrows = {}
    for node in graphlib.TopologicalSorter(arrows).static_order():
        direct = arrows[node]
        outside = [reached[other] for other in direct if "/" not in other or not _is_room(other)]
        reached[node] = {other for other in direct if _is_room(other)}.union(*outside)
    return {node: others for node, others in reached.items() if _is_room(node)}


def find_arrows() -> Arrows:
    """{node: the nodes that it imports}. A room is a node, and so is each file in a folder itself."""
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    sources = [path for path in sources if path.name != "__init__.py"]
    nodes = {_module(path): node_of(path) for path in sources}
    arrows: Arrows = {node: set() for node in nodes.values()}
    for path in sources:
        own = node_of(path)
        for name in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
            module = name.removeprefix("flaxmill.")
            target = nodes.get(module) or nodes.get(module.rpartition(".")[0])
            if target not in (None, own):
                arrows[own].add(target)
    return arrows


def node_of(path: Path) -> str:
    """`train/checkpoint` for a file of that room, `train/loop` for a file outside of rooms."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "/".join(parts[:2])


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, and every name that it imports from one, as module.name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _is_room(node: str) -> bool:
    return (ROOT / node).is_dir()


def _depth(room: str, arrows: Arrows) -> int:
    """How many rooms of its own folder are below it, in the longest chain of imports."""
    folder = room.partition("/")[0]
    below = [other for other in arrows[room] if other.startswith(f"{folder}/")]
    return 1 + max((_depth(other, arrows) for other in below), default=-1)


if __name__ == "__main__":
    main()
