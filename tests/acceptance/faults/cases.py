"""The faults, each as a function that injects it into a scene in mid-stream, and leaves it to the harness to mend what is left."""

import os
import signal
from contextlib import closing

from citybeat.devices.device import ConflictPolicy
from citybeat.storage.db.connection import connect
from tests.acceptance.conftest import wait_for
from tests.acceptance.faults.clock import set_clock
from tests.acceptance.faults.harness import Case, Scene
from tests.acceptance.faults.proxy import Direction, Trap
from tests.acceptance.faults.traffic import Mix

#: How the writer's connection introduces itself, and its COMMIT and the answer to it: simple query and CommandComplete.
_WRITER = b"citybeat ingest writer"
_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
_COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"
_TERMINATE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'citybeat ingest%'"""


def _commit_trap(scene: Scene, pattern: bytes, direction: Direction) -> Trap:
    trap = Trap(pattern, direction, marker=_WRITER, skip=scene.random.randrange(10))
    scene.database_link.trap(trap).wait()
    return trap


# --- ingest


def kill_ingest(scene: Scene) -> None:
    """SIGKILL at any moment, several times."""
    for _ in range(3):
        scene.moment()
        scene.ingest.kill()
        scene.ingest.start()


def kill_before_commit(scene: Scene) -> None:
    """Everything is written, COMMIT is not sent."""
    for _ in range(2):
        trap = _commit_trap(scene, _COMMIT, "to server")
        scene.ingest.kill()
        trap.cut()
        scene.ingest.start()
        scene.committed()


def kill_between_commit_and_ack(scene: Scene) -> None:
    """It is committed, and ingest dies before it knows."""
    for _ in range(2):
        trap = _commit_trap(scene, _COMMITTED, "to client")
        scene.ingest.kill()
        trap.cut()
        scene.ingest.start()
        scene.committed()


def kill_in_conflicts(scene: Scene) -> None:
    """Values replace others: a batch that is done again must not take its own loser for a winner."""
    kill_between_commit_and_ack(scene)
    scene.moment()
    scene.ingest.kill()
    scene.ingest.start()


def stop_ingest(scene: Scene) -> None:
    """SIGTERM in mid-stream."""
    scene.moment()
    scene.stop()
    scene.ingest.start()


def take_over(scene: Scene) -> None:
    """A second ingest of the same name comes up: one goes on, the other says why it ends. At one place the spool prevents that."""
    first, log = scene.ingest.process, scene.ingest.tail
    scene.ingest.start(wait=False)
    wait_for(lambda: not scene.ingest.alive, log)
    assert scene.ingest.process.process.poll() == 1
    assert "another process uses" in scene.ingest.tail()
    scene.ingest.env["CITYBEAT_SPOOL_DIR"] = str(scene.home / "elsewhere")
    scene.ingest.start(wait=False)
    wait_for(lambda: first.process.poll() is not None, log)
    assert first.process.poll() == 1
    assert "took over" in first.log.read_text("utf-8")
    scene.committed()
    scene.moment()
    scene.stop()
    del scene.ingest.env["CITYBEAT_SPOOL_DIR"]  # where the first may have left something
    scene.ingest.start()


def clock_jumps(scene: Scene) -> None:
    """The clock of ingest's machine is set: ahead by a day, back, and behind by less than what is tolerated."""
    for seconds in (86_400, 0, -300, 3_600):
        scene.moment(10, 60)
        set_clock(scene.home / "clock", seconds)


# --- broker


def stop_broker(scene: Scene) -> None:
    """SIGTERM and a new start: nothing may be lost."""
    for _ in range(2):
        scene.tree.machinery.stop_broker()
        scene.tree.machinery.revive()
        scene.committed()
        scene.moment()


def _kill_broker(scene: Scene) -> None:
    at = scene.tree.machinery.kill_broker()
    scene.tree.machinery.revive()
    scene.broker_died(at)


def kill_broker(scene: Scene) -> None:
    """SIGKILL: what it took since its last autosave may be lost, and nothing else."""
    scene.moment(100, 300)
    _kill_broker(scene)
    scene.committed()


def kill_broker_with_a_queue(scene: Scene) -> None:
    """SIGKILL while ingest is away, and the broker the only one that has its messages."""
    scene.mqtt_link.refuse()
    scene.mqtt_link.cut()
    scene.moment(150, 350)
    _kill_broker(scene)
    scene.mqtt_link.accept()
    scene.committed()


def kill_broker_with_a_slow_database(scene: Scene) -> None:
    """SIGKILL while messages wait in ingest for the database."""
    scene.database_link.stall()
    scene.moment(150, 350)
    _kill_broker(scene)
    scene.database_link.resume()
    scene.committed()


