"""pipeline: what it says where a stage is stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Outcome, RunManifest
from solotune.chains import pipeline
from solotune.config.load import load
from solotune.errors import Interrupted

RUN = "20260101-000000-small-aaaaaa"
LEFT = f"invoke evaluate --run {RUN} && invoke export --run {RUN} --merge`"


@pytest.mark.parametrize(
    ("stage", "outcome", "left"),
    [
        ("train", None, f"what is left of it: `invoke train --resume {RUN} && {LEFT}"),
        (
            "evaluate",
            Outcome(1, 1.0, 1, 1, 1.0, None, None, None, {}),
            f"what is left of it: `{LEFT}",
        ),
        ("prepare", None, ""),
    ],
)
def test_a_stop_says_what_is_left_of_a_run_that_has_begun(
    stage: str, outcome: Outcome | None, left: str, small_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_stage(command: Sequence[str], afterwards: str) -> None:
        if command[0] == stage:
            raise Interrupted("", 143)

    if stage != "prepare":
        manifest = RunManifest(1, RUN, "", "", 0, "strict", "", {}, {}, "", {}, "", {}, outcome=outcome)
        (run_dir := RunDir(Path("runs") / RUN)).path.mkdir(parents=True)
        run_dir.write_manifest(manifest)
    monkeypatch.setattr(pipeline, "run_stage", run_stage)
    monkeypatch.setattr(pipeline, "new_run_id", lambda _: RUN)
    monkeypatch.setattr(pipeline, "_refuse_without_held_out_rows", lambda _: None)
    with pytest.raises(Interrupted) as stopped:
        pipeline.run(load(Path("small.yaml")), ["--config", "small.yaml"])
    assert (str(stopped.value), stopped.value.exit_code) == (left, 143)
