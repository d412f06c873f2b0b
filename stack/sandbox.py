"""Runs programs from the private root: under bubblewrap, or in a chroot where user namespaces are not allowed.

In both cases a program sees `/usr` of the root, and the home's `servers/` directory as `/`: its data, its configuration, and
nothing else of the machine but the network. The supervisor starts every program through this module; its death ends them.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from citybeat.stack import tether
from citybeat.stack.errors import SandboxError
from citybeat.stack.root import require_tools

Kind = Literal["bwrap", "chroot"]

INSIDE_ID = 1000  # user and group id of programs inside bubblewrap; outside they have those of the caller
# User and group id in the chroot fallback. PostgreSQL refuses to run as root, and an existing user could kill the servers; this id
# is outside the ranges that Debian and systemd assign.
CHROOT_ID = 64735

MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
ENVIRONMENT = {"PATH": "/usr/lib/postgresql/17/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8", "TZ": "UTC", "HOME": "/tmp"}  # noqa: S108 - inside the sandbox


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A root, the directory that programs see as `/`, and the kind of isolation."""

    kind: Kind
    root: str
    base: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        info: int | None = None,
    ) -> "subprocess.Popen[str]":
        """Start a program inside; the kernel kills it when the calling process dies.

        Parameters
        ----------
        argv
            Program and arguments, as paths inside.
        env
            Added to the fixed environment.
        stdin, stdout
            As for `subprocess.Popen`; standard error goes where standard output goes.
        info
            Descriptor that bubblewrap writes `{"child-pid": …}` to, since the process started is bubblewrap itself. In a chroot the
            process is the program, and nothing is written.
        """
        inside = {**ENVIRONMENT, **(env or {})}
        parent = os.getpid()
        # preexec_fn is safe here: processes that start servers have one thread, and the function takes no locks.
        if self.kind == "bwrap":
            return subprocess.Popen(
                self._bwrap(argv, info),
                env=inside,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=() if info is None else (info,),
                preexec_fn=lambda: tether.tether(parent),  # noqa: PLW1509
            )
        return subprocess.Popen(
            list(argv),
            env=inside,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: _enter_chroot(self.base, parent),  # noqa: PLW1509
        )

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, text: str = "") -> tuple[int, str]:
        """Run a program until it ends; returns its exit status and its output."""
        with self.popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            output, _ = process.communicate(text)
        return process.returncode, output

    def own(self, path: Path) -> None:
        """Change the owner of a file or tree to the user of the programs; needed when a home changes between the two kinds."""
        wanted = CHROOT_ID if self.kind == "chroot" else os.geteuid()
        if os.geteuid() != 0 or path.lstat().st_uid == wanted:
            return
        for directory, _, files in os.walk(path):
            for name in files:
                os.chown(Path(directory, name), wanted, wanted, follow_symlinks=False)
            if Path(directory) != path:
                os.chown(directory, wanted, wanted)
        os.chown(path, wanted, wanted)  # last, so that an interrupted change is done again

    def prepare(self) -> None:
        """Prepare `base` so that programs can run in it; cheap if it was done before."""
        base = Path(self.base)
        etc = base / "etc"
        etc.mkdir(exist_ok=True)
        uid = INSIDE_ID if self.kind == "bwrap" else CHROOT_ID
        (etc / "passwd").write_text(f"citybeat:x:{uid}:{uid}::/tmp:/bin/sh\n")  # initdb asks for its user's name
        (etc / "group").write_text(f"citybeat:x:{uid}:\n")
        if self.kind == "chroot":
            _furnish_chroot(Path(self.root), base)

    def _bwrap(self, argv: Sequence[str], info: int | None) -> list[str]:
        command = [bubblewrap() or "bwrap", "--die-with-parent", "--unshare-user", "--uid", str(INSIDE_ID), "--gid", str(INSIDE_ID)]
        # In a process namespace of its own, the death of the first process ends all others, including PostgreSQL's backends. The
        # IPC namespace stays shared: PostgreSQL detects a second server on one data directory by a shared memory segment.
        command += ["--unshare-pid", "--as-pid-1"]
        command += ["--ro-bind", f"{self.root}/usr", "/usr"]
        for name, target in MERGED.items():
            command += ["--symlink", target, f"/{name}"]
        command += ["--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - inside the sandbox
        for entry in sorted(Path(self.base).iterdir()):
            if entry.is_dir() and not entry.is_symlink() and entry.name not in {"usr", "dev", "tmp"}:
                command += ["--bind", str(entry), f"/{entry.name}"]
        if info is not None:
            command += ["--info-fd", str(info)]
        return [*command, "--", *argv]


def choose(root: Path, base: Path, force: Kind | None = None) -> Sandbox:
    """Choose the kind of sandbox that works for this user on this machine.

    Parameters
    ----------
    root, base
        The private root, and the directory that programs see as `/`.
    force
        Use this kind without trying it; for tests.

    Raises
    ------
    ToolMissingError
        bubblewrap is not installed, and the user is not root.
    SandboxError
        bubblewrap may not create user namespaces, and the user is not root.
    """
    is_root = os.geteuid() == 0
    if force is not None:
        return Sandbox(force, str(root), str(base))
    if bubblewrap() is None and not is_root:
        require_tools(["bwrap"])
    reason = "bubblewrap is not installed"
    if bubblewrap() is not None:
        sandbox = Sandbox("bwrap", str(root), str(base))
        status, output = sandbox.run(["/usr/bin/true"])
        if status == 0:
            return sandbox
        reason = output.strip()
    if is_root:
        return Sandbox("chroot", str(root), str(base))
    raise SandboxError(
        f"bubblewrap cannot start the local servers: {reason}\n"
        "This user may not create user namespaces. Allow them (sysctl kernel.unprivileged_userns_clone=1, on Ubuntu "
        "kernel.apparmor_restrict_unprivileged_userns=0), or run as root, or start Docker, or set CITYBEAT_DATABASE_URL "
        "and CITYBEAT_MQTT_URL to existing servers."
    )


def bubblewrap() -> str | None:
    return shutil.which("bwrap")


def child_pid(read_end: int) -> int | None:
    """Read the process id from bubblewrap's `info` descriptor; None if it ended before it started the program."""
    with os.fdopen(read_end) as stream:
        text = stream.read()
    return int(json.loads(text)["child-pid"]) if text else None


def _enter_chroot(base: str, parent: int) -> None:
    os.chroot(base)
    os.chdir("/")
    os.setgroups([])
    os.setgid(CHROOT_ID)
    os.setuid(CHROOT_ID)
    tether.tether(parent)  # last, because the kernel resets it when a process changes its user


def _furnish_chroot(root: Path, base: Path) -> None:
    base.chmod(0o755)
    for name, target in MERGED.items():
        link = base / name
        if not link.is_symlink():
            link.symlink_to(target)
    # Bind mounts need CAP_SYS_ADMIN, so the root's files are hard-linked (on one file system) or copied.
    marker = base / "usr.build"
    build = (root / ".citybeat-root.json").read_text()
    if not marker.exists() or marker.read_text() != build:
        shutil.rmtree(base / "usr", ignore_errors=True)
        linked = subprocess.run(["cp", "-a", "-l", str(root / "usr"), str(base / "usr")], stderr=subprocess.DEVNULL, check=False)
        if linked.returncode != 0:
            shutil.rmtree(base / "usr", ignore_errors=True)
            subprocess.run(["cp", "-a", str(root / "usr"), str(base / "usr")], check=True)
        marker.write_text(build)
    for name in ("dev", "tmp"):
        (base / name).mkdir(exist_ok=True)
        (base / name).chmod(0o1777)
    for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
        device = base / "dev" / name
        if device.is_char_device():
            continue
        try:
            os.mknod(device, 0o020666, os.makedev(1, minor))
        except OSError:
            # Containers may forbid devices. A file that is emptied at every start replaces /dev/null; no program reads the others.
            device.write_bytes(b"")
        device.chmod(0o666)
