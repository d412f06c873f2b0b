"""Rules on imports between packages and wings. The syntax trees are walked, so that an import inside a function counts too."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Packages of `citybeat`, by folder; each with those that it may import.
PACKAGES = {
    "devices": set(),
    "stack": set(),
    "storage": {"devices"},
    "simulator": {"devices"},
    "dashboards": {"devices"},
    "ingest": {"devices", "storage"},
    "api": {"devices", "storage"},
    "citybeat": {"devices", "stack", "storage", "simulator", "dashboards", "ingest", "api"},
}
#: Wings of packages, each with the wings that it may import; "" is what stands at the top of the package. In most packages that is
#: the composition, which no wing may import; in devices, and beside commands, it is what the wings share.
WINGS = {
    "devices": {"": set(), "wire": {""}, "registry": {""}},
    "ingest": {"judging": set(), "transport": {"judging"}, "writing": {"judging"}, "": {"judging", "transport", "writing"}},
    "storage": {
        "db": set(),
        "registry": {"db"},
        "rollups": {"db", "registry"},
        "batches": {"db", "registry", "rollups"},
        "accounts": {"db", "registry", "rollups", "batches"},
        "reads": {"db", "registry", "rollups", "batches"},
        "": {"db", "registry", "rollups", "batches", "accounts", "reads"},
    },
    "api": {
        "http": set(),
        "series": {"http"},
        "files": {"http", "series"},
        "live": {"http", "series"},
        "console": {"http"},
        "routes": {"http", "series", "files", "live"},
        "": {"http", "series", "files", "live", "console", "routes"},
    },
    "simulator": {
        "": {"city", "faults", "load"},
        "city": {""},
        "faults": {"", "city"},
        "load": {""},
        "replay": {""},
        "score": {"", "faults"},
    },
}
#: Where a package may be imported: a folder, or one file of it.
ONLY_IN = {
    "psycopg": ["storage"],
    "psycopg_pool": ["storage"],
    "paho": ["ingest/transport/gateway.py"],
    "fastapi": ["api"],
    "fastapi_offline": ["api"],
    "starlette": ["api"],
    "pyarrow": ["api/files/tables.py", "api/files/uploads.py", "simulator/faults/truth.py", "simulator/score/truthfile.py"],
    "uvicorn": ["citybeat"],
    "typer": ["citybeat"],
    "rich": ["citybeat"],
    "grafana_client": ["dashboards/publish.py"],
    "grafana_foundation_sdk": ["dashboards"],
    "yaml": ["simulator"],
    "prometheus_client": ["ingest/transport/metrics.py", "api"],
    "structlog": ["citybeat/logs.py"],
}
#: Core modules: no I/O, no clock, no environment.
PURE = [
    *(ROOT / "devices").rglob("*.py"),
    *(ROOT / "ingest/judging").glob("*.py"),
    ROOT / "ingest/transport/partition_states.py",
    ROOT / "storage/db/pgcopy.py",
    ROOT / "storage/db/packed_rows.py",
    ROOT / "api/series/aggregates.py",
    ROOT / "api/series/fill.py",
    ROOT / "api/series/plan.py",
    ROOT / "simulator/scenario.py",
    *(
        path
        for wing in ("city", "faults", "load", "score")
        for path in (ROOT / "simulator" / wing).glob("*.py")
        if path.name not in {"generator.py", "link.py", "parts.py", "truth.py", "truthfile.py"}  # shells
    ),
    ROOT / "citybeat/report.py",
]
IMPURE_MODULES = {
    "os",
    "io",
    "socket",
    "time",
    "subprocess",
    "pathlib",
    "logging",
    "sqlite3",
    "threading",
    "asyncio",
    "http",
    "urllib",
}
IMPURE_CALLS = {"open", "print", "input", "now", "utcnow", "today", "getenv"}


def modules() -> list[Path]:
    """Files of the packages, each once: the links in citybeat/ lead to the folders beside it."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if not leads_elsewhere(path))


def leads_elsewhere(path: Path) -> bool:
    return path.resolve() != path


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports: `from a import b` gives `a.b`, whether b is a module or not."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(imported: str) -> str | None:
    """The package of ours that an imported name belongs to."""
    first, _, rest = imported.partition(".")
    if first != "citybeat":
        return None
    second = rest.partition(".")[0]
    return second if second in PACKAGES else "citybeat"


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_check():
    found = {path.relative_to(ROOT).parts[0] for path in modules()}
    assert found == set(PACKAGES)


