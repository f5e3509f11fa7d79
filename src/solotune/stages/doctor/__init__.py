"""doctor: can this machine do what a config asks for? Each finding with its fix. Changes nothing."""

from __future__ import annotations

from solotune.console import say
from solotune.errors import MachineError
from solotune.stages.doctor import container, gpu, machine
from solotune.stages.doctor.finding import as_json, show


def run(*, json: bool = False) -> None:
    """Prints every finding, for people or as JSON.

    Raises:
        MachineError: at least one of them would make a run fail.
    """
    groups = {
        "machine": list(machine.findings()),
        "container": list(container.findings()),
        "gpu": list(gpu.findings()),
    }
    findings = [finding for group in groups.values() for finding in group]
    if json:
        say(as_json(findings))
    else:
        show(groups)
    failed = [f.name for f in findings if f.status == "FAIL"]
    if failed:
        raise _Failed(
            f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}",
            "Fix the first one, then run it again",
        )
    if not json:
        say(f"ready ({sum(f.status == 'warn' for f in findings)} warn)")


class _Failed(MachineError):
    exit_code = 1
