"""Which signals ask a command to end: Ctrl-C, SIGTERM, and the SIGHUP of a terminal that was closed."""

from __future__ import annotations

import os
import signal


def asked_to_end() -> list[signal.Signals]:
    """SIGTERM, and SIGHUP unless whoever started this process had it ignored, as nohup does."""
    hung_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, *hung_up]


def came_from_terminal(number: int) -> bool:
    """Whether a signal that came here went to the children, too: Ctrl-C does, to all of the foreground group."""
    if number != signal.SIGINT:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