def test_every_folder_is_linked_into_the_one_package():
    links = {path.name: path.readlink().as_posix() for path in (ROOT / "citybeat").iterdir() if path.is_symlink()}
    assert links == {folder: f"../{folder}" for folder in PACKAGES if folder != "citybeat"}


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in (*PACKAGES, "bench", "tests") for path in (ROOT / folder).rglob("*.py") if not leads_elsewhere(path)),
    ids=name,
)
def test_nothing_is_imported_by_the_name_of_its_folder(path):
    """`import api` would work in the checkout only, and be somebody else's `api` elsewhere."""
    assert not {imported.split(".")[0] for imported in imports(path)} & (set(PACKAGES) - {"citybeat"})


@pytest.mark.parametrize("path", modules(), ids=name)
def test_packages_import_only_what_they_may(path):
    own = path.relative_to(ROOT).parts[0]
    ours = {package(imported) for imported in imports(path)} - {None}
    assert ours <= PACKAGES[own] | {own}


def wing(package: str, imported: str) -> str | None:
    """The wing that an imported name of `citybeat.{package}` belongs to; None: it is of another package."""
    parts = imported.split(".")
    if parts[:2] != ["citybeat", package]:
        return None
    return parts[2] if len(parts) > 2 and (ROOT / package / parts[2]).is_dir() else ""


def arrows(package: str) -> set[tuple[str, str]]:
    found = set()
    for path in modules():
        own, *rest = path.relative_to(ROOT).parts
        if own == package:
            home = rest[0] if len(rest) > 1 else ""
            found |= {(home, to) for to in (wing(package, imported) for imported in imports(path)) if to not in {None, home}}
    return found


@pytest.mark.parametrize("package", WINGS)
def test_wings_import_only_what_they_may(package):
    assert arrows(package) <= {(wing, allowed) for wing, others in WINGS[package].items() for allowed in others}


@pytest.mark.parametrize("package", [package for package in WINGS if package != "simulator"])
def test_no_wing_leads_back_to_itself(package):
    behind: dict[str, set[str]] = {wing: set() for wing in WINGS[package]}
    for _ in behind:  # as many steps as a longest way may have
        for home, to in arrows(package):
            behind[home] |= {to} | behind[to]
    assert not [wing for wing, reached in behind.items() if wing in reached]


@pytest.mark.parametrize("path", modules(), ids=name)
def test_libraries_stay_in_their_packages(path):
    for imported in imports(path):
        places = ONLY_IN.get(imported.split(".")[0])
        assert places is None or any(name(path) == place or name(path).startswith(f"{place}/") for place in places), imported


@pytest.mark.parametrize("path", [path for path in modules() if path.relative_to(ROOT).parts[0] == "stack"], ids=name)
def test_stack_needs_the_standard_library_only(path):
    outside = {imported.split(".")[0] for imported in imports(path)} - set(sys.stdlib_module_names) - {"citybeat"}
    assert not outside


@pytest.mark.parametrize("path", PURE, ids=name)
def test_the_core_does_no_io_and_reads_no_clock(path):
    assert not {imported.split(".")[0] for imported in imports(path)} & IMPURE_MODULES
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert called not in IMPURE_CALLS, f"line {node.lineno}: {called}()"


STATEMENT = re.compile(
    r"\s*(SELECT\s+[\w*%(]|INSERT INTO\b|UPDATE \w+ SET\b|DELETE FROM\b|CREATE (TABLE|INDEX|EXTENSION|TEMP)|"
    r"COPY (\(|\w+ [(TF])|TRUNCATE \w|LISTEN \w)"
)


def test_sql_stands_in_files():
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.relative_to(ROOT).parts[0] != "dashboards":
                assert not STATEMENT.match(node.value), f"{name(path)}:{node.lineno}"


def test_ingest_carries_neither_a_web_server_nor_arrow():
    """A process of 70 MB, not 170; `citybeat.lazy` says which commands are imported when they are called."""
    asked = "import sys, citybeat.cli, citybeat.commands.ingesting; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {
        "fastapi",
        "uvicorn",
        "pyarrow",
        "pandas",
        "yaml",
        "grafana_client",
        "plotly",
        "citybeat.api.app",
        "citybeat.simulator.city.layout",
    }
