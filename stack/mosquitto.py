"""Mosquitto of one home: its local settings, its users, and its command line."""

import signal
from pathlib import Path

from citybeat.stack import probe
from citybeat.stack.model import MOSQUITTO, Home
from citybeat.stack.passwords import INGEST, Passwords, password_file, write_private
from citybeat.stack.plan import Program
from citybeat.stack.process import LOOPBACK
from citybeat.stack.sandbox import Sandbox

STORE = "mosquitto"  # directory of the broker's store, below the home's servers/

CONFIG_ACL = Path(__file__).parent / "config" / "mosquitto" / "acl"

# On SIGTERM the broker writes its store, which takes a few seconds for a full queue of 500,000 messages.
STOP = [(signal.SIGTERM.name, 30.0)]


def program(home: Home, sandbox: Sandbox, port: int) -> Program:
    """Write the broker's local settings; returns its program."""
    store = home.servers / STORE
    store.mkdir(mode=0o700, exist_ok=True)
    sandbox.own(store)
    lines = [
        "# Written at every start; the general settings are in the included directory.",
        f"listener {port} {LOOPBACK}",
        f"persistence_location /{STORE}",
        "password_file /secrets/passwd",
        "acl_file /secrets/acl",
        "include_dir /config/mosquitto/conf.d",
    ]
    (home.config / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    argv = ["/usr/sbin/mosquitto", "-c", "/config/mosquitto.conf"]
    return Program(name=MOSQUITTO, argv=argv, log=str(home.log(MOSQUITTO)), stop=STOP)


def write_users(home: Home, sandbox: Sandbox | None, passwords: Passwords) -> None:
    """Replace the password file, which a running broker reads again on SIGHUP.

    Parameters
    ----------
    sandbox
        None for the container, where another user reads the file, so that all may read it; it contains only hashes.
    """
    path = home.secrets / "passwd"
    write_private(path, password_file(passwords.broker), mode=0o600 if sandbox is not None else 0o644)
    if sandbox is not None:
        # The broker warns of an ACL file that others may read; future versions will refuse it.
        write_private(home.secrets / "acl", CONFIG_ACL.read_text())
        sandbox.own(home.secrets)
        for file in (path, home.secrets / "acl"):
            sandbox.own(file)


def ready(passwords: Passwords, port: int, user: str = INGEST) -> probe.Readiness:
    """Check whether the broker accepts a user."""
    return probe.broker(LOOPBACK, port, user, passwords.broker[user])


def url(passwords: Passwords, port: int) -> str:
    return f"mqtt://{INGEST}:{passwords.broker[INGEST]}@{LOOPBACK}:{port}"


def data_directories(home: Home) -> list[Path]:
    """Paths to delete so that the broker has no session and no message."""
    return [home.servers / STORE]
