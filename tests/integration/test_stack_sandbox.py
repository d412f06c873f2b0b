"""The ways to run the servers that this machine does not take by itself: chroot, no namespaces at all, an ordinary user."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from citybeat import stack
from citybeat.stack.lifecycle import running
from citybeat.stack.sandbox import CHROOT_ID

CHECKOUT = Path(stack.__file__).parents[2]
ORDINARY = 64736  # a user id that this machine has not
SYSTEM_PYTHON = "/usr/bin/python3"  # the tests' own may lie where an ordinary user cannot read

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, or use chroot")

# Starts the servers twice; prints the user ids that they run as, and what is left afterwards.
SCRIPT = """
import pathlib, sys, time
from citybeat import stack
home, root = map(pathlib.Path, sys.argv[1:])
settings = stack.StackSettings(home=home, root=root, pg_port=0, mqtt_port=0, flavour="root")
for _ in range(2):
    with stack.running(settings, lambda _: None):
        for server in stack.status(settings):
            print(server.name, server.state, pathlib.Path(f"/proc/{server.pid}").stat().st_uid)
        stack.credentials(settings, ["north"])
    for server in stack.status(settings):
        print(server.name, server.state)
"""

# Root of a container as Docker makes it by default: no CAP_SYS_ADMIN, no CAP_MKNOD, and no user namespaces. The limit on
# namespaces is set in a new user namespace, so it holds for this process and its children only.
CONFINED = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
made, make = os.pipe()
mapped, map_ = os.pipe()
pid = os.fork()
if pid == 0:
    if libc.unshare(0x10000000) != 0:
        os._exit(77)
    os.write(make, b"x")
    os.read(mapped, 1)
    os.setgid(0)
    os.setuid(0)
    open("/proc/sys/user/max_user_namespaces", "w").write("0")
    for capability in (21, 27):
        if libc.prctl(24, capability, 0, 0, 0) != 0:
            os._exit(78)
    os.execv(sys.argv[1], sys.argv[1:])
os.close(make)
if os.read(made, 1):
    for kind in ("uid_map", "gid_map"):
        open(f"/proc/{pid}/{kind}", "w").write("0 0 65536")
    os.write(map_, b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture
def built_root(debian_root: Path, servers: stack.Servers) -> Path:
    if servers.kind != "root":
        pytest.skip("the servers of this run are not from a private root")
    return debian_root


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can reach; pytest's own are the owner's."""
    directory = Path(tempfile.mkdtemp(prefix="citybeat-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def expected(uid: int) -> list[str]:
    once = [f"timescaledb running {uid}", f"mosquitto running {uid}", "timescaledb stopped", "mosquitto stopped"]
    return once * 2


@as_root
def test_chroot_and_bubblewrap_take_turns_on_the_same_data(tmp_path: Path, built_root: Path):
    psycopg = pytest.importorskip("psycopg")
    settings = stack.StackSettings(home=tmp_path / "home", root=built_root, pg_port=0, mqtt_port=0, flavour="root")
    for count, kind in enumerate(("chroot", "bwrap", "chroot"), start=1):
        with running(settings, lambda _: None, force=kind) as servers:
            pid = stack.status(settings)[0].pid
            assert Path(f"/proc/{pid}").stat().st_uid == (CHROOT_ID if kind == "chroot" else 0)
            with psycopg.connect(servers.database_url) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS turns (n int)")
                connection.execute("INSERT INTO turns VALUES (1)")
                assert connection.execute("SELECT count(*) FROM turns").fetchone() == (count,)
            assert stack.credentials(settings, [f"source-{count}"])
    assert [server.state for server in stack.status(settings)] == ["stopped", "stopped"]


@as_root
def test_root_without_namespaces_falls_back_to_chroot(tmp_path: Path, built_root: Path):
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    arguments = [sys.executable, "-c", SCRIPT, str(tmp_path / "home"), str(built_root)]
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode in {77, 78}:
        pytest.skip("this machine does not let us confine a process")
    assert done.stdout.splitlines() == expected(CHROOT_ID), done.stderr


@as_root
def test_an_ordinary_user(open_directory: Path, built_root: Path):
    shutil.copytree(CHECKOUT / "stack", open_directory / "citybeat" / "stack")
    shutil.copy(CHECKOUT / "citybeat" / "__init__.py", open_directory / "citybeat")
    os.chown(open_directory, ORDINARY, ORDINARY)
    arguments = ["-c", SCRIPT, str(open_directory / "home"), str(built_root)]
    probe = f"import os, sys; sys.exit(sys.version_info < (3, 11) or not os.access({str(built_root / 'usr')!r}, os.X_OK))"
    who = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run([SYSTEM_PYTHON, "-c", probe], check=False, **who).returncode:
        pytest.skip("an ordinary user has no Python 3.11 here, or cannot reach the private root")
    done = subprocess.run(
        [SYSTEM_PYTHON, *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(open_directory), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=open_directory,
        capture_output=True,
        text=True,
        check=False,
        **who,
    )
    assert done.stdout.splitlines() == expected(ORDINARY), done.stderr
