"""The parent process of the servers of one home: `python -m citybeat.stack.supervisor HOME`.

It runs while processes use the servers or the home's `keep` file exists. After that, and on SIGTERM, it stops the servers
gracefully and ends. On SIGHUP it starts crashed servers again. If it is killed, the kernel kills the servers: they are started with
a parent-death signal, which watches the thread that started them, and the supervisor has only one.

Readiness, set-up and messages are left to its callers.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from citybeat.stack import lock
from citybeat.stack.model import Home
from citybeat.stack.plan import Plan, Program, Report, Running
from citybeat.stack.process import Identity, identify, is_alive
from citybeat.stack.sandbox import Sandbox, child_pid

TICK = 0.1  # seconds between checks of children and users, and so the delay after the death of the last user
STEP = 0.02  # seconds between checks while servers are stopping


class Supervisor:
    """Runs the servers of one home.

    Parameters
    ----------
    home
        The state directory, which has the plan; the report is written to it.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._plan = Plan.load(home.plan)
        self._users = lock.Users(home.users)
        self._children: dict[str, subprocess.Popen[str]] = {}
        self._signals: set[int] = set()
        me = identify(os.getpid())
        if me is None:
            raise RuntimeError("/proc does not show this process")
        self._report = Report(me, self._plan.kind, dict(self._plan.ports))

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        try:
            self._start_missing()
            while not self._told_to_stop():
                time.sleep(TICK)
                self._look()
        finally:
            self._stop_all()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.add(number)

    def _told_to_stop(self) -> bool:
        if self._signals & {signal.SIGTERM, signal.SIGINT}:
            return True
        if self._home.keep.exists() or not self._users.none_left():
            return False
        # The servers have no users. A process that is about to use them holds the home's lock: check again later. While this
        # process holds the lock, none can begin to use them; the lock ends with this process.
        held = lock.try_exclusive(self._home.run / "lock")
        if held is None:
            return False
        if not self._home.keep.exists() and self._users.none_left():
            return True
        os.close(held)
        return False

    def _look(self) -> None:
        for name, child in list(self._children.items()):
            status = child.poll()
            if status is None and signal.SIGHUP in self._signals and not is_alive(self._report.servers[name].process):
                status = (
                    child.wait()
                )  # the server is gone, and its bubblewrap about to end: wait, or SIGHUP would not start it again
            if status is not None:
                del self._children[name]
                server = self._report.servers[name]
                server.state, server.exit_status = "crashed", status
                self._report.save(self._home.state)
        if signal.SIGHUP in self._signals:
            self._signals.discard(signal.SIGHUP)
            self._start_missing()

    def _start_missing(self) -> None:
        for program in self._plan.programs:
            if program.name not in self._children:
                self._report.servers[program.name] = self._start(program)
        self._report.save(self._home.state)

    def _start(self, program: Program) -> Running:
        if self._plan.sandbox is None:
            raise RuntimeError("a plan with programs has a sandbox")
        sandbox = Sandbox(**self._plan.sandbox)  # type: ignore[arg-type]  # the kind was written by `local.prepare`
        log = Path(program.log)
        log_from = log.stat().st_size if log.exists() else 0
        read_end, write_end = os.pipe()
        with log.open("ab") as stream:
            child = sandbox.popen(program.argv, stdout=stream, info=write_end if sandbox.kind == "bwrap" else None)
        os.close(write_end)
        self._children[program.name] = child
        pid = child_pid(read_end) or child.pid
        return Running("running", identify(pid) or Identity(pid, "ended at once"), log_from)

    def _stop_all(self) -> None:
        deadlines: dict[str, tuple[list[tuple[str, float]], float]] = {}
        for program in self._plan.programs:
            if program.name in self._children:
                deadlines[program.name] = (list(program.stop), 0.0)
        while deadlines:
            for name, (signals, deadline) in list(deadlines.items()):
                child = self._children[name]
                if child.poll() is not None:
                    del deadlines[name]
                elif time.monotonic() >= deadline:
                    if not signals:
                        child.kill()  # bubblewrap ends its server too
                        child.wait()
                        continue
                    number, seconds = signals.pop(0)
                    _send_to_server(self._report.servers[name].process, child, signal.Signals[number])
                    deadlines[name] = (signals, time.monotonic() + seconds)
            time.sleep(STEP)
        if self._plan.on_stop:
            subprocess.run(self._plan.on_stop, stdin=subprocess.DEVNULL, check=False)
        self._home.state.unlink(missing_ok=True)


def _send_to_server(server: Identity, child: "subprocess.Popen[str]", number: signal.Signals) -> None:
    if identify(server.pid) == server:
        os.kill(server.pid, number)
    else:
        child.kill()  # the child never became the server


def main() -> None:
    home = Home(Path(sys.argv[1]))
    child = os.fork()
    if child > 0:
        os.write(1, str(child).encode())
        os._exit(0)  # the caller waits for this process; init adopts and reaps the other one
    os.dup2(2, 1)  # close the pipe to the caller
    Supervisor(home).run()


if __name__ == "__main__":
    main()
