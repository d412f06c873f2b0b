"""Commands of the stack that `make` runs before citybeat is installed, or after it was removed.

`python -m citybeat.stack prepare ROOT` unpacks the servers' programs ahead of time, while pip works; `python -m citybeat.stack
browser` installs the browser that tests of the console use; `python -m citybeat.stack down HOME` stops the servers of a home;
`python -m citybeat.stack env HOME` writes `.env` and the broker's users for `docker compose up`.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from citybeat.stack import docker, lifecycle, root
from citybeat.stack.errors import StackError
from citybeat.stack.model import Home, StackSettings

#: Names of Debian's browser, and of equivalent ones.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def install(packages: list[str]) -> None:
    """Install Debian packages. Only called as root, and only for packages that the private root or tests need.

    Raises
    ------
    StackError
        apt-get failed; the message has the end of its output.
    """
    print(f"installing {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "--quiet", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0 and arguments[0] == "install":  # an update may fail for a source that is not needed
            tail = "\n".join(done.stdout.splitlines()[-10:])
            raise StackError(f"apt-get {' '.join(arguments)} failed:\n{tail}")


def prepare(target: Path) -> None:
    """Build the private root, unless Docker provides the servers.

    Raises
    ------
    StackError
        A tool is missing and cannot be installed, or building the root failed.
    """
    if docker.engine_answers():
        return
    missing = root.missing_packages()
    if missing and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        install(missing)
    # The root user does not need bubblewrap, which often cannot work in a container anyway.
    root.require_tools(["mmdebstrap"] if os.geteuid() == 0 else list(root.TOOLS))
    root.ensure(target, print)


def browser() -> None:
    """Install Chromium if it is missing and the user is root; without it tests of the console are skipped."""
    if any(shutil.which(name) for name in BROWSERS):
        return
    if os.geteuid() == 0 and shutil.which("apt-get") is not None:
        try:
            install(["chromium"])
        except StackError as error:
            print(f"{error}\nChromium is missing: tests of the console will be skipped")
    else:
        print(
            f"Chromium is missing: tests of the console will be skipped. Install with: {root.APT_HINT.format(packages='chromium')}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m citybeat.stack", description=__doc__)
    parser.add_argument("what", choices=["prepare", "browser", "down", "env"])
    parser.add_argument("directory", type=Path, nargs="?", help="ROOT of prepare, HOME of down and env")
    options = parser.parse_args()
    if options.directory is None and options.what != "browser":
        parser.error(f"{options.what} needs a directory")
    try:
        if options.what == "browser":
            browser()
        elif options.what == "prepare":
            prepare(options.directory.absolute())
        elif options.what == "down":
            lifecycle.down(StackSettings(home=options.directory))
        else:
            docker.write_deployment(Home.of(StackSettings(home=options.directory)), Path(".env"))
            print("wrote .env; now: docker compose up --detach --wait")
    except StackError as error:
        sys.exit(f"citybeat: {error}")


if __name__ == "__main__":
    main()
