"""The tree keeps its shape: tests share code through helpers, and imports are at the top of modules."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_no_test_imports_a_test() -> None:
    found = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and ".test_" in f".{node.module}":
                found.append(f"{path.relative_to(ROOT)} imports {node.module}")
    assert not found


def test_the_package_imports_itself_at_the_top_of_modules() -> None:
    """An import inside a function would hide a circle from the reader."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("surgvivqa"):
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {node.module}")
    assert not found
