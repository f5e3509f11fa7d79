"""lm-evaluation-harness itself, on local tasks."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from tests.modeling.families import FAMILIES, build
from tests.tiny import make_experiment

from solotune import cli
from solotune.artifacts.run_dir import RunDir
from solotune.config.schema import SuiteConfig
from solotune.errors import ConfigError
from solotune.harness.suite import prepare

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # importing it takes long, and warns of much

_TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {rows}}}
test_split: train
output_type: {kind}
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{a}}}}"
{more}
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two local tasks: a choice and an answer."""
    folder = tmp_path / "own tasks"
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"q": f"is {i} even", "a": ("yes", "no")[i % 2]}) + "\n" for i in range(12)))
    choice = _TASK.format(name="own_choice", rows=rows, kind="multiple_choice", more="metric_list: [{metric: acc}]")
    generated = "generation_kwargs: {max_gen_toks: 4, until: ['x']}\nmetric_list: [{metric: exact_match}]"
    answer = _TASK.format(name="own_answer", rows=rows, kind="generate_until", more=generated)
    (folder / "choice.yaml").write_text(choice)
    (folder / "answer.yaml").write_text(answer.replace('doc_to_choice: ["yes", "no"]\n', ""))
    return folder


def test_local_tasks_are_asked_of_base_and_adapter(
    finished_run: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = f"evaluation.suite={{tasks: [own_choice, own_answer], include_path: '{tasks}', limit: 10}}"
    assert (
        cli.main(["evaluate", "--run", "latest", "--suite", "--set", settings, "--set", "evaluation.metrics=[]"]) == 0
    )
    report = RunDir(finished_run).report()
    assert report is not None
    assert report.suite is not None
    assert report.suite.limit == 10
    found = {(task.task, task.metric): task for task in report.suite.tasks}
    assert set(found) == {("own_choice", "acc,none"), ("own_answer", "exact_match,none")}
    choice = found["own_choice", "acc,none"]
    assert choice.n == 10
    assert choice.stderr is not None
    assert choice.difference == pytest.approx(choice.adapter - choice.base)
    assert found["own_answer", "exact_match,none"].verdict == "cannot tell"
    said = capsys.readouterr().out
    assert "did it forget? lm-evaluation-harness" in said
    at_most = f"{report.suite.lm_eval}, of each task the first 10 rows at most"
    assert at_most in said
    assert at_most in RunDir(finished_run).page.read_text()

    assert cli.main(["evaluate", "--run", "latest", "--set", "evaluation.metrics=[]"]) == 0
    again = RunDir(finished_run).report()
    assert again is not None
    assert again.suite == report.suite  # of the same adapter it is still true


def test_a_task_that_there_isnt_is_told_before_a_model_is_loaded(tasks: Path) -> None:
    settings = SuiteConfig(include_path=str(tasks))
    assert prepare(settings, ["own_choice"]).tasks == ("own_choice",)
    with pytest.raises(ConfigError, match="no task 'own_chioce'; did you mean own_choice"):
        prepare(settings, ["own_chioce"])
    with pytest.raises(ConfigError, match=r"no task 'zzzzzzzz'\. A task of your own is found in .*include_path=FOLDER"):
        prepare(None, ["zzzzzzzz"])


def test_data_that_isnt_here_is_one_line(finished_run: Path, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tasks / "rows.jsonl").unlink()
    settings = f"evaluation.suite={{include_path: '{tasks}'}}"
    given = ["--suite", "own_choice", "--set", settings, "--set", "evaluation.metrics=[]"]
    assert cli.main(["evaluate", "--run", "latest", *given]) == 2
    said = capsys.readouterr().err
    assert "error: lm-evaluation-harness can't run own_choice: FileNotFoundError: " in said
    assert "rows.jsonl'. Leave that task out; where it is your own, mend it" in said


@pytest.fixture
def thinking_run(tmp_path: Path, workspace: Path) -> Path:
    """A finished run on a tiny model with Qwen3's tokens and template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = tmp_path / "qwen3"
    encoder = build(FAMILIES["qwen3"], model)
    torch.manual_seed(0)
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    stop = min(encoder.stop_ids)
    config = LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=512, eos_token_id=stop, **shape)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(model)
    make_experiment(workspace, model)
    for command in ("fetch", "prepare", "train"):
        given = ("--set", "training.max_steps=2", "--set", "training.eval_steps=0")
        assert cli.main([command, "--config", "small.yaml", *given]) == 0
    (run,) = Path("runs").glob("2*")
    return run


def test_a_model_that_thinks_is_asked_without_thoughts(
    thinking_run: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = f"evaluation.suite={{tasks: [own_answer], include_path: '{tasks}', num_fewshot: 0}}"
    assert cli.main(["evaluate", "--run", "latest", "--suite", "--set", settings]) == 0
    report = RunDir(thinking_run).report()
    assert report is not None
    assert report.opening is not None
    assert report.opening.text == "<think>\n\n</think>\n\n"
    assert report.opening.models.keys() == {"base", "adapter"}
    assert report.opening.models["adapter"].examples == report.examples
    assert report.opening.models["base"].by_itself == 0
    suite = report.suite
    assert suite is not None
    assert suite.chat_template_args == {"enable_thinking": False}
    assert suite.think_end_token == "</think>"
    assert suite.include_path == str(tasks)
    assert (suite.num_fewshot, suite.asked, suite.tasks[0].num_fewshot) == (0, ["own_answer"], 0)
    assert suite.tasks[0].version
    assert suite.seeds.keys() == {"random", "numpy", "torch", "fewshot"}
    assert suite.at.endswith("Z")
    said = capsys.readouterr().out
    assert r"The chat template begins answers with '<think>\n\n</think>\n\n'" in said
    page = RunDir(thinking_run).page.read_text()
    assert "<code>enable_thinking=False</code>" in page
    assert "Rows on which it would have said that by itself: base 0 of 12" in page


def test_the_task_that_the_documentation_shows_runs(finished_run: Path) -> None:
    text = (Path(__file__).parent.parent.parent / "configs" / "README.md").read_text()
    (task,) = re.findall(r"```yaml\n# suite/own_arc.yaml\n(.*?)```", text, re.DOTALL)
    folder = Path("suite")
    folder.mkdir()
    (folder / "own_arc.yaml").write_text(task)
    rows = [{"q": f"is {i} even", "choices": ["yes", "no"], "a": i % 2} for i in range(10)]
    (folder / "own_arc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = "evaluation.suite={include_path: suite, limit: 500}"
    given = ["--suite", "own_arc", "--set", settings, "--set", "evaluation.metrics=[]"]
    assert cli.main(["evaluate", "--run", "latest", *given]) == 0
    report = RunDir(finished_run).report()
    assert report is not None
    assert report.suite is not None
    (found,) = report.suite.tasks
    assert (found.task, found.metric, found.n) == ("own_arc", "acc,none", 10)


def test_what_it_logs_is_one_harmless_line(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(SuiteConfig(include_path=str(tasks)), ["own_choice"])
    capsys.readouterr()
    logging.getLogger("lm_eval.tasks").error("\x1b[2Jgone\nnext")
    assert capsys.readouterr().err == "lm-evaluation-harness: \\x1b[2Jgone\\x0anext\n"
