"""Docstrings are sentences about their subject, and nothing refers to documents outside the repository."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
SOURCES = [name for name in TRACKED if name.endswith(".py") and (ROOT / name).is_file()]
#: A clause in place of a noun ("What there is of it"), unless it is a question.
CLAUSE = re.compile(r"(What|How|Whom|Whether|Whose|Which|Of)\b(?![^.]*\?)")
ELSEWHERE = re.compile(r"\bDESIGN\b|asked \(aim\)|\b[Ii]ssue [A-O]\b")


def docstrings(path: Path) -> list[tuple[int, str]]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return [(node.body[0].lineno, text) for node in nodes if isinstance(node, documented) and (text := ast.get_docstring(node))]


@pytest.mark.parametrize("name", SOURCES)
def test_docstrings_begin_with_their_subject(name):
    assert [f"{name}:{line}: {text.splitlines()[0]}" for line, text in docstrings(ROOT / name) if CLAUSE.match(text)] == []


def test_nothing_refers_to_documents_outside_the_repository():
    files = [name for name in TRACKED if Path(name).suffix in {".py", ".md", ".sql", ".toml", ".yaml", ".js"}]
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in files
        if name not in {"CHANGELOG.md", "tests/unit/test_prose.py"}
        if (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text("utf-8").splitlines(), 1)
        if ELSEWHERE.search(line)
    ]
    assert found == []
