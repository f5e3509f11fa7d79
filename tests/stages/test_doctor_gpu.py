"""What doctor says of the GPU, where there is none: the verdicts on figures, and the checks that a CPU can run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from solotune.environment import prepare_process
from solotune.stages.doctor import gpu, spill

GIB = 2**30

Smi = Callable[..., None]


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    """Puts an nvidia-smi with these answers into PATH."""

    def put(cards: str = "", apps: str = "", code: int = 0) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        tool = folder / "nvidia-smi"
        tool.write_text(
            f"#!/bin/sh\ncase $1 in --query-gpu*) echo '{cards}' ;; --query-compute-apps*) echo '{apps}' ;; esac\n"
            f"exit {code}\n"
        )
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return put


@pytest.fixture
def no_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")


def test_without_a_gpu_there_is_one_warning_and_the_rest_is_skipped(smi: Smi, no_gpu: None) -> None:
    smi(code=9)
    findings = list(gpu.findings())
    assert [f.name for f in findings] == ["gpu", "driver", "vram", "spill", "bf16", "nf4", "triton"]
    assert findings[0].status == "warn"
    assert "device: cpu ones (smoke) run" in findings[0].fix
    assert {f.status for f in findings[1:]} == {"skip"}


@pytest.mark.parametrize(("version", "status"), [("581.15", "ok"), ("560.94", "FAIL"), ("[N/A]", "warn")])
def test_a_card_that_torch_cant_use_fails_and_its_driver_is_told(
    smi: Smi, no_gpu: None, version: str, status: str
) -> None:
    smi(cards=f"NVIDIA GeForce RTX 4090, 24564 MiB, {version}")
    found = {f.name: f for f in gpu.findings()}
    assert found["gpu"].status == "FAIL"
    assert "setup_wsl.sh" in found["gpu"].fix
    assert found["driver"].status == status
    assert found["nf4"].status == "skip"


def test_a_gpu_that_was_hidden_warns_with_how_to_show_it(
    smi: Smi, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(cards="NVIDIA GeForce RTX 4090, 24564 MiB, 581.15")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    finding = next(iter(gpu.findings()))
    assert finding.status == "warn"
    assert "`unset CUDA_VISIBLE_DEVICES`" in finding.fix


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("580.65.06", "ok"),
        ("616.92", "ok"),
        ("579.99", "FAIL"),
        ("470", "FAIL"),
        ("", "warn"),
        ("[Not Supported]", "warn"),
        ("unknown", "warn"),
    ],
)
def test_driver(version: str, status: str) -> None:
    finding = gpu.driver(version)
    assert finding.status == status
    assert ("580" in finding.fix) is (status != "ok")


def test_programs_that_hold_memory_are_named_without_their_path(smi: Smi) -> None:
    smi(apps="812, /somewhere/anna/.venv/bin/python, 1024 MiB\n913, [Not Found], [N/A]")
    assert gpu.holders() == ["python (pid 812, 1024 MiB)", "[Not Found] (pid 913, [N/A])"]


def test_no_answer_of_nvidia_smi_is_no_holder(smi: Smi) -> None:
    smi(apps="12, x, 1 MiB", code=6)
    assert gpu.holders() == []


@pytest.mark.parametrize(
    ("free", "total", "status"),
    [
        (22.8, 24, "ok"),
        (21.9, 24, "warn"),
        (22.1, 23.6, "ok"),
        (73, 80, "ok"),
        (71, 80, "warn"),
        (14.5, 16, "ok"),
        (14, 16, "warn"),
    ],
)
def test_free_memory(free: float, total: float, status: str) -> None:
    finding = gpu.vram(int(free * GIB), int(total * GIB), [], wsl=False)
    assert finding.status == status


def test_taken_memory_comes_with_who_holds_it_and_where_windows_shows_its_own() -> None:
    finding = gpu.vram(10 * GIB, 24 * GIB, ["python (pid 812, 9000 MiB)"], wsl=True)
    assert finding.found == "10.0 of 24.0 GiB free; held by python (pid 812, 9000 MiB)"
    assert "Task Manager > Performance > GPU" in finding.fix
    assert "Task Manager" not in gpu.vram(10 * GIB, 24 * GIB, [], wsl=False).fix


@pytest.mark.parametrize(
    ("wsl", "held", "free", "tried"),
    [
        (True, [], 23.4, True),
        (True, [], 15.0, False),  # a training in another container isn't visible, its memory is
        (True, ["python (pid 812, 9000 MiB)"], 23.4, False),
        (False, [], 23.4, False),
    ],
)
def test_the_spill_check_doesnt_take_the_memory_of_a_running_training(
    wsl: bool, held: list[str], free: float, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * GIB), 24 * GIB))
    monkeypatch.setattr(gpu.environment, "is_wsl", lambda: wsl)
    monkeypatch.setattr(gpu.spill, "measure", lambda: [400.0 * GIB] * 44)
    assert (gpu._spill(held).status != "skip") == tried


# --- spill: rates in GiB/s, a piece is 0.5 GiB

EVEN = [400.0] * 44
NOISY = [400.0, 310.0, 420.0, 260.0, 390.0, 405.0] * 7


def verdict(rates: list[float]) -> tuple[str, str]:
    finding = spill.verdict([rate * GIB for rate in rates])
    return finding.status, finding.found


@pytest.mark.parametrize("rates", [EVEN, NOISY, [400.0], [380.0, 12.0 * 8]])
def test_even_rates_are_no_spill(rates: list[float]) -> None:
    assert verdict(rates)[0] == "ok"


def test_an_even_card_is_told_with_its_size_and_speed() -> None:
    assert verdict(EVEN) == ("ok", "22.0 GiB filled, all of it at 400 to 400 GiB/s")


@pytest.mark.parametrize("late", [1, 4, 15])
def test_slow_late_pieces_are_a_spill_and_the_rest_is_what_is_usable(late: int) -> None:
    rates = [*NOISY, *[12.0] * late]
    status, found = verdict(rates)
    assert status == "warn"
    assert found.startswith(f"only 21.0 of {len(rates) / 2:.1f} GiB are on the card (260 to 420 GiB/s)")
    assert "in the PC's memory (12 to 12 GiB/s)" in found


def test_a_spill_comes_with_the_figure_for_plan() -> None:
    finding = spill.verdict([400.0 * GIB] * 41 + [12.0 * GIB] * 3)
    assert "`--vram 20.5`" in finding.fix
    assert "Task Manager" in finding.fix


def test_a_rate_of_a_third_is_no_spill_and_one_of_a_fifth_is() -> None:
    assert verdict([*EVEN, 134.0])[0] == "ok"
    assert verdict([*EVEN, 80.0])[0] == "warn"


def test_a_full_card_is_not_judged() -> None:
    assert verdict([])[0] == "skip"


# --- the checks of results, on a CPU


def test_four_bit_layers_are_tried_forward_and_backward() -> None:
    prepare_process(device="cpu")
    finding = gpu.nf4("cpu")
    assert finding.status == "ok"
    errors = [float(e) for e in finding.found.removeprefix("forward and backward: relative error ").split(", ")]
    assert len(errors) == 2
    assert all(0.05 < e < 0.15 for e in errors)  # 4 bits: neither exact nor wrong


def test_the_kernel_computes_what_it_says() -> None:
    """In Triton's interpreter, which is chosen when Triton is imported."""
    code = "from solotune.stages.doctor import gpu; print(gpu.triton('cpu'))"
    settings = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == 0, done.stderr
    assert "status='ok'" in done.stdout


@pytest.mark.parametrize(("wrong", "status"), [(1.0, "ok"), (1.1, "ok"), (1.5, "FAIL"), (math.nan, "FAIL")])
def test_results_that_are_off_or_not_numbers_fail(wrong: float, status: str) -> None:
    import torch

    right = torch.ones(8)
    finding = gpu._compared("x", "sum", [(right.bfloat16(), right), (right * wrong, right)], tolerance=0.2)
    assert finding.status == status
