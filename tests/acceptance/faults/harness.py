"""A real process tree for each case: Mosquitto and TimescaleDB (shared by the cases of one test worker), `citybeat ingest` between
two proxies, and publishers that know what the broker has acknowledged.

A `Tree` has the servers. A `Scene` is one case in it: a database, an MQTT session and traffic of its own, so that a case that broke
does not spoil the next one. `run` plays a case: traffic flows, a fault is injected at a seeded moment, traffic flows on, everything
is mended, and the books are compared.
"""

import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import paho.mqtt.client as mqtt
import psycopg
from psycopg import sql

from citybeat import stack
from citybeat.devices.catalogue import builtin
from citybeat.devices.device import ConflictPolicy
from citybeat.stack.process import free_port
from citybeat.storage import migrate
from citybeat.storage.accounts import ledger
from citybeat.storage.db.connection import Connection, connect
from citybeat.storage.registry import records
from citybeat.storage.rollups import rollup
from tests.acceptance.conftest import PATIENCE, wait_for
from tests.acceptance.faults import books
from tests.acceptance.faults.clock import set_clock
from tests.acceptance.faults.ingest_process import STOP_WITHIN, Ingest
from tests.acceptance.faults.proxy import Proxy
from tests.acceptance.faults.publisher import Publisher
from tests.acceptance.faults.servers import Machinery
from tests.acceptance.faults.traffic import HEAD_START, Mix, Sent, Traffic, summary

#: Name -> whether it numbers its messages.
SOURCES = {"faults-1": True, "faults-2": False, "faults-3": True}
#: messages/s of each source, eight readings each: batches of some ten messages, so that most moments are within a transaction.
RATE = 60.0
#: s before a broker's death within which it may lose what it acknowledged. With `autosave_interval 1` it saves when more than one
#: whole second has passed since the last time, by a clock of whole seconds: every two seconds, and writing takes a moment.
AUTOSAVE = 2.5
_CHUNK_DAYS = {"readings": 7.0, "readings_1m": 30.0, "readings_15m": 365.0}


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Servers that run."""

    settings: stack.StackSettings
    servers: stack.Servers
    machinery: Machinery
    passwords: Mapping[str, str]  # of SOURCES
    env: Mapping[str, str]  # in which commands find nothing but what is given
    logs: Path


@contextmanager
def grown(home: Path, root: Path, logs: Path) -> Iterator[Tree]:
    """Servers in a home of their own, on free ports, for as long as the block takes."""
    settings = stack.StackSettings(home=home, root=root, pg_port=free_port(), mqtt_port=free_port(), flavour="root")
    env = {name: value for name, value in os.environ.items() if not name.startswith("CITYBEAT_")}
    env |= {"CITYBEAT_ROOT": str(root), "CITYBEAT_STACK": "root"}
    with stack.running(settings, lambda _: None) as servers:
        yield Tree(
            settings=settings,
            servers=servers,
            machinery=Machinery(settings),
            passwords=stack.credentials(settings, list(SOURCES)),
            env=env,
            logs=logs,
        )


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault, and the circumstances under which it is injected."""

    name: str
    inject: Callable[["Scene"], None]
    seconds: float = 8.0  # that it takes; for the choice of what runs when
    mix: Mix = field(default_factory=Mix)
    policy: ConflictPolicy = ConflictPolicy.KEEP
    env: Mapping[str, str] = field(default_factory=dict)  # settings of ingest
    options: Sequence[str] = ()  # of `citybeat ingest`
    rate: float = RATE  # messages/s of each source
    once: bool = False  # neither ingest nor its connection to the broker ends: nothing is delivered twice
    clock: bool = False  # ingest's clock can be set: the file `clock` of its home
    may_be_refused: frozenset[str] = frozenset()  # reasons for which a good reading may end in quarantine
    spool_disk: int = 0  # bytes of a disk of its own for the spool; 0: none


class UnableError(Exception):
    """This machine, or this user, cannot do what a case needs."""


