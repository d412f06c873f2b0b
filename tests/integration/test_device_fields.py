"""A field of devices is one line of `devices/device.py` and a migration: shown by adding one to a copy of the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAST = "    tags: Mapping[str, str] = _described("
ADDED = '    height: float | None = _described(FieldType.NUMBER, "Metres above ground.", 3.5, least=-100, most=1000)\n'


def test_a_field_is_added_in_one_place(tmp_path, database):
    packages = [path.parent.name for path in ROOT.glob("*/__init__.py")]
    for package in packages:
        shutil.copytree(ROOT / package, tmp_path / package, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    listed = tmp_path / "devices" / "device.py"
    text = listed.read_text("utf-8")
    assert text.count(LAST) == 1
    listed.write_text(text.replace(LAST, ADDED + LAST), "utf-8")
    migrations = tmp_path / "storage" / "migrations"
    newest = max(int(path.name[:4]) for path in migrations.glob("*.sql"))
    (migrations / f"{newest + 1:04}_height.sql").write_text("ALTER TABLE devices ADD COLUMN height float8;\n", "utf-8")
    script = Path(__file__).with_name("added_field.py")
    env = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, script, database], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
