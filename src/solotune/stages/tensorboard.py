"""tensorboard: the curves of all runs in a browser, live, from the event files beside each metrics.jsonl."""

from __future__ import annotations

import errno
import logging
import signal
import socket
from pathlib import Path

from solotune.artifacts.run_dir import run_ids
from solotune.console import say
from solotune.errors import Interrupted, MachineError

RUNS = Path("runs")
_SECONDS_BETWEEN_LOOKS = 2


def run(host: str, port: int) -> None:
    """Serves until Ctrl-C, which is how it ends; port 0 takes a free one.

    Raises:
        MachineError: the address can't be served.
    """
    try:
        address = _serve(host, port)
        say(f'{address} (Ctrl-C ends it; to see curves grow: "Reload data", behind the gear at the top)')
        if not run_ids(RUNS):
            say("no runs yet: the first one shows once `invoke train --config CONFIG` has started it")
        while True:
            signal.pause()
    except KeyboardInterrupt:
        return
    except Interrupted as stop:
        raise Interrupted("", stop.exit_code) from None  # nothing here is left unfinished


def _serve(host: str, port: int) -> str:
    """Starts TensorBoard in a thread of its own, which ends with the process; returns its address."""
    from tensorboard import program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of each resume
    board = program.TensorBoard()
    # Its fast loader is a second process, with a port of its own.
    board.configure(logdir=str(RUNS), host=host, port=port, reload_interval=_SECONDS_BETWEEN_LOOKS, load_fast="false")
    try:
        # Upstream ends the process where it can't listen, so that is tried first.
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
        url: str = board.launch()
    except (OSError, OverflowError, program.TensorBoardServerException) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise MachineError(f"port {port} is in use", f"Choose another one: --port {port + 1}") from None
        raise MachineError(f"can't listen on {host}, port {port}: {error}", "Choose others: --host, --port") from None
    # 0.0.0.0 is where a container listens; it is no address to open.
    return url.rstrip("/").replace("//0.0.0.0", "//127.0.0.1")
