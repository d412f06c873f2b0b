"""TimescaleDB of one home: its cluster, command line, database and roles."""

import os
import secrets
import shutil
import signal
from pathlib import Path

from citybeat.stack import probe
from citybeat.stack.errors import CredentialsError, ServerFailedError
from citybeat.stack.model import TIMESCALEDB, Home
from citybeat.stack.passwords import OWNER, READER, SUPERUSER, Passwords, write_private
from citybeat.stack.plan import Program
from citybeat.stack.process import LOOPBACK
from citybeat.stack.sandbox import Sandbox

DATABASE = "citybeat"
BIN = "/usr/lib/postgresql/17/bin"
DATA = "postgres"  # directory of the cluster, below the home's servers/

# First a fast shutdown, which ends sessions and writes a checkpoint of at most shared_buffers. Then an immediate shutdown, after
# which the next start recovers from the log. Neither loses committed data.
STOP = [(signal.SIGINT.name, 60.0), (signal.SIGQUIT.name, 10.0)]

# MB of shared_buffers. With fewer every insert would read an index page; more would hold pages that the kernel caches too, and a
# city of 200,000 series fits.
LEAST_BUFFERS, MOST_BUFFERS = 256, 4096

# Collation by code point, built into PostgreSQL: no index depends on the version of a C library.
INITDB_OPTIONS = (
    "--encoding=UTF8",
    "--locale=C.UTF-8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--auth=scram-sha-256",
    "--data-checksums",
)

# citybeat may create databases (tests copy templates) but is no superuser.
SET_UP = r"""
SELECT 'CREATE ROLE citybeat LOGIN CREATEDB' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'citybeat') \gexec
ALTER ROLE citybeat PASSWORD :'owner_password';
SELECT 'CREATE DATABASE citybeat OWNER citybeat' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'citybeat') \gexec
\connect citybeat
CREATE EXTENSION IF NOT EXISTS timescaledb;
\i /config/postgres/roles.sql
"""


def program(home: Home, sandbox: Sandbox, port: int) -> Program:
    """Write the server's local settings; returns its program."""
    lines = [
        "# Written at every start; the general settings are in the included file.",
        "include '/config/postgres/postgresql.conf'",
        "hba_file = '/config/postgres/pg_hba.conf'",
        f"listen_addresses = '{LOOPBACK}'",
        f"port = {port}",
        f"shared_buffers = {_shared_buffers()}MB",
        "unix_socket_directories = ''  # the path of a home may be longer than the 107 bytes of a socket's",
    ]
    if sandbox.kind == "chroot":
        lines.append("dynamic_shared_memory_type = mmap  # a chroot has no /dev/shm")
    (home.config / "postgresql.conf").write_text("\n".join(lines) + "\n")
    argv = [f"{BIN}/postgres", "-D", f"/{DATA}", "-c", "config_file=/config/postgresql.conf"]
    return Program(name=TIMESCALEDB, argv=argv, log=str(home.log(TIMESCALEDB)), stop=STOP)


def _shared_buffers() -> int:
    """A quarter of the machine's memory in MB, as PostgreSQL's manual advises (section 19.4), within bounds."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(max(memory // 4 // 2**20, LEAST_BUFFERS), MOST_BUFFERS)


def make_cluster(home: Home, sandbox: Sandbox, passwords: Passwords) -> bool:
    """Create the cluster unless it exists. Returns True if it was created.

    Raises
    ------
    ServerFailedError
        initdb failed; the message has its output.
    """
    data = home.servers / DATA
    if data.exists():
        sandbox.own(data)
        data.chmod(0o700)
        return False
    # Created under another name and renamed, so that an interrupted one is never taken for a cluster.
    for leftover in home.servers.glob(f"{DATA}.new-*"):
        shutil.rmtree(leftover)
    new = home.servers / f"{DATA}.new-{secrets.token_hex(4)}"
    new.mkdir(mode=0o700)
    password = new.with_name(new.name + "-password")
    password.mkdir(mode=0o700)
    write_private(password / "it", passwords.database[SUPERUSER])
    sandbox.own(new)
    sandbox.own(password)
    try:
        status, output = sandbox.run(
            [f"{BIN}/initdb", "-D", f"/{new.name}", "-U", SUPERUSER, f"--pwfile=/{password.name}/it", *INITDB_OPTIONS]
        )
        if status != 0:
            raise ServerFailedError(f"initdb failed (exit status {status}):\n{output.strip()}")
        new.rename(data)
    finally:
        shutil.rmtree(password, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)
    (home.servers / "database.ready").unlink(missing_ok=True)
    return True


def set_up(home: Home, sandbox: Sandbox, passwords: Passwords, port: int, build: str) -> None:
    """Create roles, database and extension in a running server, once for each build of the root.

    Raises
    ------
    CredentialsError
        The stored password of the superuser is not that of the cluster.
    ServerFailedError
        psql failed otherwise; the message has its output.
    """
    marker = home.servers / "database.ready"
    if marker.exists() and marker.read_text() == build:
        return
    # Passwords go through standard input: every user of the machine can read command lines.
    variables = f"\\set owner_password '{passwords.database[OWNER]}'\n"
    variables += f"\\set reader_password '{passwords.database[READER]}'\n"
    argv = [f"{BIN}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", LOOPBACK, "-p", str(port), "-U", SUPERUSER, "-d"]
    environment = {"PGPASSWORD": passwords.database[SUPERUSER]}
    status, output = 0, ""
    if marker.exists():  # a rebuilt root may bring a newer TimescaleDB; the update must be the first command of a session
        update = [*argv, DATABASE, "-c", "ALTER EXTENSION timescaledb UPDATE"]
        status, output = sandbox.run(update, env=environment)
    if status == 0:
        status, output = sandbox.run([*argv, "postgres"], env=environment, text=variables + SET_UP)
    if "password authentication failed" in output:
        raise CredentialsError(
            f"{home.credentials} does not have the password of the database in {home.servers / DATA}: restore the file, "
            "or delete the data with `citybeat stack reset`"
        )
    if status != 0:
        raise ServerFailedError(f"setting the database up failed:\n{output.strip()}")
    marker.write_text(build)


def ready(port: int) -> probe.Readiness:
    """Check whether the server accepts connections."""
    return probe.database(LOOPBACK, port, OWNER, DATABASE)


def url(passwords: Passwords, port: int) -> str:
    return f"postgresql://{OWNER}:{passwords.database[OWNER]}@{LOOPBACK}:{port}/{DATABASE}"


def data_directories(home: Home) -> list[Path]:
    """Paths to delete so that the database is empty."""
    return [home.servers / DATA, home.servers / "database.ready"]
