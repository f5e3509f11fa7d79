"""What tasks of lm-evaluation-harness raise, as users are told it."""

from __future__ import annotations

import errno

import pytest

from solotune.errors import ConfigError, DataError
from solotune.harness.suite_data import NotAllowed
from solotune.harness.suite_tasks import first_line, trouble_told


def told(error: Exception) -> DataError:
    return DataError(f"the task can't run: {first_line(error)}")


def raised_below(cause: Exception) -> Exception:
    """As `datasets` raises what stopped it while it made its tables."""
    kind = type("DatasetGenerationError", (Exception,), {})
    error: Exception = kind("An error occurred while generating the dataset")
    error.__cause__ = cause
    return error


def test_what_a_task_raises_is_one_harmless_line() -> None:
    with pytest.raises(DataError, match=r"^the task can't run: ValueError: \\x1b\[2Jgone$"), trouble_told(told):
        raise ValueError("\x1b[2Jgone.\nsecond line")
    with pytest.raises(DataError, match="can't run: KeyError: 'ctx_a'"), trouble_told(told):
        raise raised_below(KeyError("ctx_a"))
    with pytest.raises(DataError, match="can't run: it computes with a program"), trouble_told(told):
        raise NotAllowed("it computes with a program")


def test_a_disks_trouble_is_no_tasks_fault_and_our_own_errors_stay() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as caught, trouble_told(told):
        raise raised_below(full)
    assert caught.value is full
    with pytest.raises(ConfigError, match="mine"), trouble_told(told):
        raise ConfigError(["mine"])
