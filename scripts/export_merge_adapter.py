"""Adapter, and with --merge the merged model -> runs/<run_id>/export/. The same as `solotune export`."""

import sys
from pathlib import Path

# Python puts this folder first on the path, and evaluate.py would stand in for the `evaluate` package.
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from solotune.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main(["export", *sys.argv[1:]]))
