"""Exit codes and messages, through the command line's own entry."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from solotune import cli
from solotune.errors import Interrupted, SolotuneError


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys; from solotune.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'pydantic'} & sys.modules.keys()"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fetch" in done.stdout
    assert time.perf_counter() - start < 2  # 0.1 s on an idle machine


def test_a_wrong_key_is_one_line_and_exit_code_2_and_nothing_is_written(
    small_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().rglob("*"))
    text = small_experiment.read_text().replace("learning_rate", "learning_rat")
    small_experiment.write_text(text)
    assert cli.main(["train", "--config", "small.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: small.yaml:")
    assert "learning_rate" in line
    assert sorted(Path().rglob("*")) == before


def test_a_metric_that_doesnt_exist_shows_before_anything_runs(
    small_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_experiment.write_text(small_experiment.read_text().replace("exact_match", "exakt_match"))
    assert cli.main(["train", "--config", "small.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: small.yaml:")
    assert "evaluation.metrics[0]: there is no metric 'exakt_match'; did you mean exact_match? (there are: " in err


def test_a_missing_config_is_one_line(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--config", "configs/none.yaml"]) == 2
    assert "configs/none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (SolotuneError("no", "Do it"), 2, "error: no. Do it"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted("saved at step 3", 143), 143, "saved at step 3"),
        (OSError(28, "No space left on device", "runs/x"), 2, "runs/x: the disk is full"),
        (PermissionError(13, "Permission denied", "runs/x"), 2, "no permission"),
        (
            RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file: file write failed"),
            2,
            "disk is full",
        ),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), 2, "the GPU's memory is full"),
        (RuntimeError("oops"), 1, "fault in solotune"),
    ],
)
def test_every_end_has_its_exit_code_and_no_traceback(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    said: str,
) -> None:
    from solotune.stages import runs

    def fail() -> None:
        raise raised

    monkeypatch.setattr(runs, "run", fail)
    assert cli.main(["runs"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_interpreter_ends_says_nothing(number: int) -> None:
    """Ctrl-C twice: the first one saved, and the second came when all was done."""
    code = (
        "import atexit, sys, time; from solotune import cli\n"
        "atexit.register(lambda: (print('ending', flush=True), time.sleep(30)))\n"
        "sys.argv = ['solotune', 'runs']; cli.program()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        for line in process.stdout:
            if line == b"ending\n":
                break
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (-number, b"")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate", "--run", "latest", "--split", "tset"], "invalid choice: 'tset'"),
        (["prepare"], "the following arguments are required: --config"),
        (["nothing"], "invalid choice: 'nothing'"),
    ],
)
def test_a_slip_is_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2
    assert line.startswith("error: ")
    assert told in line
    assert line.endswith("--help` lists the options")


def test_debug_shows_the_traceback(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from solotune.stages import runs

    monkeypatch.setattr(runs, "run", lambda: (_ for _ in ()).throw(SolotuneError("no")))
    with pytest.raises(SolotuneError):
        cli.main(["runs", "--debug"])


def test_train_wants_a_config_or_a_run(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train"]) == 2
    assert "--config CONFIG, or --resume RUN" in capsys.readouterr().err


def test_a_gpu_config_without_a_gpu_is_one_line(small_experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    text = small_experiment.read_text().replace("device: cpu", "device: cuda")
    small_experiment.write_text(text)
    assert cli.main(["train", "--config", "small.yaml"]) == 2
    err = capsys.readouterr().err
    assert "asks for a CUDA GPU" in err
    assert not Path("runs").exists()


def test_stages_name_the_command_that_comes_first(small_experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--config", "small.yaml"]) == 2
    assert "invoke prepare --config" in capsys.readouterr().err
    assert cli.main(["evaluate", "--run", "latest"]) == 2
    assert "invoke train --config" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["prepare_dataset", "train_sft", "evaluate", "export_merge_adapter"])
@pytest.mark.parametrize("flags", [[], ["-P"]])
def test_scripts_are_doors_to_the_same_stages(script: str, flags: list[str]) -> None:
    path = Path(__file__).parent.parent / "scripts" / f"{script}.py"
    done = subprocess.run([sys.executable, *flags, path, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: solotune ")


def test_the_evaluate_script_doesnt_stand_in_for_the_evaluate_package(tmp_path: Path) -> None:
    """`python scripts/evaluate.py` puts scripts/ first on the path; other packages import `evaluate`."""
    package = tmp_path / "evaluate"
    package.mkdir()
    (package / "__init__.py").write_text("NAME = 'the real one'")
    scripts = Path(__file__).parent.parent / "scripts"
    for script in sorted(scripts.glob("*.py")):
        if script.name == "bootstrap_uv.py":
            continue
        code = (
            "import runpy, sys, json\n"
            f"sys.path.insert(0, {str(scripts)!r}); sys.path.insert(1, {str(tmp_path)!r})\n"
            f"runpy.run_path({str(script)!r}, run_name='door')\n"
            "import evaluate; print(json.dumps(evaluate.NAME))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert json.loads(done.stdout or "null") == "the real one", done.stderr


def test_a_gguf_type_that_there_isnt_is_told_before_torch_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    from solotune.arguments import TYPES as GGUF_TYPES
    from solotune.config.gguf_types import TYPES

    assert GGUF_TYPES == TYPES
    for typed, told in {"q8_0,q4_km": "no GGUF type 'q4_km'; did you mean q4_k_m?", "x": "'x'. There are f32"}.items():
        with pytest.raises(SystemExit) as left:
            cli.main(["export", "--run", "latest", "--gguf", typed])
        assert left.value.code == 2
        assert told in capsys.readouterr().err
