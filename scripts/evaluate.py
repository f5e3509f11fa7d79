"""Base and adapter on held-out rows -> runs/<run_id>/eval_report.json. The same as `solotune evaluate`."""

import sys
from pathlib import Path

# Python puts this folder first on the path, and evaluate.py would stand in for the `evaluate` package.
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from solotune.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main(["evaluate", *sys.argv[1:]]))
