"""The shape of the code: who may import whom, and how long files and functions may be."""

import ast
import graphlib
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flaxmill.data.objectives import OBJECTIVE_DATA

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "sharding": set(),
    "data": set(),
    "model": {"sharding"},
    "train": {"model", "sharding", "data"},
    "configs": {"train", "model", "sharding", "data"},
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base"}
JAX_LIBRARIES = {"jax", "jaxlib", "flax", "optax", "orbax", "grain"}

SOURCES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))
ALL_FILES = SOURCES + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").glob("*.py"))
ROOMS = sorted({path.parent for path in SOURCES if path.parent.parent != ROOT})
MAX_ROOM_FILES = 20

_SPEC = importlib.util.spec_from_file_location("make_rooms", ROOT / "docs" / "make_rooms.py")
assert _SPEC is not None
assert _SPEC.loader is not None
make_rooms = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_rooms)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Full dotted names, `from flaxmill import data` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_walk_sees_every_folder():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", ALL_FILES, ids=relative)
def test_imports_point_one_way(path):
    folder = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT.get(folder, set(MAY_IMPORT)) | {folder}
    for module in imported_modules(ast.parse(path.read_text())):
        parts = module.split(".")
        assert parts[0] not in MAY_IMPORT, f"{module}: import flaxmill.{module}"
        if parts[0] == "flaxmill":
            assert parts[1] in allowed, f"{folder}/ must not import {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "data").rglob("*.py")), ids=relative)
def test_data_never_imports_jax(path):
    for module in imported_modules(ast.parse(path.read_text())):
        assert module.split(".")[0] not in JAX_LIBRARIES, module


def test_only_the_command_line_reaches_the_configs():
    outside = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "configs"]
    assert [relative(path) for path in outside if "flaxmill.configs" in path.read_text()] == [
        "train/named_configs.py"
    ]


def test_rooms_are_one_level_deep():
    assert [relative(path) for path in SOURCES if len(path.relative_to(ROOT).parts) > 3] == []


@pytest.mark.parametrize("folder", [ROOT / name for name in MAY_IMPORT] + ROOMS, ids=relative)
def test_a_folder_holds_at_most_twenty_files(folder):
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MAX_ROOM_FILES


@pytest.mark.parametrize("room", ROOMS, ids=relative)
def test_a_room_says_what_it_holds(room):
    text = (room / "__init__.py").read_text()
    said = ast.get_docstring(ast.parse(text)) or ""
    listed = re.findall(r"^(\w+)  ", said, re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in room.glob("*.py") if path.name != "__init__.py")
    for module in imported_modules(ast.parse(text)):
        assert module.rpartition(".")[2].endswith("Config"), f"a room's __init__ imports {module}"


@pytest.mark.parametrize("folder", [ROOT / name for name in MAY_IMPORT if name != "configs"], ids=relative)
def test_a_folder_says_what_it_holds(folder):
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    files = [path.stem for path in folder.glob("*.py") if path.name != "__init__.py"]
    rooms = [f"{room.name}/" for room in ROOMS if room.parent == folder]
    assert sorted(re.findall(r"^(\w+/?)  ", said, re.MULTILINE)) == sorted(files + rooms)


def test_rooms_import_one_way():
    list(graphlib.TopologicalSorter(make_rooms.find_arrows()).static_order())  # CycleError names the circle


def test_the_page_for_contributors_shows_the_rooms_as_they_are():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    made = page.split(make_rooms.START)[1].split(make_rooms.END)[0]
    assert made == make_rooms.draw_rooms(), "run `python docs/make_rooms.py`"
    assert all(relative(room) in page for room in ROOMS)


def test_the_twenty_files_to_begin_with_are_there():
    page = (ROOT / "CONTRIBUTING.md").read_text().split("## Where to begin")[1].split("What the rooms")[0]
    files = re.findall(r"`([\w/]+\.py)`", page)
    assert len(set(files)) == 20
    num_lines = sum(len((ROOT / file).read_text().splitlines()) for file in files)
    assert 3000 < num_lines < 5000


def test_an_objective_is_told_apart_by_its_row():
    """What an objective is stands in two tables, and not in comparisons with its name."""
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and "objective" in ast.unparse(node)
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant) and constant.value in OBJECTIVE_DATA
    ]
    assert len(found) <= 15, found


def test_files_are_named_for_what_they_contain():
    assert [relative(path) for path in ALL_FILES if path.stem in BANNED_NAMES] == []


@pytest.mark.parametrize("path", ALL_FILES, ids=relative)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_open_with_what_they_are_for(path):
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text))


def test_every_folder_is_in_the_wheel():
    with (ROOT / "pyproject.toml").open("rb") as file:
        setuptools = tomllib.load(file)["tool"]["setuptools"]
    packages = sorted({path.parent for path in SOURCES})
    assert sorted(setuptools["packages"]) == sorted(
        f"flaxmill.{relative(package).replace('/', '.')}" for package in packages
    )
    assert setuptools["package-dir"] == {f"flaxmill.{folder}": folder for folder in MAY_IMPORT}


def commands_in(page: Path) -> list[str]:
    """Command lines of the indented or fenced blocks and of the inline code of a Markdown page."""
    text = page.read_text()
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line for block in blocks for line in block.splitlines()] + inline
    return [line.strip().removeprefix("$ ") for line in lines]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_commands_that_a_page_names_exist(page):
    from flaxmill.train.command_line import COMMANDS
    from flaxmill.train.named_configs import list_configs

    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = commands_in(ROOT / page)
    assert any(line.startswith("make test") for line in commands)
    for line in commands:
        words = line.split()
        if words[:1] == ["make"] and len(words) > 1:
            assert words[1] in targets, line
        if words[:1] == ["flaxmill"] and len(words) > 1:
            assert words[1] in {*COMMANDS, "COMMAND", "--help", "--version"}, line
            config = words[2] if words[1] == "train" and len(words) > 2 else ""
            assert not re.fullmatch(r"[a-z]\w+", config) or config in list_configs(), line
