"""An installation adds one package, with all that the checkout's folders have."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def built(source, target, out):
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    subprocess.run(command, cwd=source, capture_output=True, check=True)
    (made,) = out.iterdir()
    return made


def test_a_wheel_made_from_the_archive_of_sources_has_citybeat_alone_and_all_of_it(tmp_path):
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xzf", built(ROOT, "sdist", tmp_path / "sdist"), "-C", tmp_path / "unpacked"], check=True)
    (source,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(built(source, "wheel", tmp_path / "wheel")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"citybeat"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.name for path in (ROOT / "citybeat").iterdir() if path.is_symlink()}
    wanted = {f"citybeat/{name}" for name in tracked if name.split("/")[0] in folders and (ROOT / name).is_file()}
    wanted |= {name for name in tracked if name.startswith("citybeat/") and (ROOT / name).is_file()}
    assert names == wanted
