"""The private root: Debian 13 packages of the servers, unpacked into a directory without touching the system.

Only its `usr/` is used. Unpacking runs no scripts of packages (mmdebstrap's `extract` variant), so any user can do it. The root is
a cache: it can be deleted at any time while no server runs from it.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from citybeat.stack import lock
from citybeat.stack.errors import RootBuildError, ToolMissingError
from citybeat.stack.model import Say

SUITE = "trixie"
# dash and coreutils, because initdb and psql call a shell; all other packages come as dependencies.
PACKAGES = ("postgresql-17-timescaledb", "mosquitto", "dash", "coreutils")
# Increase it when the recipe below changes in a way that the constants do not show.
RECIPE = 1
# Not needed to run the servers. They are a third of all files; the chroot fallback links each file.
SUPERFLUOUS = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "etc", "var", "tmp", "dev")
MARKER = ".citybeat-root.json"
TOOLS = {"mmdebstrap": "mmdebstrap", "bwrap": "bubblewrap"}  # program -> Debian package

APT_HINT = "sudo apt-get install --no-install-recommends {packages}"


def fingerprint() -> str:
    """Hash of the recipe; a root with another fingerprint is built again."""
    return hashlib.sha256(json.dumps([RECIPE, SUITE, PACKAGES, SUPERFLUOUS]).encode()).hexdigest()[:16]


def build_id(root: Path) -> str | None:
    """Id of the present build of a root; None if there is none or it is out of date."""
    try:
        marker = json.loads((root / MARKER).read_text())
    except (OSError, ValueError):
        return None
    return str(marker["build"]) if marker.get("fingerprint") == fingerprint() else None


def missing_packages(tools: Sequence[str] = tuple(TOOLS)) -> list[str]:
    """Debian packages of the programs that are not on the PATH."""
    return [TOOLS[tool] for tool in tools if shutil.which(tool, path=search_path()) is None]


def search_path() -> str:
    # On Debian the PATH of ordinary users lacks sbin, which has some of the programs that mmdebstrap calls.
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def require_tools(tools: Sequence[str] = tuple(TOOLS)) -> None:
    """Check that programs are installed.

    Raises
    ------
    ToolMissingError
        A program is missing; the message names the packages and the command that installs them.
    """
    missing = missing_packages(tools)
    if missing:
        command = APT_HINT.format(packages=" ".join(missing))
        raise ToolMissingError(
            f"the local servers need {' and '.join(missing)}, which are not installed. Install with: {command}\n"
            "Or start Docker, or set CITYBEAT_DATABASE_URL and CITYBEAT_MQTT_URL to existing servers."
        )


def ensure(root: Path, say: Say) -> str:
    """Build the root unless it exists. Processes that call this at the same time build it once.

    Parameters
    ----------
    root
        Directory of the root; its parent is created if missing.
    say
        Called with a line about each step that takes long.

    Returns
    -------
    str
        The build id, which changes whenever the root is built again.

    Raises
    ------
    ToolMissingError
        mmdebstrap is needed but not installed.
    RootBuildError
        mmdebstrap failed; the message has the end of its output.
    """
    found = build_id(root)
    if found is not None:
        return found
    root.parent.mkdir(parents=True, exist_ok=True)
    with lock.exclusive(root.with_name(root.name + ".lock"), say, "waiting for another citybeat process that unpacks the servers"):
        found = build_id(root)
        return found if found is not None else _build(root, say)


def _build(root: Path, say: Say) -> str:
    require_tools(["mmdebstrap"])
    say("unpacking PostgreSQL 17, TimescaleDB and Mosquitto (once, about 15 s and 400 MB)")
    for leftover in root.parent.glob(f"{root.name}.tmp-*"):  # of killed builds, since this process holds the lock
        shutil.rmtree(leftover, ignore_errors=True)
    # `chrootless` for ordinary users: unlike `unshare` it needs neither user namespaces nor ids in /etc/subuid. The result is the
    # same, since the extract variant runs no scripts of packages.
    mode = "root" if os.geteuid() == 0 else "chrootless"
    temporary = Path(tempfile.mkdtemp(prefix=f"{root.name}.tmp-", dir=root.parent))
    try:
        _run_mmdebstrap(mode, temporary)
        for superfluous in SUPERFLUOUS:
            shutil.rmtree(temporary / superfluous, ignore_errors=True)
        build = secrets.token_hex(8)
        marker = {"fingerprint": fingerprint(), "build": build, "suite": SUITE, "packages": PACKAGES}
        (temporary / MARKER).write_text(json.dumps(marker))
        temporary.chmod(0o755)
        _replace(root, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return build


def _run_mmdebstrap(mode: str, target: Path) -> None:
    command = [
        "mmdebstrap",
        f"--mode={mode}",
        "--variant=extract",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        str(target),
    ]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PATH": search_path()},
        check=False,
    )
    if done.returncode != 0 or not (target / "usr/lib/postgresql/17/bin/postgres").exists():
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise RootBuildError(
            f"{' '.join(command)} failed (exit status {done.returncode}). Is Debian's package mirror reachable, and is "
            f"there 1 GB of free disk space? On Ubuntu, also install debian-archive-keyring. Its last lines:\n{tail}"
        )


def _replace(root: Path, new: Path) -> None:
    old = root.with_name(f"{root.name}.tmp-old-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        root.rename(old)
    new.rename(root)
    shutil.rmtree(old, ignore_errors=True)
