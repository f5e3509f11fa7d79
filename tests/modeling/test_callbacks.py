from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from solotune.errors import Interrupted, ModelError
from solotune.modeling.callbacks import MetricsLog, StopOnSignal


def test_a_loss_that_isnt_a_number_stops_the_run(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", lambda: (1, 1))
    state = SimpleNamespace(global_step=3, epoch=0.5)
    with pytest.raises(ModelError, match="step 3: the loss is nan"):
        log.on_log(SimpleNamespace(logging_steps=1), state, None, {"loss": float("nan"), "grad_norm": 1.0})  # type: ignore[arg-type]


def test_the_first_signal_saves_and_stops_and_the_second_stops_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    before = signal.getsignal(signal.SIGTERM)
    with StopOnSignal() as stop:
        stop.on_step_end(None, None, control)  # type: ignore[arg-type]
        assert not control.should_training_stop
        signal.raise_signal(signal.SIGTERM)
        stop.on_step_end(None, None, control)  # type: ignore[arg-type]
        assert control.should_save
        assert control.should_training_stop
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