class Scene:
    """One case under way. Made by `opened`."""

    def __init__(self, tree: Tree, case: Case, seed: int, database: str, home: Path) -> None:
        self.tree = tree
        self.case = case
        self.seed = seed
        self.random = random.Random(seed)
        self.home = home
        self.policy = case.policy
        self.mix = case.mix
        self.database_url = database
        self.database_link = Proxy(tree.settings.pg_port)
        self.mqtt_link = Proxy(tree.settings.mqtt_port)
        self.client_id = f"faults-{secrets.token_hex(4)}"
        command = [sys.executable, "-m", "citybeat"]
        if case.clock:
            set_clock(home / "clock", 0)
            command = [sys.executable, "-m", "tests.acceptance.faults.clock", str(home / "clock")]
        self.ingest = Ingest(self._environment(), tree.logs, command=command, options=case.options)
        self.publishers: list[Publisher] = []
        self.sent: list[Sent] = []
        self.lost: list[Sent] = []
        self._earlier: frozenset[tuple[str, bytes]] = frozenset()  # what may be in quarantine of earlier rounds
        self._windows: list[tuple[float, float]] = []
        self._devices: list[str] = []
        self._boot = ""
        self._rounds = 0

    # --- the play

    def flow(self) -> None:
        """Begin to send. Sources are the same in every round, devices and boot are not."""
        self._rounds += 1
        self._boot = f"{self.seed}-{self._rounds}"
        self._windows.clear()
        start = (time.time_ns() // 1000 - HEAD_START) // 1_000_000 * 1_000_000
        names = list(SOURCES)
        traffic = [
            Traffic(
                source=name,
                prefix=f"{name}-{self._rounds}",
                foreign=f"{names[i - 1]}-{self._rounds}-0",
                boot=self._boot,
                seed=self.seed * 1000 + self._rounds,
                numbered=SOURCES[name],
                once=self.case.once,
                start=start,
                mix=self.mix,
            )
            for i, name in enumerate(names)
        ]
        devices = [device for one in traffic for device in one.registrations()]
        self._devices = [device.id for device in devices]
        with self.database() as connection:
            records.register(connection, devices)
            for name in names:
                records.set_conflict_policy(connection, name, self.policy)
        port = self.tree.settings.mqtt_port
        self.publishers = [
            Publisher(port, one.source, self.tree.passwords[one.source], iter(one), self.case.rate) for one in traffic
        ]

    def moment(self, least: int = 10, most: int = 120) -> None:
        """Wait for a seeded number of messages to be acknowledged by the broker, while it is there to do so."""
        self.random.choice(self.publishers).wait_answered(self.random.randint(least, most), PATIENCE)

    def committed(self) -> None:
        """Wait until ingest has stored something more."""
        with self.database() as connection:
            before = ledger.totals(connection).messages
            wait_for(lambda: ledger.totals(connection).messages > before, self.ingest.tail)

    def acknowledged(self, messages: int) -> None:
        """Wait until ingest has acknowledged about so many messages more: it sends little else to the broker."""
        goal = self.mqtt_link.passed["to server"] + 4 * messages  # bytes of a PUBACK
        wait_for(lambda: self.mqtt_link.passed["to server"] >= goal, self.ingest.tail)

    def silent(self, seconds: float) -> None:
        """Wait until ingest has acknowledged nothing for so long, while messages come in."""
        last = (-1, 0.0)

        def quiet() -> bool:
            nonlocal last
            passed = self.mqtt_link.passed["to server"]
            if passed > last[0] + 4:  # a ping is less
                last = (passed, time.monotonic())
            return time.monotonic() - last[1] >= seconds

        wait_for(quiet, self.ingest.tail)

    def broker_died(self, at: float) -> None:
        """Allow what a broker that is killed loses: whatever it took since its last autosave."""
        self._windows.append((at - AUTOSAVE, time.monotonic()))

    def mend(self) -> None:
        """Everything is there again, and works."""
        self.database_link.heal()
        self.mqtt_link.heal()
        self.tree.machinery.revive()
        if not self.ingest.alive:
            self.ingest.start()

    def settle(self) -> None:
        """Send on for a while, wait until everything sent is accounted for, and say what is not."""
        self.mend()
        for publisher in self.publishers:
            publisher.wait_answered(20, PATIENCE)
        self.sent = [one for publisher in self.publishers for one in publisher.finish(PATIENCE)]
        self.publishers = []
        with self.database() as connection:
            wait_for(
                lambda: not self._compare(connection).differences,
                lambda: self._report(self._compare(connection).differences),
                progress=lambda: ledger.totals(connection).messages,
            )

    def audit(self) -> None:
        """The books: what was sent, and the database's own."""
        with self.database() as connection:
            finding = self._compare(connection)
            self.lost = finding.lost
            while rollup.advance(connection):
                pass
            differences = finding.differences + ledger.discrepancies(connection) + ledger.rollup_differences(connection)
        assert not differences, self._report(differences)
        may_come_again = [one for one in self.sent if one.reasons or one.what == "conflict" or self.case.may_be_refused]
        self._earlier |= {(one.topic, one.payload) for one in may_come_again}

    def stop(self) -> None:
        """SIGTERM ends ingest well, and soon."""
        took = self.ingest.stop()
        assert took < STOP_WITHIN, f"it took {took:.1f} s to stop:\n{self.ingest.tail()}"

    def close(self) -> None:
        """Leave nothing behind, whatever has happened."""
        for publisher in self.publishers:
            publisher.close()
        self.ingest.end()
        for proxy in (self.database_link, self.mqtt_link):
            proxy.close()
        self.tree.machinery.revive()
        _forget_session(self.tree, self.client_id)

    # --- looking

    @contextmanager
    def database(self) -> Iterator[Connection]:
        """A connection past the proxies."""
        with closing(connect(self.database_url, application="audit")) as connection:
            yield connection

    def _compare(self, connection: Connection) -> books.Finding:
        return books.compare(
            self.sent,
            books.read(connection, self._devices, self._boot),
            replacing=self.policy is ConflictPolicy.REPLACE,
            may_be_lost=lambda one: any(start <= (one.acknowledged or 0) <= end for start, end in self._windows),
            may_be_refused=self.case.may_be_refused,
            once=self.case.once,
            known=self._earlier,
        )

    def _report(self, differences: Sequence[str]) -> str:
        first = differences[0] if differences else "nothing"
        return (
            f"{self.case.name}, seed {self.seed}: {len(differences)} differences in {summary(self.sent)}; the first: {first}\n"
            f"statistics: {self.ingest.last()}\n{self.ingest.tail()}"
        )

    def _environment(self) -> dict[str, str]:
        ours = {
            "CITYBEAT_HOME": str(self.home),
            "CITYBEAT_DATABASE_URL": _through(self.database_url, self.database_link.port),
            "CITYBEAT_MQTT_URL": _through(self.tree.servers.mqtt_url, self.mqtt_link.port),
            "CITYBEAT_CLIENT_ID": self.client_id,
            "CITYBEAT_INGEST_PORT": "0",
            # Small, so that after an outage there are many batches; large enough that they are soon done.
            "CITYBEAT_BATCH_MESSAGES": "100",
        }
        if self.case.spool_disk:
            ours["CITYBEAT_SPOOL_DIR"] = str(self.home / "spool")
        return {**self.tree.env, **ours, **self.case.env}


@contextmanager
def opened(tree: Tree, case: Case, seed: int, home: Path) -> Iterator[Scene]:
    """A scene with a database of its own; no process of it runs yet."""
    name = f"faults_{secrets.token_hex(6)}"
    url = urlunsplit(urlsplit(tree.servers.database_url)._replace(path=f"/{name}"))
    with closing(connect(tree.servers.database_url, application="faults")) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        with closing(connect(url, application="faults")) as connection:
            migrate.migrate(connection, builtin(), chunk_days=_CHUNK_DAYS)
        with _disk(home / "spool", case.spool_disk):
            scene = Scene(tree, case, seed, url, home)
            try:
                yield scene
            finally:
                scene.close()
    finally:
        with closing(connect(tree.servers.database_url, application="faults")) as connection:
            wait_for(lambda: _dropped(connection, name))


def run(tree: Tree, case: Case, seed: int, home: Path) -> Scene:
    """Play a case; AssertionError with the seed and the first difference when the books do not agree."""
    with opened(tree, case, seed, home) as scene:
        try:
            scene.ingest.start()
            scene.flow()
            scene.committed()
            scene.moment()
            case.inject(scene)
            scene.settle()
            scene.stop()
            scene.audit()
        except BaseException as exc:
            exc.add_note(f"case {case.name!r}, seed {seed}")
            raise
    return scene


@contextmanager
def _disk(path: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes, which can be full without harm to anybody else; 0: none."""
    if not size:
        yield
        return
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UnableError(f"a small disk is a tmpfs, and it cannot be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}"))


def _dropped(connection: Connection, name: str) -> bool:
    # An autovacuum or TimescaleDB worker is there for a moment; only a superuser could end it.
    with suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        return True
    return False


def _forget_session(tree: Tree, client_id: str) -> None:
    """End a session at the broker: what waits in it would be kept for a week, in memory."""
    url = urlsplit(tree.servers.mqtt_url)
    connected = threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
    client.username_pw_set(url.username, url.password)
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", tree.settings.mqtt_port, clean_start=True)
    client.loop_start()
    assert connected.wait(PATIENCE)
    client.disconnect()
    client.loop_stop()
