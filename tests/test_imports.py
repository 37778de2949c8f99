"""The rooms of the package import each other in one direction only (docs/ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "persrep_ray"

# A room may import the rooms of the lines below its line, and those named after it.
LEVELS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"cli": ()},
    {"runs": ()},
    {"serving": (), "report": ()},
    {"evaluate": ("masks",), "train": ("generate", "masks"), "generate": ("masks",), "masks": ()},
    {"registry": (), "tasks": (), "backbones": (), "distributed": ()},
    {"data": ("storage",), "storage": ()},
    {"config": ()},
)


def allowed(room: str) -> set[str]:
    level = next(number for number, rooms in enumerate(LEVELS) if room in rooms)
    below = {name for rooms in LEVELS[level + 1 :] for name in rooms}
    return {room, *LEVELS[level][room], *below}


def room_of(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[str]:
    """The full names of the modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_room_has_its_place() -> None:
    rooms = {room_of(file.relative_to(PACKAGE).parts) for file in FILES}
    assert rooms == {name for level in LEVELS for name in level}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    room = room_of(file.relative_to(PACKAGE).parts)
    used = {name.split(".")[1] for name in imports(file) if name.startswith("persrep_ray.")}
    assert used - {"__version__"} <= allowed(room)


@pytest.mark.parametrize(
    ("folder", "excluded"),
    [("serving/engine", {"ray", "fastapi", "starlette"}), ("serving/http", {"ray"}), ("tasks", {"ray", "torch"})],
)
def test_a_room_does_without_these_packages(folder: str, excluded: set[str]) -> None:
    for file in (PACKAGE / folder).rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(file)} & excluded, file


def test_the_command_line_starts_without_torch_and_ray() -> None:
    """`persrep --help` must not take seconds."""
    code = "import sys, persrep_ray.cli; print(sorted({'torch', 'ray', 'boto3', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
