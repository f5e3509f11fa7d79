"""doctor as it is called: groups, last line, exit code, JSON, and errors of checks as findings."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from solotune import cli
from solotune.stages.doctor import container, gpu, machine
from solotune.stages.doctor.finding import Finding, as_json, checked, short, show


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the checks find, in place of this machine's."""
    findings = [Finding("python", "ok", "3.12.3")]
    monkeypatch.delenv("SOLOTUNE_IMAGE_LOCK", raising=False)
    monkeypatch.setattr(machine, "findings", lambda: iter(findings))
    monkeypatch.setattr(container, "findings", lambda: iter([Finding("image", "skip", "not in the container")]))
    monkeypatch.setattr(gpu, "findings", lambda: iter([Finding("gpu", "warn", "none", "Configs with cuda stop")]))
    return findings


def test_a_machine_without_a_failure_is_ready(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out == (
        "machine\n"
        "  ok    python  3.12.3\n"
        "\n"
        "container\n"
        "  skip  image   not in the container\n"
        "\n"
        "gpu\n"
        "  warn  gpu     none\n"
        "                Configs with cuda stop\n"
        "\n"
        "ready (1 warn)\n"
    )


def test_a_failure_is_exit_code_1_and_the_last_line_names_it(
    found: list[Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    found.append(Finding("lock", "FAIL", "no uv.lock", "`invoke build`"))
    assert cli.main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert "  FAIL  lock    no uv.lock\n                `invoke build`\n" in out
    assert "ready" not in out
    assert err == "error: 1 of 4 checks failed: lock. Fix the first one, then run it again\n"


@pytest.mark.parametrize("fails", [False, True])
def test_json_has_the_shape_of_setup_wsl(
    found: list[Finding], capsys: pytest.CaptureFixture[str], *, fails: bool
) -> None:
    if fails:
        found.append(Finding("lock", "FAIL", "no uv.lock", "`invoke build`"))
    assert cli.main(["doctor", "--json"]) == int(fails)
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["schema_version", "ready", "wsl", "checks"]
    assert report["schema_version"] == 1
    assert report["ready"] is not fails
    assert report["checks"][0] == {"name": "python", "status": "ok", "found": "3.12.3", "fix": ""}
    script = (Path(cli.__file__).parents[2] / "scripts" / "setup_wsl.sh").read_text()
    for key in (*report, *report["checks"][0]):
        assert f'"{key}": ' in script


@pytest.mark.parametrize(
    ("kernel", "wsl"),
    [("6.1.0-40-amd64", None), ("6.6.87.2-microsoft-standard-WSL2", 2), ("4.4.0-19041-Microsoft", 1)],
)
def test_json_tells_wsl_by_the_kernels_name(kernel: str, wsl: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: kernel)
    assert json.loads(as_json([]))["wsl"] == wsl


def test_commands_are_shown_as_they_were_started(
    found: list[Finding], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOLOTUNE_COMMAND", "scripts/local.sh")
    show({"machine": [Finding("lock", "FAIL", "old", "`invoke build`")]})
    assert "`scripts/local.sh build`" in capsys.readouterr().out


def test_a_check_that_raises_is_a_failure_with_its_known_fix() -> None:
    def fail() -> Finding:
        raise RuntimeError("Failed to find C compiler. Please specify via CC\nmore lines")

    finding = checked("triton", fail)
    assert finding.status == "FAIL"
    assert finding.found == "RuntimeError: Failed to find C compiler. Please specify via CC more lines"
    assert "apt-get install gcc" in finding.fix


def test_a_check_that_raises_something_unknown_is_a_failure_too() -> None:
    finding = checked("nf4", lambda: {}["missing"])  # type: ignore[index]
    assert (finding.status, finding.found) == ("FAIL", "KeyError: 'missing'")
    assert finding.fix


def test_paths_are_told_without_the_users_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/anna")
    assert short(Path("/somewhere/anna/.cache/x")) == "~/.cache/x"
    assert short(Path("/cache/x")) == "/cache/x"
    assert short(Path("runs")) == "runs"


def test_on_this_machine_every_check_says_something_and_nothing_is_written(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For real, in a folder without a lock: that one fails, whatever else this machine has."""
    assert cli.main(["doctor", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    names = [check["name"] for check in checks]
    assert len(set(names)) == len(names) == 19
    assert all(check["found"] for check in checks)
    assert all(check["fix"] for check in checks if check["status"] in ("warn", "FAIL"))
    assert {check["name"]: check["status"] for check in checks}["lock"] == "FAIL"
    assert list(workspace.iterdir()) == []
