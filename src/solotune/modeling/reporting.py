"""W&B, MLflow and Trackio, through the callbacks of transformers' own `report_to`.

They are guests: what they write stays in the run's folder unless the environment says otherwise, they leave the random
numbers as they were, and one that fails is told of and left out.
"""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from solotune.artifacts.files import make_folder
from solotune.artifacts.run_dir import RunDir
from solotune.console import safe, warn
from solotune.errors import MachineError

PROJECT = "solotune"


def require(report_to: Sequence[str]) -> None:
    """Raises MachineError where the package of one isn't installed; it has the same name."""
    if missing := [name for name in report_to if not _is_installed(name)]:
        names, are = ", ".join(missing), "isn't" if len(missing) == 1 else "aren't"
        raise MachineError(
            f"training.report_to: {names} {are} installed",
            f"Put {names} among the dependencies in pyproject.toml, then `invoke lock --package {missing[0]}` and, for "
            "the container, `invoke build`; or leave training.report_to out",
        )


class Reporting(TrainerCallback):
    """Hands what the trainer logs to each of `report_to`."""

    def __init__(self, report_to: Sequence[str], run: RunDir) -> None:
        """Imports the packages; a run that goes on without one of them is told."""
        if report_to:
            make_folder(run.reporting)  # W&B would take a temporary folder instead of one that isn't there
        for name in report_to:
            for variable, value in _stay_here(name, run.reporting.resolve(), run.run_id).items():
                os.environ.setdefault(variable, value)
        self._callbacks = {}
        for name in report_to:
            if not _is_installed(name):
                warn(f"training.report_to: {name} isn't installed and gets nothing; metrics.jsonl has everything")
                continue
            with self._as_guest(name, "start"):
                (callback,) = get_reporting_integration_callbacks([name])
                self._callbacks[name] = callback()

    def _hand_on(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name, callback in list(self._callbacks.items()):
            with self._as_guest(name, event):
                getattr(callback, event)(args, state, control, **kwargs)

    @contextmanager
    def _as_guest(self, name: str, event: str) -> Iterator[None]:
        numbers, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, it isn't worth a training
            self._callbacks.pop(name, None)
            lines = str(error).strip().splitlines() or ["no message"]
            warn(
                f"training.report_to: {name} failed ({event}) and gets no more: {type(error).__name__}: "
                f"{safe(lines[0])}; metrics.jsonl has everything"
            )
        finally:
            random.setstate(numbers)
            np.random.set_state(arrays)
            torch.set_rng_state(tensors)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._hand_on("on_train_begin", args, state, control, **kwargs)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._hand_on("on_log", args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._hand_on("on_train_end", args, state, control, **kwargs)


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _stay_here(name: str, folder: Path, run_id: str) -> dict[str, str]:
    """Environment variables that keep a package's data in `folder`; those that are set already win."""
    settings = {
        "wandb": {
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(folder),
            "WANDB_PROJECT": PROJECT,
            "WANDB_RUN_ID": run_id,
            "WANDB_RESUME": "allow",
            "WANDB_CONSOLE": "off",  # it would take over standard output, and with it the progress bar
            "WANDB_SILENT": "true",
            "WANDB_DISABLE_GIT": "true",  # a remote's address may hold a password
            "WANDB_ERROR_REPORTING": "false",
        },
        "mlflow": {
            # Its plain files are refused since 3.13.
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_EXPERIMENT_NAME": PROJECT,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        "trackio": {"TRACKIO_DIR": str(folder / "trackio"), "GRADIO_ANALYTICS_ENABLED": "False"},
    }
    return settings[name]
