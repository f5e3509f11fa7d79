"""What stands in for `datasets.load_dataset` while tasks are loaded."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.stages.hub import COMMIT

from solotune.artifacts.suite_data import ROOT, SuiteData
from solotune.errors import ArtifactError
from solotune.harness.suite_data import NotAllowed, RowsMissing, kept_rows

datasets = pytest.importorskip("datasets")
pytest.importorskip("evaluate")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def cache(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and no network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workspace / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    before = datasets.load_dataset
    yield workspace / "cache"
    assert datasets.load_dataset is before


def keep(data: SuiteData, load: Callable[..., Any] | None = None) -> None:
    del load
    with data.bringing(COMMIT, "1.0") as folder:
        splits = {
            name: datasets.Dataset.from_list([{"q": f"{name} {i}"} for i in range(50)]) for name in ("test", "dev")
        }
        datasets.DatasetDict(splits).save_to_disk(str(folder))


def test_rows_are_read_offline_and_told(cache: Path) -> None:
    keep(SuiteData("org/rows", "small", {}))
    with kept_rows() as used:
        assert datasets.load_dataset("org/rows", "small")["test"][3] == {"q": "test 3"}
        assert (
            datasets.load_dataset(path="org/rows", name="small", cache_dir=None, streaming=True)["dev"].num_rows == 50
        )
    (manifest,) = used.values()
    assert (manifest.name, manifest.config, manifest.revision) == ("org/rows", "small", COMMIT)
    assert list(cache.iterdir()) == [], "nothing of it stays"


def test_rows_that_a_task_shuffles_are_shuffled_once_and_never_beside_what_is_kept(cache: Path) -> None:
    keep(SuiteData("org/rows", None, {}))
    before = {path: path.stat().st_mtime_ns for path in ROOT.rglob("*")}

    def choices(row: dict[str, Any]) -> dict[str, Any]:
        return {"choices": random.sample(range(1000), 4)}

    with kept_rows():
        rows = datasets.load_dataset("org/rows")["test"]
        first, second = rows.map(choices), rows.map(choices)
        again = datasets.load_dataset("org/rows")["test"].map(choices)
    assert first["choices"] == second["choices"] == again["choices"]
    assert {path: path.stat().st_mtime_ns for path in ROOT.rglob("*")} == before


def test_what_isnt_there_is_brought_once_with_the_tasks_own_arguments(cache: Path) -> None:
    asked: list[SuiteData] = []

    def bring(data: SuiteData, load: Callable[..., Any]) -> None:
        asked.append(data)
        if data.name == "org/rows":
            with pytest.raises(ConnectionError, match="org/rows"):
                load(token=False)
        keep(data)

    features = datasets.Features({"q": datasets.Value("string")})
    with kept_rows(bring) as used:
        for _ in range(2):
            datasets.load_dataset("org/rows", "small", features=features, split=datasets.Split.TEST)
            datasets.load_dataset("json", data_files={"test": "https://example.org/a.jsonl"}, revision="main")
    assert [(data.name, data.config) for data in asked] == [("org/rows", "small"), ("json", None)]
    assert asked[0].arguments == {"features": {"q": {"dtype": "string", "_type": "Value"}}, "split": "test"}
    assert len(used) == 2


def test_files_on_this_machine_are_left_to_datasets(cache: Path) -> None:
    Path("rows.jsonl").write_text('{"q": "mine"}\n')

    def refuse(*_: Any) -> None:
        pytest.fail("nobody's to bring")

    with kept_rows(refuse) as used:
        assert datasets.load_dataset("json", data_files="rows.jsonl")["train"]["q"][:] == ["mine"]
    assert used == {}
    assert not ROOT.exists()


def test_what_hasnt_been_brought_and_what_cant_be_is_told(cache: Path) -> None:
    with kept_rows(), pytest.raises(RowsMissing, match="org/rows"):
        datasets.load_dataset("org/rows")
    with kept_rows(keep), pytest.raises(NotAllowed, match="asked for with object objects, and can't be kept"):
        datasets.load_dataset("org/rows", something=object())
    assert not ROOT.exists()


def test_programs_of_the_hub_are_refused(cache: Path) -> None:
    import evaluate

    with kept_rows(), pytest.raises(NotAllowed, match="'code_eval', a program that would be downloaded"):
        evaluate.load("code_eval")
    assert evaluate.load.__module__.startswith("evaluate")


def test_a_module_that_keeps_the_function_asks_whoever_is_there_now(cache: Path) -> None:
    keep(SuiteData("org/rows", None, {}))
    task = ModuleType("task")
    with kept_rows():
        exec("from datasets import load_dataset", task.__dict__)
    with kept_rows() as used:
        task.load_dataset("org/rows")  # type: ignore[attr-defined]
    assert len(used) == 1
    with pytest.raises(ConnectionError):
        task.load_dataset("org/rows")  # type: ignore[attr-defined]
    assert "task" not in sys.modules


def test_half_of_a_copy_is_brought_again_and_a_cut_file_named(cache: Path) -> None:
    data = SuiteData("org/rows", None, {})
    keep(data)
    (data.path / "manifest.json").unlink()
    with kept_rows(), pytest.raises(RowsMissing):
        datasets.load_dataset("org/rows")
    with kept_rows(keep) as used:
        datasets.load_dataset("org/rows")
    assert len(used) == 1
    file = data.rows / "test" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-1])
    with kept_rows(keep), pytest.raises(ArtifactError, match=r"is damaged: rows/test/data-00000-of-00001\.arrow has"):
        datasets.load_dataset("org/rows")


@pytest.mark.parametrize(
    ("name", "config", "begins"),
    [("../../etc/passwd", None, "etc-passwd--"), ("a" * 70, "-x", "a" * 57 + "--x--"), ("\x1b[2J/ü", ".", "2j--")],
)
def test_a_name_leads_nowhere_else(name: str, config: str | None, begins: str) -> None:
    path = SuiteData(name, config, {}).path
    assert path.parent == ROOT
    assert path.name.startswith(begins)
