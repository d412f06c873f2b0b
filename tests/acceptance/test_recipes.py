"""docs/recipes.md, run as it stands: each block of sh by a shell, each block of Python in one session, in order."""

import re
import subprocess
from pathlib import Path

import pandas as pd
import polars as pl

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_recipe_works(service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CITYBEAT_URL", service.url)
    monkeypatch.setenv("CITYBEAT_KEY", service.key)
    session = {"__name__": "recipes"}
    kinds = []
    for kind, text in BLOCK.findall(RECIPES.read_text("utf-8")):
        if text.startswith("export CITYBEAT_URL"):
            continue  # where the demo is; here it is elsewhere
        kinds.append(kind)
        if kind == "python":
            exec(compile(text, str(RECIPES), "exec"), session)
        else:
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, (text, done.stderr)
            assert done.stdout or " -o " in text, text
    session["city"].close()
    assert kinds.count("sh") >= 9
    assert kinds.count("python") >= 12
    frames = {name: thing for name, thing in session.items() if isinstance(thing, pd.DataFrame | pl.DataFrame)}
    assert {"latest", "hours", "by_device", "quarters", "readings", "month", "same_month"} <= set(frames)
    assert not [name for name, frame in frames.items() if not len(frame)]
    assert session["rows"] == len(session["month"]) > 1000
    assert set(session["by_device"].columns) == {"env-0007", "env-0008"}
    assert ("readings", "env-0100") in {(event, data["device"][0]) for event, data in session["events"] if event == "readings"}
