"""What a run remembers of its machine and code, and what a process is set up with."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

import solotune
from solotune import environment

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
IMAGE = ("SOLOTUNE_IMAGE", "SOLOTUNE_IMAGE_LOCK", "SOLOTUNE_IMAGE_REVISION")


@pytest.fixture(autouse=True)
def no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in IMAGE:
        monkeypatch.delenv(name, raising=False)


def test_a_run_remembers_libraries_machine_and_lock(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text("version = 1\n")
    found = environment.describe(tmp_path)
    assert found.keys() == {
        *("git_commit", "git_diff_sha256", "source_sha256", "lock_sha256", "image", "python", "libraries"),
        *("platform", "wsl", "cpu_count", "processor", "gpu"),
    }
    assert found["lock_sha256"] == hashlib.sha256(b"version = 1\n").hexdigest()
    assert found["python"] == platform.python_version()
    assert {"torch", "transformers", "trl", "peft", "bitsandbytes"} <= found["libraries"].keys()
    assert found["cpu_count"] == os.cpu_count()
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_without_git_and_lock_those_are_null_and_the_code_is_known(tmp_path: Path) -> None:
    found = environment.describe(tmp_path)
    assert (found["git_commit"], found["git_diff_sha256"], found["lock_sha256"]) == (None, None, None)
    assert found["source_sha256"] == environment.source_sha256(Path(solotune.__file__).parent)


def test_git_tells_the_commit_and_only_the_hash_of_what_was_changed_since(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("no git here")
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*GIT, *command], cwd=tmp_path, check=True)
    (tmp_path / "file").write_text("a")
    subprocess.run([*GIT, "add", "file"], cwd=tmp_path, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "two"], cwd=tmp_path, check=True)
    clean = environment.describe(tmp_path)
    assert len(clean["git_commit"]) == 40
    assert clean["git_diff_sha256"] is None
    (tmp_path / "file").write_text("secret")
    dirty = environment.describe(tmp_path)
    assert len(dirty["git_diff_sha256"]) == 64
    assert "secret" not in str(dirty)


def test_the_hash_of_the_source_depends_on_names_and_contents_of_python_files_alone(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.py").write_text("1")
    (tmp_path / "deep" / "a.py").write_text("2")
    first = environment.source_sha256(tmp_path)
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"1", b"2"))
    assert first == hashlib.sha256(f"{one}  b.py\n{two}  deep/a.py\n".encode()).hexdigest()
    (tmp_path / "notes.txt").write_text("x")
    assert environment.source_sha256(tmp_path) == first
    (tmp_path / "deep" / "a.py").write_text("3")
    second = environment.source_sha256(tmp_path)
    (tmp_path / "deep" / "a.py").rename(tmp_path / "deep" / "c.py")
    assert len({first, second, environment.source_sha256(tmp_path)}) == 3


def test_the_image_is_told_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.describe(tmp_path)["image"] is None
    for name in IMAGE:
        monkeypatch.setenv(name, "")  # as compose and a build without arguments leave them
    assert environment.describe(tmp_path)["image"] is None
    monkeypatch.setenv("SOLOTUNE_IMAGE_LOCK", "ab12")
    assert environment.describe(tmp_path)["image"] == {"id": None, "lock_sha256": "ab12", "revision": None}
    monkeypatch.setenv("SOLOTUNE_IMAGE", "sha256:cd34")
    monkeypatch.setenv("SOLOTUNE_IMAGE_REVISION", "ef56")
    assert environment.describe(tmp_path)["image"] == {"id": "sha256:cd34", "lock_sha256": "ab12", "revision": "ef56"}


def test_no_other_variable_of_the_environment_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in str(environment.describe(tmp_path))


@pytest.mark.parametrize(
    ("kernel", "wsl"),
    [("6.6.87.2-microsoft-standard-WSL2", True), ("4.4.0-19041-Microsoft", True), ("6.1.0-40-amd64", False)],
)
def test_wsl_is_told_by_the_kernels_name(kernel: str, wsl: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: kernel)
    assert environment.is_wsl() is wsl


@pytest.mark.parametrize(
    ("answer", "code", "found"),
    [
        (
            "NVIDIA H100, 81559 MiB, 580.65.06",
            0,
            [{"name": "NVIDIA H100", "memory": "81559 MiB", "driver": "580.65.06"}],
        ),
        ("No devices were found", 0, []),
        ("NVIDIA H100, 81559 MiB, 580.65.06", 9, []),
        ("", 0, []),
    ],
)
def test_gpus_are_those_of_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, found: list[dict[str, str]]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert environment.gpus() == found


@pytest.mark.parametrize(
    ("visible", "names"),
    [("1", ["second"]), ("", []), ("7", ["first", "second"]), ("GPU-4c1", ["first", "second"])],
)
def test_a_run_is_described_with_the_gpu_that_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'first, 24564 MiB, 1'\necho 'second, 16380 MiB, 1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu["name"] for gpu in environment.own_gpu()] == names


@pytest.mark.parametrize(
    ("device", "visible", "then"),
    [("cuda", None, "0"), ("cuda", "2,3", "2"), ("cuda", "1", "1"), ("cuda", "", ""), ("cpu", "1", "")],
)
def test_one_gpu_is_visible_and_none_for_a_cpu_run(
    device: str, visible: str | None, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environment.prepare_process(device=device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == then


@pytest.mark.parametrize(("online", "then"), [(False, "1"), (True, "0")])
def test_nothing_asks_the_hub_unless_told(online: bool, then: str) -> None:
    environment.prepare_process(device="cpu", online=online)
    assert os.environ["HF_HUB_OFFLINE"] == then
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_what_differs_today_is_told_by_name_and_what_changes_no_bit_is_not() -> None:
    then = {
        "source_sha256": "a" * 64,
        "git_commit": "b" * 40,
        "platform": "one",
        "processor": "EPYC",
        "libraries": {"torch": "2.11.0", "peft": "0.21.2"},
        "gpu": [{"name": "RTX 4090", "driver": "580.1"}],
        "threads": 2,
    }
    now = {
        **then,
        "source_sha256": "c" * 64,
        "git_commit": "d" * 40,
        "platform": "another",
        "libraries": {"torch": "2.13.0", "peft": "0.21.2"},
        "gpu": [{"name": "RTX 4090", "driver": "581.2"}],
    }
    assert environment.differences(then, then) == []
    assert environment.differences(then, now) == [
        "gpu.0.driver: 580.1 -> 581.2",
        "libraries.torch: 2.11.0 -> 2.13.0",
        "source_sha256: aaaaaaaaaaaa… -> cccccccccccc…",
    ]
    assert environment.differences(then, {**then, "gpu": []}) == [
        "gpu.0.driver: 580.1 -> none",
        "gpu.0.name: RTX 4090 -> none",
    ]


def test_on_wsl_expandable_segments_are_dropped_and_the_rest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.6.87.2-microsoft-standard-WSL2")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512,expandable_segments:True")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    environment.prepare_process(device="cpu")
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:512"
    assert os.environ["PYTORCH_ALLOC_CONF"] == ""
    monkeypatch.setattr(platform, "release", lambda: "6.8.0-generic")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    environment.prepare_process(device="cpu")
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
