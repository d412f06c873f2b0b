"""Run a program that ends with the process that started it: `tether.py PARENT_PID PROGRAM [ARGUMENT…]`.

Executed as a file by `stack.process.spawn`, in an interpreter without site packages, so it imports only the standard library; it
takes about 15 ms. The alternative, a `preexec_fn`, may deadlock if the caller has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def tether(parent: int) -> None:
    """Tell the kernel to kill this process when its parent dies; this survives `exec`.

    Parameters
    ----------
    parent
        Expected process id of the parent. A different one means that the parent died before `prctl` took effect.

    Raises
    ------
    OSError
        The kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    tether(int(sys.argv[1]))
    program = sys.argv[2]
    try:
        os.execvp(program, sys.argv[2:])  # noqa: S606 - the purpose of this program
    except OSError as error:
        sys.stderr.write(f"{program}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
