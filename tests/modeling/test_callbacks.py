from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from solotune.errors import Interrupted
from solotune.modeling.callbacks import MetricsLog, StopOnSignal


def test_a_loss_far_above_those_before_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", lambda: (1, 1))
    for step, loss in enumerate([2.0 + 0.1 * (n % 3) for n in range(25)] + [2.5, 9.0, 2.1], start=1):
        state = SimpleNamespace(global_step=step, epoch=0.5)
        log.on_log(SimpleNamespace(logging_steps=1), state, None, {"loss": loss, "grad_norm": 1.0})  # type: ignore[arg-type]
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == ["warning: step 27: the loss is 9.000; the 20 before it had 2.115 on average"]


def test_the_first_signal_saves_and_stops_and_the_second_stops_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    before = signal.getsignal(signal.SIGTERM)
    with StopOnSignal("go on with X") as stop:
        stop.on_step_end(None, None, control)  # type: ignore[arg-type]
        assert not control.should_training_stop
        signal.raise_signal(signal.SIGTERM)
        stop.on_step_end(None, None, control)  # type: ignore[arg-type]
        assert control.should_save
        assert control.should_training_stop
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.exit_code == 143
        assert str(caught.value) == "stopped at once; go on with X"
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_peak_of_memory_is_that_of_all_processes_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "vram_bytes": 5}\n{"step": 2, "vram_bytes": 9}\n{"step": 3, "vram_bytes": 11}\n')
    log = MetricsLog(path, lambda: (1, 1), resumed_at=2)
    assert log.peak_vram_bytes == 9
    log.close()
