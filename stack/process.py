"""Processes and ports of this machine: identity, whether they run, and children that do not outlive their parent.

A process is identified by its id and its start time together, so that a recycled id is never mistaken for it, and never killed.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from citybeat.stack import tether
from citybeat.stack.errors import StackError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Identity:
    """One process; no later one has the same identity."""

    pid: int
    started: str  # boot id, and clock ticks since that boot


def identify(pid: int) -> Identity | None:
    """Identity of the process with this id; None if there is none or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the process name before it may contain anything
    if fields[0] in "ZX":
        return None
    return Identity(pid, f"{boot}:{fields[19]}")


def is_alive(identity: Identity) -> bool:
    return identify(identity.pid) == identity


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signal a process if it still exists; returns False if it is gone."""
    if not is_alive(identity):
        return False
    try:
        os.kill(identity.pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_gone(identity: Identity, seconds: float) -> bool:
    """Wait until a process, child or not, is gone; returns False if it still exists after `seconds`."""
    deadline = time.monotonic() + seconds
    while is_alive(identity):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    cwd: Path | str | None = None,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a child that the kernel kills when the calling process dies in any way.

    The child leads a session of its own: Ctrl-C in a terminal reaches only the caller, which stops its children in the right order.

    Parameters
    ----------
    argv
        Program and arguments.
    env, stdout, stderr, cwd, pass_fds
        As for `subprocess.Popen`.

    Raises
    ------
    StackError
        The caller is not the main thread: the kernel ties a child to the *thread* that started it, so a child of a short-lived
        thread would die with that thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise StackError("spawn() must be called from the main thread: its child dies with the thread that started it")
    command = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *argv]
    return subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def port_is_free(port: int) -> bool:
    """True if a server could listen on this TCP port of the loopback interface."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # As servers do: a port with only an old connection in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
