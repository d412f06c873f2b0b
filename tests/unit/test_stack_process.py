"""Who is who, who is alive, and children that do not outlive their parent."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from citybeat import stack
from citybeat.stack import lock, probe
from citybeat.stack.process import Identity, free_port, identify, is_alive, port_is_free, send, wait_gone


def test_a_process_is_its_id_and_its_start():
    me = identify(os.getpid())
    assert me is not None
    assert is_alive(me)
    assert not is_alive(Identity(me.pid, "another start"))


def test_a_recycled_id_is_never_signalled():
    with subprocess.Popen(["sleep", "60"]) as child:
        right = identify(child.pid)
        assert right is not None
        assert not send(Identity(child.pid, "another start"), signal.SIGKILL)
        assert child.poll() is None
        assert send(right, signal.SIGKILL)
        assert wait_gone(right, 5)  # although it is a zombie until its parent asks
        child.wait()
    assert not send(right, signal.SIGKILL)


def test_a_spawned_child_runs_and_gives_its_status():
    child = stack.spawn([sys.executable, "-c", "import sys; print('hello'); sys.exit(3)"], stdout=subprocess.PIPE)
    output, _ = child.communicate(timeout=20)
    assert (output, child.returncode) == (b"hello\n", 3)


def test_a_program_that_is_not_there_is_status_127():
    child = stack.spawn(["/no/such/program"], stderr=subprocess.PIPE)
    _, error = child.communicate(timeout=20)
    assert child.returncode == 127
    assert b"/no/such/program" in error


def test_a_spawned_child_dies_with_its_parent():
    code = (
        "import time\n"
        "from citybeat import stack\n"
        "child = stack.spawn(['sleep', '60'])\ntime.sleep(0.5)\nprint(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(stack.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = identify(int(parent.stdout.readline()))
        assert child is not None
        assert is_alive(child)
        parent.kill()
        assert wait_gone(child, 5)


def test_spawn_is_for_the_main_thread():
    errors: list[BaseException] = []

    def work() -> None:
        try:
            stack.spawn(["true"])
        except stack.StackError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert "main thread" in str(errors[0])


def test_ports():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not port_is_free(taken.getsockname()[1])
    port = free_port()
    assert port_is_free(port)


def test_use_is_counted_in_a_process_and_seen_by_another(tmp_path: Path):
    path = tmp_path / "users"
    code = f"import pathlib, citybeat.stack.lock as l; print(l.Users(pathlib.Path({str(path)!r})).none_left())"
    environment = {**os.environ, "PYTHONPATH": str(Path(stack.__file__).parents[2])}

    def none_left() -> bool:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip() == "True"

    lock.register_use(path)
    lock.register_use(path)
    assert not none_left()
    assert not lock.release_use(path)
    assert not none_left()
    assert lock.release_use(path)
    assert none_left()


def test_a_lock_says_that_it_waits(tmp_path: Path):
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with lock.exclusive(tmp_path / "lock", said.append, "waiting"):
            order.append("second")

    with lock.exclusive(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 5
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert (said, order) == (["waiting"], ["first", "second"])


@pytest.mark.parametrize("text", [b"R\x00\x00\x00\x17\x00\x00\x00\nSCRAM-SHA-256\x00\x00", b"E\x00\x00\x00\x0eC57P03\x00\x00"])
def test_postgres_is_asked_in_its_own_protocol(text: bytes):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100)[4:8] == b"\x00\x03\x00\x00"
                connection.sendall(text[:3])
                connection.sendall(text[3:])

        thread = threading.Thread(target=answer)
        thread.start()
        said = probe.database("127.0.0.1", server.getsockname()[1], "citybeat", "citybeat")
        thread.join()
    assert said is (probe.Readiness.READY if text[:1] == b"R" else probe.Readiness.NOT_YET)


def test_nobody_answers_is_not_yet():
    port = free_port()
    assert probe.database("127.0.0.1", port, "a", "b") is probe.Readiness.NOT_YET
    assert probe.broker("127.0.0.1", port, "a", "b") is probe.Readiness.NOT_YET
