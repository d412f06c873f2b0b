"""`make bench`: measure, print tables, write JSON."""

import json
import os
import sys
from pathlib import Path

from bench import api, dashboards, export, hotpath, store
from bench.city import served

OUT = Path(".citybeat") / "bench.json"


def main() -> None:
    """Every measurement; the JSON file is named by the first argument."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    home = Path(os.environ.get("CITYBEAT_HOME", ".citybeat"))
    rows = hotpath.measure() + store.measure(home)
    with served(home) as city:
        questions = api.measure(city)
        rows += export.measure(city)
    print(f"{'what':55} {'readings/s':>12} {'limit/s':>12} {'ratio':>6}  limit")
    for row in rows:
        print(f"{row['name']:55} {row['ours_per_s']:12,.0f} {row['limit_per_s']:12,.0f} {row['ratio']:6.2f}  {row['limit']}")
    print()
    api.show(questions)
    panels = dashboards.measure(home)
    print()
    dashboards.report(panels)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows + questions + panels, indent=2, ensure_ascii=False) + "\n", "utf-8")


main()
