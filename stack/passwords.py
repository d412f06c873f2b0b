"""Passwords of the servers' users: made here, kept in the home for its owner only, and hashed for the broker.

`credentials.json` holds them in clear, because the gateways' have to be handed out and our own processes log in with
them; the broker gets hashes.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from citybeat.stack.errors import CredentialsError

SUPERUSER = "postgres"  # of the local cluster; used for set-up only
OWNER = "citybeat"  # owns the database, and is what citybeat logs in as
READER = "grafana"  # may only read
INGEST = "ingest"  # the broker user that reads every source's topics
GATEWAYS = tuple(f"gw-{number:02}" for number in range(1, 9))  # the simulator's

# A source's name is its broker user name and a level of its topics (DESIGN section 3).
SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = frozenset({"provision", "ingest", "admin"})

PASSWORD_BYTES = 24  # 192 random bits: nothing that can be guessed, whatever the hash costs
# Mosquitto's own default for its $7$ format. More would only slow a reconnecting city down: see PASSWORD_BYTES.
HASH_ITERATIONS = 101
SALT_BYTES = 12  # as mosquitto_passwd 2.0 makes them


class Passwords:
    """The passwords of one home.

    Parameters
    ----------
    path
        The file; it need not exist. Whoever changes it holds the home's lock.

    Raises
    ------
    CredentialsError
        When the file cannot be read as what it should be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kinds: dict[str, dict[str, str]] = {"database": {}, "broker": {}}
        try:
            stored = json.loads(path.read_text())
            self._kinds = {kind: {str(u): str(p) for u, p in stored[kind].items()} for kind in self._kinds}
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CredentialsError(f"{path} is damaged; restore it, or remove it and run `citybeat stack reset`") from error

    @property
    def database(self) -> Mapping[str, str]:
        return self._kinds["database"]

    @property
    def broker(self) -> Mapping[str, str]:
        return self._kinds["broker"]

    def add(self, *, database: Iterable[str] = (), broker: Iterable[str] = ()) -> bool:
        """Make passwords for those users that have none, and store them; True when there were any."""
        changed = False
        for kind, names in (("database", database), ("broker", broker)):
            for name in names:
                if name not in self._kinds[kind]:
                    self._kinds[kind][name] = secrets.token_urlsafe(PASSWORD_BYTES)  # fits into an URL as it is
                    changed = True
        if changed:
            write_private(self._path, json.dumps(self._kinds, indent=1) + "\n")
        return changed

    def add_own(self) -> bool:
        """Make the passwords that the stack itself needs: database roles, ingest, and the simulator's gateways."""
        return self.add(database=(SUPERUSER, OWNER, READER), broker=(INGEST, *GATEWAYS))


def check_source_names(names: Sequence[str]) -> None:
    """Check that names can be sources.

    Raises
    ------
    CredentialsError
        For a reserved name, or one that is no level of a topic.
    """
    for name in names:
        if SOURCE_NAME.fullmatch(name) is None:
            raise CredentialsError(f"{name!r} cannot be a source: use 1 to 64 of A-Z a-z 0-9 . _ - and no mark in front")
        if name in RESERVED:
            raise CredentialsError(f"{name!r} is reserved and cannot be a source")


def broker_hash(password: str, salt: bytes | None = None) -> str:
    """Hash a password as Mosquitto 2.0 reads it: `$7$`, PBKDF2 with HMAC-SHA-512.

    Examples
    --------
    >>> broker_hash("secret", salt=b"123456789012")[:24]
    '$7$101$MTIzNDU2Nzg5MDEy$'
    """
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, HASH_ITERATIONS, dklen=64)
    return f"$7${HASH_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def password_file(users: Mapping[str, str]) -> str:
    """The text of Mosquitto's password file for these users."""
    return "".join(f"{name}:{broker_hash(password)}\n" for name, password in sorted(users.items()))


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file as a whole, never readable by anybody but who may, not even for a moment."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w") as stream:
            os.fchmod(stream.fileno(), mode)  # whatever the umask is
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())  # a lost password file would lock a city's gateways out
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
