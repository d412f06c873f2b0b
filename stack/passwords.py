"""Passwords of the servers' users: generated here, stored in the home for its owner only, and hashed for the broker.

`credentials.json` contains them in clear text, because citybeat's processes log in with them and operators configure gateways with
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

SUPERUSER = "postgres"  # of the local database cluster; used for set-up only
OWNER = "citybeat"  # owns the database; citybeat logs in as this role
READER = "grafana"  # may only read
INGEST = "ingest"  # the broker user that reads every source's topics
GATEWAYS = tuple(f"gw-{number:02}" for number in range(1, 9))  # the simulator's

# The name of a source is both its user name at the broker and a level of its topics.
SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = frozenset({"provision", "ingest", "admin"})

PASSWORD_BYTES = 24  # 192 random bits cannot be guessed, however cheap the hash is
# Mosquitto's default for its $7$ format. More would only slow reconnecting clients down, see PASSWORD_BYTES.
HASH_ITERATIONS = 101
SALT_BYTES = 12  # as in mosquitto_passwd 2.0


class Passwords:
    """The passwords of one home.

    Parameters
    ----------
    path
        The file, which need not exist. A process that changes it holds the home's lock.

    Raises
    ------
    CredentialsError
        The content of the file is not valid.
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
        """Generate and store passwords for users without one. Returns True if there were any."""
        changed = False
        for kind, names in (("database", database), ("broker", broker)):
            for name in names:
                if name not in self._kinds[kind]:
                    self._kinds[kind][name] = secrets.token_urlsafe(PASSWORD_BYTES)  # needs no escaping in a URL
                    changed = True
        if changed:
            write_private(self._path, json.dumps(self._kinds, indent=1) + "\n")
        return changed

    def add_own(self) -> bool:
        """Generate the passwords that the stack itself needs: database roles, ingest, and the simulator's gateways."""
        return self.add(database=(SUPERUSER, OWNER, READER), broker=(INGEST, *GATEWAYS))


def check_source_names(names: Sequence[str]) -> None:
    """Check that names can be sources.

    Raises
    ------
    CredentialsError
        A name is reserved, or cannot be a level of a topic.
    """
    for name in names:
        if SOURCE_NAME.fullmatch(name) is None:
            raise CredentialsError(
                f"{name!r} cannot be a source: use 1 to 64 of A-Z a-z 0-9 . _ - beginning with a letter or digit"
            )
        if name in RESERVED:
            raise CredentialsError(f"{name!r} is reserved and cannot be a source")


def broker_hash(password: str, salt: bytes | None = None) -> str:
    """Hash a password in the format of Mosquitto 2.0: `$7$`, PBKDF2 with HMAC-SHA-512.

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
    """Replace a file atomically; at no moment is it readable with more permissions than `mode`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w") as stream:
            os.fchmod(stream.fileno(), mode)  # whatever the umask is
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())  # without a password file all gateways would be locked out
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
