"""What rides along with training: the log with its progress bar, and the stop on a signal."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from solotune.artifacts.files import write_text
from solotune.artifacts.run_dir import RunDir
from solotune.console import Progress, nobody_listens, warn
from solotune.errors import Interrupted
from solotune.modeling import gpu_peak
from solotune.modeling.event_file import EventFile
from solotune.signals import asked_to_end

_SPIKE_STEPS = 20
_SPIKE_DEVIATIONS = 6.0
_SPIKE_SHARE = 0.5


class MetricsLog(TrainerCallback):
    """metrics.jsonl, a line for each log; the same for TensorBoard; and the progress bar."""

    def __init__(self, path: Path, take_counts: Callable[[], tuple[int, int]], resumed_at: int = 0) -> None:
        self.path = path
        self.tokens = 0
        self.trained_tokens = 0
        self.seconds = 0.0
        self.last_loss: float | None = None
        self.last_eval_loss: float | None = None
        self.peak_vram_bytes: int | None = None
        """Over all processes of the run."""
        self._take_counts = take_counts
        self._seconds_of_step = 0.0
        self._step_start = 0.0
        self._bar: Progress | None = None
        self._shown_step = 0
        self._recent: deque[float] = deque(maxlen=_SPIKE_STEPS)
        self._events = EventFile(RunDir(path.parent), self._forget_after(resumed_at))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar = Progress("training", state.max_steps, "steps", state.global_step).__enter__()
        self._shown_step = state.global_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step_start = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self._seconds_of_step += time.perf_counter() - self._step_start
        # The last step is always logged, whatever logging_steps is, and so is one that is saved, or evaluated, which a
        # signal may turn into a save: what isn't in the log by then is gone with the process.
        saves = control.should_save or control.should_evaluate
        control.should_log = control.should_log or saves or state.global_step >= state.max_steps
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if "eval_loss" in logs:
            line = {"step": state.global_step, "eval_loss": logs["eval_loss"], **_vram()}
            self._write(line)
            self._add(line)
            return
        if "loss" not in logs:
            return  # upstream's closing summary
        loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        tokens, trained = self._take_counts()
        seconds, self._seconds_of_step = self._seconds_of_step, 0.0
        rate = tokens / max(seconds, 1e-9)
        line = {
            "step": state.global_step,
            "epoch": round(float(state.epoch or 0), 4),
            "loss": loss,
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": norm,
            "tokens": tokens,
            "trained_tokens": trained,
            "seconds": round(seconds, 4),
            "tokens_per_second": round(rate, 1),
        }
        shown: dict[str, float | str] = {"loss": loss, "tokens/s": rate}
        line |= _vram()
        if "vram_bytes" in line:
            shown["VRAM"] = f"{line['vram_bytes'] / 2**30:.1f} GiB"
        self._write(line)
        self._tell_spike(state.global_step, loss)
        self._add(line)
        if self._bar:
            self._bar.advance(state.global_step - self._shown_step, **shown)
            self._shown_step = state.global_step

    def close(self) -> None:
        if self._bar:
            self._bar.__exit__(None, None, None)

    def _tell_spike(self, step: int, loss: float) -> None:
        before = self._recent
        if len(before) == before.maxlen:
            usual = fmean(before)
            if loss > usual + max(_SPIKE_DEVIATIONS * stdev(before), _SPIKE_SHARE * usual):
                warn(f"step {step}: the loss is {loss:.3f}; the {len(before)} before it had {usual:.3f} on average")

    def _add(self, line: dict[str, Any]) -> None:
        self.tokens += line.get("tokens", 0)
        self.trained_tokens += line.get("trained_tokens", 0)
        self.seconds += line.get("seconds", 0.0)
        if "loss" in line:
            self.last_loss = line["loss"]
            self._recent.append(line["loss"])  # a resumed run knows what was usual before
        self.last_eval_loss = line.get("eval_loss", self.last_eval_loss)
        if "vram_bytes" in line:
            self.peak_vram_bytes = max(self.peak_vram_bytes or 0, line["vram_bytes"])

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._events.write(line)

    def _forget_after(self, step: int) -> list[dict[str, Any]]:
        """Cuts the log behind a step; returns the lines that stay."""
        kept, lines = [], []
        for text in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue  # cut by the kill that made this resume necessary
            if line["step"] <= step:
                kept.append(text + "\n")
                lines.append(line)
                self._add(line)
        write_text(self.path, "".join(kept))
        return lines


def _vram() -> dict[str, int]:
    """Bytes of the GPU's memory that this process has had at most."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return {"vram_bytes": gpu_peak.peak_bytes()}
    return {}


class StopAfter(TrainerCallback):
    """Saves and stops after a step, as a signal would: for a training that is to be a part of one."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.global_step >= self._step:
            control.should_save = control.should_training_stop = True
        return control


class StopOnSignal(TrainerCallback):
    """Ctrl-C, SIGTERM and a closed terminal finish the step, save and stop; a second one stops at once."""

    def __init__(self, how_to_go_on: str) -> None:
        """`how_to_go_on` is said where a second signal stops the run at once."""
        self.received: int | None = None
        self._how_to_go_on = how_to_go_on
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, *asked_to_end()):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.received is not None:
            control.should_save = True
            control.should_training_stop = True
        return control

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None:
            raise Interrupted(f"stopped at once; {self._how_to_go_on}", 128 + number)
        self.received = number
        # Not print: the signal may have come in the middle of one, whose buffer can't be entered twice.
        with nobody_listens():
            os.write(1, b"\nstopping after this step, then saving (again to stop at once)\n")