def cut_mqtt(scene: Scene) -> None:
    """TCP reset of ingest's connection to the broker."""
    for _ in range(3):
        wait_for(scene.mqtt_link.cut, scene.ingest.tail)
        scene.committed()
        scene.moment()


def refuse_mqtt(scene: Scene) -> None:
    """Cut, and nobody is there for a while."""
    scene.mqtt_link.refuse()
    scene.mqtt_link.cut()
    scene.moment(100, 150)
    scene.mqtt_link.accept()
    scene.committed()


def stall_mqtt(scene: Scene) -> None:
    """Every packet between ingest and the broker is lost for some seconds; then TCP goes on."""
    scene.mqtt_link.stall()
    scene.moment(150, 300)
    scene.mqtt_link.resume()
    scene.committed()


def lose_mqtt(scene: Scene) -> None:
    """Half-open for good: nothing but the keep-alive tells."""
    wait_for(scene.mqtt_link.lose, scene.ingest.tail)
    scene.committed()


def slow_mqtt(scene: Scene) -> None:
    """Less than comes in: the broker queues, ingest lags."""
    scene.mqtt_link.slow(20_000)
    scene.moment(150, 250)
    scene.mqtt_link.slow(None)


# --- database


def crash_database(scene: Scene) -> None:
    """Immediate shutdown and recovery."""
    scene.tree.machinery.crash_database()
    scene.moment(10, 100)
    scene.tree.machinery.revive()
    scene.committed()


def terminate_backends(scene: Scene) -> None:
    """pg_terminate_backend of all of ingest's sessions, several times."""
    with closing(connect(scene.database_url, application="saboteur")) as connection:
        for _ in range(5):
            scene.moment(5, 40)
            wait_for(connection.execute(_TERMINATE).fetchall, scene.ingest.tail)
            scene.committed()


def cut_before_commit(scene: Scene) -> None:
    """The connection breaks before COMMIT reaches the server."""
    for _ in range(2):
        _commit_trap(scene, _COMMIT, "to server").cut()
        scene.committed()


def cut_after_commit(scene: Scene) -> None:
    """The connection breaks after COMMIT took effect, before its answer is back: nobody knows."""
    for _ in range(2):
        _commit_trap(scene, _COMMITTED, "to client").cut()
        scene.committed()


def cut_database(scene: Scene) -> None:
    """TCP reset of all connections to the database."""
    for _ in range(3):
        wait_for(scene.database_link.cut, scene.ingest.tail)
        scene.committed()
        scene.moment(5, 60)


def stall_database(scene: Scene) -> None:
    """Every packet between ingest and the database is lost for some seconds; then TCP goes on."""
    scene.database_link.stall()
    scene.moment(150, 300)
    scene.database_link.resume()
    scene.committed()


def lose_database(scene: Scene) -> None:
    """Half-open for good, in the middle of a transaction: the server's half holds the locks of the sources."""
    trap = _commit_trap(scene, _COMMIT, "to server")
    assert scene.database_link.lose() > 0
    trap.release()
    scene.committed()


def slow_database(scene: Scene) -> None:
    """Transactions take seconds."""
    scene.database_link.slow(50_000)
    scene.moment(150, 250)
    scene.database_link.slow(None)


def wedge_database(scene: Scene) -> None:
    """The writer's backend stands still, and its connection with it."""
    with closing(connect(scene.database_url, application="saboteur")) as connection:
        (pid,) = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'citybeat ingest writer'"
        ).fetchone()
    with scene.tree.machinery.frozen(pid):
        scene.moment(150, 300)
    scene.committed()


# --- spool, workers


def _spooling(scene: Scene) -> None:
    """Database away, and ingest goes on taking messages from the broker, and acknowledging them."""
    scene.tree.machinery.crash_database()
    scene.acknowledged(500)  # more than it had in hand


def spool(scene: Scene) -> None:
    """Away for longer than the inbox holds; then everything is drained, in order."""
    _spooling(scene)
    scene.tree.machinery.revive()
    scene.committed()


def kill_while_draining(scene: Scene) -> None:
    """SIGKILL while the spool is drained: between the commit of what was in it and its removal, too."""
    _spooling(scene)
    scene.tree.machinery.revive()
    for pattern, direction in ((_COMMIT, "to server"), (_COMMITTED, "to client")):
        trap = Trap(pattern, direction, marker=_WRITER, skip=scene.random.randrange(2))
        scene.database_link.trap(trap).wait()
        scene.ingest.kill()
        trap.cut()
        scene.ingest.start()


def kill_while_spooling(scene: Scene) -> None:
    """SIGKILL while messages go to the spool, the database being away; it is adopted by the next start."""
    _spooling(scene)
    scene.ingest.kill()
    scene.ingest.start(wait=False)
    scene.moment(50, 150)
    scene.tree.machinery.revive()
    scene.committed()


