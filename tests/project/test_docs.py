"""The README is real: its commands exist, its tree is the tree, its keys are the keys."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import tasks

from solotune import __version__
from solotune.arguments import parser
from solotune.config.load import load
from solotune.config.reference import markdown
from solotune.config.schema import RunConfig
from solotune.metrics import METRICS

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def between(name: str) -> str:
    """The README's part between `<!-- name -->` and `<!-- /name -->`."""
    return README.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0]


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`(?:[A-Z_]+=… )?((?:scripts/local\.sh|invoke) [^`…]*)`", README)
    return [shlex.split(line) for line in [*lines, *inline] if line]


def test_there_are_commands_to_check() -> None:
    assert len([c for c in commands() if c[0] in STARTERS]) > 15


STARTERS = ("invoke", "scripts/local.sh")


@pytest.mark.parametrize("command", [c for c in commands() if c[0] in STARTERS and len(c) > 1], ids=" ".join)
def test_every_task_in_the_readme_exists_with_its_flags(command: list[str]) -> None:
    words = [word for word in command[1:] if word != "--dry"]  # invoke's own
    if words[0] in ("TASK", "--list"):
        return
    task = tasks.namespace.tasks[words[0].replace("-", "_")]
    known = {f"--{a.name.replace('_', '-')}" for a in task.get_arguments()}
    assert {word for word in words[1:] if word.startswith("--")} <= known


def test_every_script_in_the_readme_exists_and_takes_its_flags() -> None:
    found = [c for c in commands() if c[0] == ".venv/bin/python"]
    verbs = {
        "prepare_dataset": "prepare",
        "train_sft": "train",
        "evaluate": "evaluate",
        "export_merge_adapter": "export",
    }
    assert [Path(c[1]).stem for c in found] == list(verbs)
    for command in found:
        assert (ROOT / command[1]).is_file()
        parser().parse_args([verbs[Path(command[1]).stem], *command[2:]])


def test_the_smoke_runs_table_is_there() -> None:
    assert "exact_match" in between("smoke")


def test_every_config_file_in_the_readme_exists_or_is_made_there() -> None:
    made = set(re.findall(r"> (configs/\S+\.yaml)", README))
    named = set(re.findall(r"configs/[\w./-]+\.yaml", README))
    assert len(named) >= 2
    assert all((ROOT / name).is_file() for name in named - made)


def test_own_data_works_as_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config of "Your own data in five lines", written to where it says, resolves."""
    (line,) = re.findall(r"echo '(.*)' > configs/mine\.yaml", README)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    config = tmp_path / "configs" / "mine.yaml"
    config.write_text(line + "\n")
    loaded = load(config)
    assert loaded.dataset.raw_files == ("data/raw/my_rows/*.jsonl",)
    assert loaded.quantization is not None


def test_the_row_in_the_readme_keeps_the_contract() -> None:
    from solotune.dataset.contract import decode

    (row,) = re.findall(r"```json\n(.*?)\n```", README, re.DOTALL)
    assert decode(row.encode()).id == "a-1"


def test_the_table_of_keys_is_the_schema() -> None:
    """`python -m solotune.config.reference` prints it."""
    assert between("keys") == markdown()
    assert "training.learning_rate" in between("keys")


def test_every_key_has_a_meaning() -> None:
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        fields = getattr(section, "model_fields", {})
        for key, inner in fields.items():
            assert inner.description, f"{name}.{key}"


def test_every_path_of_the_tree_exists_and_every_module_is_in_it() -> None:
    tree = between("tree")
    folder = Path()
    listed = set()
    for line in tree.splitlines():
        if line.startswith(("```", " " * 10)) or not line.strip():
            continue
        indented = line.startswith("  ")
        names = re.split(r"\s{2,}", line.strip())[0] if not line.startswith("README") else line
        for name in names.split():
            path = (folder if indented else Path()) / name
            assert (ROOT / path).exists(), path
            listed.add(path)
            if not indented and name.endswith("/"):
                folder = Path(name)
    source = {
        p.relative_to(ROOT) for p in (ROOT / "src/solotune").iterdir() if p.name not in ("__pycache__", "py.typed")
    }
    hidden = {Path("src/solotune/__init__.py"), Path("src/solotune/__main__.py")}
    assert source - hidden <= listed
    scripts = {p.relative_to(ROOT) for p in (ROOT / "scripts").glob("*.*")}
    assert scripts <= listed


def test_the_metrics_in_the_readme_are_the_metrics() -> None:
    (paragraph,) = re.findall(r"Metrics \(`evaluation\.metrics`.*?\n\n", README, re.DOTALL)
    assert set(re.findall(r"`([a-z0-9_]+)`", paragraph)) == set(METRICS)


def test_changelog_and_package_agree_on_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[([\d.]+)\]", changelog, re.MULTILINE)[0] == __version__


def test_nothing_names_a_path_of_one_machine() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, or no git: which files are the project's can't be told")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert len(files) > 100
    for name in files:
        path = ROOT / name
        if path.suffix == ".lock" or not path.is_file() or path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not re.search(r"(?<![\w}])/(root|home/\w+)/", text), name
