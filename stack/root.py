"""The private root: Debian 13 packages of the servers, unpacked in a directory, the system itself untouched.

Only its `usr/` is used. Nothing in it is ever run as it is unpacked (mmdebstrap's `extract` variant), so it can be made by
anybody, and deleted at any time while no server runs from it: it is a cache.
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
# dash and coreutils: initdb and psql call a shell; everything else comes as a dependency.
PACKAGES = ("postgresql-17-timescaledb", "mosquitto", "dash", "coreutils")
# Counted up when the recipe below changes in a way that the two lines above do not show.
RECIPE = 1
# Not needed to run the servers; a third of the files, so deleting them pays in the chroot fallback, which links each.
SUPERFLUOUS = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "etc", "var", "tmp", "dev")
MARKER = ".citybeat-root.json"
TOOLS = {"mmdebstrap": "mmdebstrap", "bwrap": "bubblewrap"}  # program -> Debian package

APT_HINT = "sudo apt-get install --no-install-recommends {packages}"


def fingerprint() -> str:
    """What a root that this code made contains; a root with another fingerprint is built again."""
    return hashlib.sha256(json.dumps([RECIPE, SUITE, PACKAGES, SUPERFLUOUS]).encode()).hexdigest()[:16]


def build_id(root: Path) -> str | None:
    """Name this very build of a root, or None when there is none, or one that is out of date."""
    try:
        marker = json.loads((root / MARKER).read_text())
    except (OSError, ValueError):
        return None
    return str(marker["build"]) if marker.get("fingerprint") == fingerprint() else None


def missing_packages(tools: Sequence[str] = tuple(TOOLS)) -> list[str]:
    """Debian packages of those programs that are not on the PATH."""
    return [TOOLS[tool] for tool in tools if shutil.which(tool, path=search_path()) is None]


def search_path() -> str:
    # An ordinary user's PATH on Debian has no sbin, where some of the programs that mmdebstrap calls live.
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def require_tools(tools: Sequence[str] = tuple(TOOLS)) -> None:
    """Check that the programs are there.

    Raises
    ------
    ToolMissingError
        It names the packages and the command that installs them.
    """
    missing = missing_packages(tools)
    if missing:
        command = APT_HINT.format(packages=" ".join(missing))
        raise ToolMissingError(
            f"the local servers need {' and '.join(missing)}, which this machine has not. Install with: {command}\n"
            "Or start Docker, or set CITYBEAT_DATABASE_URL and CITYBEAT_MQTT_URL to servers that you have."
        )


def ensure(root: Path, say: Say) -> str:
    """Build the root unless it is there; two processes that ask at once build it once.

    Parameters
    ----------
    root
        Directory of the root; its parent is made when it is missing.
    say
        Told what takes long.

    Returns
    -------
    str
        The build id, new whenever the root was built anew.

    Raises
    ------
    ToolMissingError
        When mmdebstrap is needed and not installed.
    RootBuildError
        When it fails; with the end of its output.
    """
    found = build_id(root)
    if found is not None:
        return found
    root.parent.mkdir(parents=True, exist_ok=True)
    with lock.exclusive(root.with_name(root.name + ".lock"), say, "waiting for another citybeat that unpacks the servers"):
        found = build_id(root)
        return found if found is not None else _build(root, say)


def _build(root: Path, say: Say) -> str:
    require_tools(["mmdebstrap"])
    say("unpacking PostgreSQL 17, TimescaleDB and Mosquitto (once, about 15 s and 400 MB)")
    for leftover in root.parent.glob(f"{root.name}.tmp-*"):  # of builds that were killed: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    # As an ordinary user `chrootless`: unlike `unshare` it needs neither user namespaces nor ids in /etc/subuid, and
    # since the extract variant runs none of the packages' scripts, both give the same files.
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