def spool_full(scene: Scene) -> None:
    """No room: it stops acknowledging, says so, and nothing is lost."""
    _spooling(scene)
    scene.silent(2.0)
    assert "full" in scene.ingest.tail()
    scene.tree.machinery.revive()
    scene.committed()


def kill_worker(scene: Scene) -> None:
    """One of two workers is killed; its supervisor starts it again."""
    for _ in range(2):
        wait_for(lambda: len(scene.ingest.children()) >= 2, scene.ingest.tail)
        os.kill(scene.random.choice(scene.ingest.children()), signal.SIGKILL)
        scene.moment()
        scene.committed()


def change_workers(scene: Scene) -> None:
    """Two, three, one, two: every source is somebody's at any time."""
    for number in (3, 1, 2):
        scene.moment()
        scene.stop()
        scene.ingest.options = ["--workers", str(number)]
        scene.ingest.start()
        scene.committed()


def change_workers_while_spooling(scene: Scene) -> None:
    """Two, three, one, two, the database being away: four layouts leave files with messages of each source, drained in order."""
    _spooling(scene)
    for number in (3, 1, 2):
        scene.stop()
        scene.ingest.options = ["--workers", str(number)]
        scene.ingest.start(wait=False)
        scene.acknowledged(200)
    scene.tree.machinery.revive()
    scene.committed()


#: The spool takes over soon.
_AWAY = {"CITYBEAT_SPOOL_AFTER_S": "1"}
#: Much that only a number, or a batch's id, can keep from being stored or refused twice.
_DELICATE = Mix(timeless=0.3, poison=0.1, conflicts=0.1)

CASES = [
    Case(name="clock jumps", inject=clock_jumps, clock=True),
    Case(name="ingest killed at random", inject=kill_ingest),
    Case(name="ingest killed before commit", inject=kill_before_commit, mix=_DELICATE),
    Case(name="ingest killed between commit and acknowledgement", inject=kill_between_commit_and_ack, mix=_DELICATE),
    Case(
        name="ingest killed in a batch of conflicts",
        inject=kill_in_conflicts,
        policy=ConflictPolicy.REPLACE,
        mix=Mix(conflicts=0.4, repeated=0.1),
    ),
    Case(name="ingest stopped", inject=stop_ingest),
    Case(name="ingest killed amid much poison", inject=kill_ingest, mix=Mix(poison=0.3)),
    Case(name="session taken over", inject=take_over),
    Case(name="broker stopped", inject=stop_broker),
    Case(name="broker killed", inject=kill_broker),
    Case(name="broker killed with a queue", inject=kill_broker_with_a_queue),
    Case(name="broker killed while the database is slow", inject=kill_broker_with_a_slow_database),
    Case(name="MQTT link cut", inject=cut_mqtt),
    Case(name="MQTT link refused", inject=refuse_mqtt),
    Case(name="MQTT link stalled", inject=stall_mqtt, once=True),
    Case(name="MQTT link slow", inject=slow_mqtt, once=True),
    Case(name="database crashed", inject=crash_database, once=True),
    Case(name="backends terminated", inject=terminate_backends, once=True),
    Case(name="connection cut before commit", inject=cut_before_commit, once=True, mix=_DELICATE),
    Case(name="connection cut after commit", inject=cut_after_commit, once=True, mix=_DELICATE),
    Case(name="database link cut", inject=cut_database, once=True),
    Case(name="database link stalled", inject=stall_database, once=True),
    Case(name="database link half-open", inject=lose_database, once=True, rate=30, seconds=27),
    Case(name="database link slow", inject=slow_database, once=True),
    Case(name="database wedged", inject=wedge_database, once=True),
    Case(
        name="MQTT link half-open",
        inject=lose_mqtt,
        env={"CITYBEAT_MQTT_KEEPALIVE_S": "3"},
    ),
    Case(name="database away for long", inject=spool, env=_AWAY),
    Case(name="ingest killed while spooling", inject=kill_while_spooling, env=_AWAY),
    Case(name="ingest killed while draining the spool", inject=kill_while_draining, env=_AWAY),
    Case(name="spool full", inject=spool_full, env=_AWAY | {"CITYBEAT_SPOOL_BYTES": "200000"}),
    Case(name="disk full", inject=spool_full, env=_AWAY, spool_disk=1024 * 1024),
    Case(name="one of two workers killed", inject=kill_worker, options=("--workers", "2")),
    Case(name="number of workers changed", inject=change_workers, options=("--workers", "2")),
    Case(
        name="number of workers changed while spooling",
        inject=change_workers_while_spooling,
        env=_AWAY,
        options=("--workers", "2"),
        mix=Mix(conflicts=0.3),
    ),
]
