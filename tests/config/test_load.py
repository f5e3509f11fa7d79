"""Files, `extends` and --set make one config; every problem is one line with its place."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solotune.config.load import load, resolved_yaml
from solotune.config.schema import RunConfig
from solotune.errors import ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MINIMAL = f"""\
dataset: {{raw_files: [rows.jsonl]}}
model: {{name_or_path: org/model, revision: {COMMIT}}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def minimal(more: str = "", name: str = "x.yaml") -> RunConfig:
    return load(write(name, MINIMAL + more))


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert all(problem.isprintable() for problem in caught.value.problems)
    return caught.value.problems


def problems_of(more: str, *overrides: str) -> list[str]:
    """The problems of a config that is fine but for `more`, which starts on line 3."""
    return problems(write("x.yaml", MINIMAL + more), *overrides)


# Values


def test_defaults_fill_what_is_not_written() -> None:
    config = minimal()
    assert config.training.max_length == 2048
    assert config.quantization is None
    assert config.dataset.raw_files == ("rows.jsonl",)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("x.yaml", "x"),
        ("My Rows (v2).yaml", "my-rows--v2-"),
        ("sft.8b.yaml", "sft-8b"),
        ("_-a.yaml", "a"),
        ("日本.yaml", "run"),
        ("a" * 60 + ".yaml", "a" * 48),
    ],
)
def test_the_name_is_the_files_unless_written(file: str, name: str) -> None:
    assert minimal(name=file).name == name
    assert minimal("name: other\n", name=file).name == "other"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1e-05", 1e-5),
        ("2.E-4", 2e-4),
        (".5", 0.5),
        ("1", 1.0),
        ("+1.5", 1.5),
        ("0x10", 16.0),
    ],
)
def test_numbers_as_yaml_1_2_has_them(text: str, value: float) -> None:
    assert minimal(f"training: {{learning_rate: {text}}}").training.learning_rate == value


def test_off_is_text_and_only_true_and_false_are_booleans() -> None:
    config = minimal("determinism: off\nevaluation: {metrics: [no, on, y, 2026-01-01, 12:30, 1_000]}\n")
    assert config.determinism == "off"
    assert config.evaluation.metrics == ("no", "on", "y", "2026-01-01", "12:30", "1_000")
    assert problems_of("training: {packing: yes}") == [
        "x.yaml:3: training.packing: 'yes' is neither true nor false (allowed: true, false)"
    ]


def test_a_leading_zero_makes_no_octal_number() -> None:
    assert minimal("seed: 010").seed == 10
    assert minimal("seed: 0o10").seed == 8


def test_keys_are_text_whatever_they_look_like() -> None:
    assert minimal("evaluation: {metrics_by_tag: {2026: [a], true: [b], off: [c]}}").evaluation.metrics_by_tag == {
        "2026": ("a",),
        "true": ("b",),
        "off": ("c",),
    }


def test_anchors_and_aliases_work() -> None:
    config = minimal("training: {eval_steps: &n 7, save_steps: *n}")
    assert (config.training.eval_steps, config.training.save_steps) == (7, 7)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    path = write("x.yaml", "\ufeff" + (MINIMAL + "seed: x\n").replace("\n", "\r\n"))
    assert problems(path) == ["x.yaml:3: seed: 'x' is not an integer (allowed: integer >= 0 and < 4294967296)"]


# Problems of one key


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (
            "training:\n  max_length: abc\n",
            "4: training.max_length: 'abc' is not an integer (allowed: integer >= 16)",
        ),
        (
            "training:\n  max_length: 8\n",
            "4: training.max_length: 8 is out of range (allowed: integer >= 16)",
        ),
        (
            "training: {max_steps: 3.0}",
            "3: training.max_steps: 3.0 is not an integer (allowed: integer >= -1)",
        ),
        (
            "training: {max_steps: true}",
            "3: training.max_steps: true is not an integer (allowed: integer >= -1)",
        ),
        (
            "training: {save_steps: 1_000}",
            "3: training.save_steps: '1_000' is not an integer (allowed: integer >= 1)",
        ),
        (
            "training: {learning_rate: 1e999}",
            "3: training.learning_rate: 1e999 is not a finite number (allowed: number > 0)",
        ),
        (
            "training: {learning_rate: .nan}",
            "3: training.learning_rate: .nan is not a finite number (allowed: number > 0)",
        ),
        (
            'training: {learning_rate: "2e-4"}',
            ("3: training.learning_rate: '2e-4' is not a number (allowed: number > 0); write it without quotes"),
        ),
        ("lora: {lora_dropout: 1}", "3: lora.lora_dropout: 1 is out of range (allowed: number >= 0 and < 1)"),
        (
            "export: {merge_dtype: bf16}",
            (
                "3: export.merge_dtype: 'bf16' is not a choice (allowed: bfloat16, float16, float32); "
                "did you mean bfloat16?"
            ),
        ),
        ("name: My Run", "3: name: 'My Run' doesn't fit (allowed: text like ^[a-z0-9][a-z0-9_-]{0,47}$)"),
        ("name: 7", "3: name: 7 is read as a number; quote it: '7'"),
        ("name: true", "3: name: true is read as a boolean; quote it: 'true'"),
        ("name: null", "3: name: null is not text (allowed: text like ^[a-z0-9][a-z0-9_-]{0,47}$)"),
        (
            "evaluation: {metrics: rouge_l}",
            "3: evaluation.metrics: 'rouge_l' is not a list (allowed: list of text or mapping)",
        ),
        (
            "evaluation:\n  metrics:\n  - a\n  - 3\n",
            "6: evaluation.metrics[1]: 3 is read as a number; quote it: '3'",
        ),
        (
            "evaluation: {max_examples: 0}",
            "3: evaluation.max_examples: 0 is out of range (allowed: integer >= 1 or null)",
        ),
        (
            "evaluation: {metrics_by_tag: {a: b}}",
            "3: evaluation.metrics_by_tag.a: 'b' is not a list (allowed: list of text or mapping)",
        ),
        (
            "lora: 3",
            (
                "3: lora: 3 is not a section "
                "(allowed: mapping with keys of r, lora_alpha, lora_dropout, target_modules, use_rslora)"
            ),
        ),
        (
            "lora: {target_modules: q_proj}",
            ("3: lora.target_modules: 'q_proj' is not allowed (allowed: all-linear or list of text, at least one)"),
        ),
        (
            "lora: {target_modules: [q_proj, 3]}",
            "3: lora.target_modules[1]: 3 is read as a number; quote it: '3'",
        ),
        ("lora: {r: }", "3: lora.r: no value (allowed: integer >= 1)"),
        (
            "quantization:\n",
            (
                "3: quantization: no value (allowed: mapping with keys of load_in_4bit, bnb_4bit_quant_type, "
                "bnb_4bit_use_double_quant, bnb_4bit_compute_dtype or null)"
            ),
        ),
        (
            "quantization:\n  load_in_4bit: false\n",
            (
                "4: quantization.load_in_4bit: false; for LoRA on the unquantised model leave the section "
                "out, or write quantization: null"
            ),
        ),
        (
            "training: {max_steps: 0}",
            "3: training.max_steps: 0 steps train nothing; -1 makes as many as num_train_epochs needs",
        ),
        (
            "training: {warmup_steps: 1.5}",
            ("3: training.warmup_steps: 1.5 is neither a share of all steps (below 1) nor a whole number of steps"),
        ),
    ],
)
def test_a_bad_value_is_shown_with_its_line_and_what_is_allowed(more: str, problem: str) -> None:
    assert problems_of(more) == [f"x.yaml:{problem}"]


def test_a_commit_of_digits_only_has_to_be_quoted() -> None:
    text = MINIMAL.replace(COMMIT, "12345678e1" * 4)
    assert problems(write("x.yaml", text.replace("e1", "11"))) == [
        f"x.yaml:2: model.revision: {'1234567811' * 4} is read as a number; quote it: '{'1234567811' * 4}'"
    ]
    assert load(write("x.yaml", text.replace("12345678e1" * 4, f"'{'1234567811' * 4}'"))).model.revision


def test_a_commit_that_looks_like_a_float_is_shown_as_written() -> None:
    commit = "1234567890123456789012345678901234567e12"
    assert problems(write("x.yaml", MINIMAL.replace(COMMIT, commit))) == [
        f"x.yaml:2: model.revision: {commit} is read as a number; quote it: '{commit}'"
    ]


def test_a_missing_key_is_shown_at_its_section() -> None:
    path = write("x.yaml", "seed: 1\nmodel:\n  source: hub\n")
    assert problems(path) == [
        "x.yaml:1: dataset: required section is missing; it needs raw_files",
        (
            "x.yaml:2: model.name_or_path: required key is missing: Hub id (`Qwen/Qwen3-8B`), folder, "
            "or `package_name/file.gguf` of an installed Python package."
        ),
    ]


def test_a_validators_message_stands_at_the_key_that_it_names() -> None:
    path = write(
        "x.yaml",
        (
            "dataset:\n  raw_files: [a]\n  val_fraction: 0.5\n  test_fraction: 0.5\n"
            "model:\n  name_or_path: org/model\n  revision: main\n"
        ),
    )
    assert problems(path) == [
        "x.yaml:3: dataset: val_fraction + test_fraction must be below 1",
        (
            "x.yaml:7: model: revision must be a commit (40 hex digits, lower case): branches and tags move; "
            "the model's page on the hub lists commits under 'Files and versions'"
        ),
    ]


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (
            "{name_or_path: ./models/mine}",
            "name_or_path is no hub id (ORGANISATION/MODEL); a folder on disk needs source: folder",
        ),
        (
            "{source: package, name_or_path: p/f.gguf}",
            "source: package needs name_or_path: PACKAGE/FILE.gguf and revision: the package's version",
        ),
        (
            "{source: folder, name_or_path: /m, revision: '1'}",
            "revision has no meaning with source: folder; its files are hashed instead",
        ),
    ],
)
def test_each_source_of_a_model_has_its_own_rules(model: str, problem: str) -> None:
    assert problems(write("x.yaml", f"dataset: {{raw_files: [a]}}\nmodel: {model}")) == [f"x.yaml:2: model: {problem}"]


# Unknown keys


@pytest.mark.parametrize(
    ("more", "start"),
    [
        (
            "training:\n  learning_rat: 1\n",
            ("4: training.learning_rat: unknown key; did you mean learning_rate? (training knows: learning_rate, num_"),
        ),
        ("training: {lr: 1}", "3: training.lr: unknown key; did you mean learning_rate? (training knows:"),
        (
            "training: {gradient_checkpointing: true}",
            "3: training.gradient_checkpointing: unknown key; did you mean activation_",
        ),
        ("training: {r: 8}", "3: training.r: unknown key; did you mean lora.r? (training knows:"),
        (
            "lora: {max_length: 8}",
            "3: lora.max_length: unknown key; did you mean training.max_length? (lora knows: r,",
        ),
        ("lora: {seed: 8}", "3: lora.seed: unknown key; did you mean seed or dataset.seed? (lora knows: r,"),
        (
            "lora: {learning_rates: 8}",
            "3: lora.learning_rates: unknown key; did you mean training.learning_rate? (lora",
        ),
        (
            "learning_rate: 1",
            ("3: learning_rate: unknown key; did you mean training.learning_rate? (a config knows: name, seed,"),
        ),
        ("trainng: {}", "3: trainng: unknown key; did you mean training? (a config knows: name,"),
        (
            "lora: {qqq: 1}",
            "3: lora.qqq: unknown key (lora knows: r, lora_alpha, lora_dropout, target_modules, use_rslora)",
        ),
        (
            "quantization: {quant_type: nf4}",
            "3: quantization.quant_type: unknown key; did you mean bnb_4bit_quant_type? (quantization",
        ),
        ("<<: {seed: 1}", "3: <<: unknown key (a config knows:"),
        ('"a\\nb": 1', "3: a\\nb: unknown key (a config knows:"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_likely_one(more: str, start: str) -> None:
    [problem] = problems_of(more)
    assert problem.startswith(f"x.yaml:{start}")


def test_keys_of_a_section_are_listed_once() -> None:
    first, second = problems_of("lora:\n  a1: 1\n  b2: 2\n")
    assert "(lora knows: " in first
    assert second == "x.yaml:5: lora.b2: unknown key"


def test_all_problems_come_at_once_in_the_order_of_their_lines() -> None:
    found = problems_of("seed: -1\ntraining:\n  lr: 1\n  max_length: 8\nname: 1\nseed: 2\n", "lora.r=0", "nonsense")
    assert [problem.split(": ")[0] for problem in found] == [
        "x.yaml:5",
        "x.yaml:6",
        "x.yaml:7",
        "x.yaml:8",
        "--set lora.r=0",
        "--set nonsense",
    ]
    assert found[3] == "x.yaml:8: seed: written twice in one mapping, first on line 3"


# Files that can't be read


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "x.yaml:1:1: empty; a config is a mapping such as `training: {max_steps: 20}`"),
        (
            "# only a comment\n",
            "x.yaml:1:1: empty; a config is a mapping such as `training: {max_steps: 20}`",
        ),
        ("---\n", "x.yaml:1:1: empty; a config is a mapping such as `training: {max_steps: 20}`"),
        ("\n- a\n", "x.yaml:2:1: a list; a config is a mapping such as `training: {max_steps: 20}`"),
        ("seed=1\n", "x.yaml:1:1: a single value; a config is a mapping such as `training: {max_steps: 20}`"),
        ("training:\n\tlr: 1\n", "x.yaml:2:1: a tab where only spaces may stand: indent with spaces"),
        (
            "a: [1\nb: 2\n",
            ("x.yaml:2:2: not valid YAML: while parsing a flow sequence (line 1), expected ',' or ']', but got ':'"),
        ),
        (
            "a: b: c\n",
            "x.yaml:1:5: not valid YAML: mapping values are not allowed here; quote a text that holds ': '",
        ),
        (
            "a: 'b\n",
            ("x.yaml:2:1: not valid YAML: while scanning a quoted scalar (line 1), found unexpected end of stream"),
        ),
        ("a: *b\n", "x.yaml:1:4: not valid YAML: found undefined alias 'b'"),
        (
            "a: 1\n---\nb: 1\n",
            (
                "x.yaml:2:1: not valid YAML: expected a single document in the stream (line 1), but "
                "found another document"
            ),
        ),
        (
            "a: !!python/name:os.system\n",
            "x.yaml:1:4: a tag (tag:yaml.org,2002:python/name:os.system) has no place in a config",
        ),
        ("a: !!float x\n", "x.yaml:1:4: a tag (tag:yaml.org,2002:float) has no place in a config"),
        ("a: &b [*b]\n", "x.yaml:1: nested too deeply, or an alias that holds itself"),
        ("a: 1\nb: c\x07\n", "x.yaml:2:5: not valid YAML: control character 0x07"),
        ('a: "\\UFFFFFFFF"\n', 'x.yaml:1: not valid YAML: an escape in "..." that is no character'),
        ("a: " + "[" * 5000, "x.yaml: nested too deeply"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(text: str, problem: str) -> None:
    assert problems(write("x.yaml", text)) == [problem]


def test_aliases_that_grow_without_bound_are_stopped() -> None:
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    [problem] = problems(write("x.yaml", "\n".join(layers)))
    assert "nested too deeply" in problem


def test_a_key_is_a_word() -> None:
    assert problems_of("? [a, b]\n: 1\nlora:\n  {[x]: 1}\n") == [
        "x.yaml:3: a key is a word, not a list or a mapping",
        "x.yaml:6: lora: a key is a word, not a list or a mapping",
    ]


def test_text_that_is_not_utf_8_is_shown_at_its_line() -> None:
    Path("x.yaml").write_bytes(b"seed: 1\nname: caf\xe9\n")
    assert problems(Path("x.yaml")) == ["x.yaml:2: not UTF-8 (byte 0xe9); save the file as UTF-8"]


def test_a_missing_file_names_the_nearest_beside_it() -> None:
    write("configs/sft_lora.yaml", MINIMAL)
    assert problems(Path("configs/sft_lorra.yaml")) == [
        "configs/sft_lorra.yaml: no such file; did you mean configs/sft_lora.yaml?"
    ]
    assert problems(Path("configs/sft_lora")) == ["configs/sft_lora: no such file; did you mean configs/sft_lora.yaml?"]
    write("configs/mine.yaml", MINIMAL)
    assert problems(Path("configs/nosuch.yaml")) == ["configs/nosuch.yaml: no such file"]
    assert problems(Path("nowhere/x.yaml")) == ["nowhere/x.yaml: no such file"]
    assert problems(Path("configs")) == ["configs: a folder, not a YAML file"]
    assert problems(Path("a\0b.yaml")) == ["a\\x00b.yaml: can't be read: embedded null byte"]


def test_a_path_outside_the_current_folder_is_shown_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("x.yaml", MINIMAL + "seed: x").absolute()
    assert problems(path)[0].startswith("x.yaml:3: ")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert problems(path)[0].startswith(f"{here / 'x.yaml'}:3: ")
    assert problems(Path("../x.yaml"))[0].startswith(f"{here / 'x.yaml'}:3: ")


# extends


def test_a_later_file_wins_over_an_earlier_one_and_the_file_itself_over_both() -> None:
    write(
        "parts/a.yaml",
        MINIMAL + "seed: 1\ntraining: {max_steps: 1, save_steps: 1, eval_steps: 1, logging_steps: 1}\n",
    )
    write("parts/b.yaml", "training: {save_steps: 2, eval_steps: 2, logging_steps: 2}\n")
    write("x.yaml", "extends: [parts/a.yaml, parts/b.yaml]\ntraining: {eval_steps: 3, logging_steps: 3}\n")
    config = load(Path("x.yaml"), ["training.logging_steps=4"])
    assert (config.seed, config.name) == (1, "x")
    training = config.training
    assert (training.max_steps, training.save_steps, training.eval_steps, training.logging_steps) == (
        1,
        2,
        3,
        4,
    )


def test_paths_are_relative_to_the_file_that_names_them() -> None:
    write("base.yaml", MINIMAL + "seed: 5\n")
    write("parts/a.yaml", "extends: ../base.yaml\n")
    write("experiments/x.yaml", "extends: ../parts/a.yaml\n")
    assert load(Path("experiments/x.yaml")).seed == 5


def test_lists_and_free_mappings_are_replaced_and_null_sets_null() -> None:
    write(
        "a.yaml",
        "dataset: {raw_files: [a, b], columns: {id: key, text: body}}\n"
        f"model: {{name_or_path: org/model, revision: {COMMIT}}}\n"
        "quantization: {bnb_4bit_quant_type: fp4}\n",
    )
    write(
        "x.yaml",
        "extends: a.yaml\ndataset: {raw_files: [c], columns: {prompt: question}}\nquantization: null\n",
    )
    config = load(Path("x.yaml"))
    assert config.dataset.raw_files == ("c",)
    assert config.dataset.columns == {"prompt": "question"}
    assert config.quantization is None
    write("y.yaml", "extends: x.yaml\nquantization: {}\n")
    quantization = load(Path("y.yaml")).quantization
    assert quantization is not None
    assert quantization.bnb_4bit_quant_type == "nf4"


def test_a_problem_is_shown_in_the_file_that_its_value_came_from() -> None:
    write("parts/a.yaml", "training:\n  max_length: 1\n  save_steps: 0\n")
    write("x.yaml", "extends: parts/a.yaml\n" + MINIMAL + "training:\n  save_steps: -1\n")
    assert problems(Path("x.yaml")) == [
        "parts/a.yaml:2: training.max_length: 1 is out of range (allowed: integer >= 16)",
        "x.yaml:5: training.save_steps: -1 is out of range (allowed: integer >= 1)",
    ]


def test_a_file_may_be_reached_twice() -> None:
    write("base.yaml", MINIMAL + "seed: 1\nseed: 1\n")
    write("a.yaml", "extends: base.yaml\n")
    write("b.yaml", "extends: base.yaml\n")
    write("x.yaml", "extends: [a.yaml, b.yaml]\n")
    assert problems(Path("x.yaml")) == ["base.yaml:4: seed: written twice in one mapping, first on line 3"]


def test_a_cycle_names_its_chain() -> None:
    write("a.yaml", "seed: 1\nextends: b.yaml\n")
    write("b.yaml", "extends: [a.yaml]\n")
    assert problems(Path("a.yaml")) == ["b.yaml:1: extends: a cycle: a.yaml -> b.yaml -> a.yaml"]
    write("c.yaml", "extends: ./c.yaml\n")
    assert problems(Path("c.yaml")) == ["c.yaml:1: extends: a cycle: c.yaml -> c.yaml"]


def test_a_missing_extended_file_names_its_line_and_chain() -> None:
    write("base.yaml", MINIMAL)
    write("a.yaml", "seed: 1\nextends:\n- base.yaml\n- bose.yaml\n")
    missing = "a.yaml:4: extends: bose.yaml: no such file{}; did you mean base.yaml?"
    assert problems(Path("a.yaml")) == [missing.format("")]
    write("x.yaml", "extends: a.yaml\n")
    assert problems(Path("x.yaml")) == [
        "a.yaml:4: extends: bose.yaml: no such file; did you mean base.yaml? (x.yaml -> a.yaml -> bose.yaml)"
    ]


def test_every_unreadable_file_is_shown_and_nothing_that_follows_from_it() -> None:
    write("a.yaml", "a: [\n")
    write("b.yaml", "- 1\n")
    write("x.yaml", "extends: [a.yaml, b.yaml, c.yaml]\nseed: 1\nseed: 2\n")
    assert [problem.split(": ")[0] for problem in problems(Path("x.yaml"), "oops")] == [
        "a.yaml:2:1",
        "b.yaml:1:1",
        "x.yaml:1",
        "x.yaml:3",
        "--set oops",
    ]


@pytest.mark.parametrize("names", ["7", "{a: b}", "[x.yaml, 3]", "null", "''", "[[a]]", ""])
def test_extends_takes_file_names(names: str) -> None:
    write("parts/x.yaml", "seed: 1\n")
    assert problems(write("parts/y.yaml", f"extends: {names}\n{MINIMAL}")) == [
        "parts/y.yaml:1: extends: not a file name (allowed: a file, or a list of files)"
    ]


def test_extends_in_a_section_is_an_unknown_key() -> None:
    assert problems_of("lora: {extends: a.yaml}")[0].startswith("x.yaml:3: lora.extends: unknown key")


# --set


def test_an_override_sets_one_key_and_wins() -> None:
    path = write("x.yaml", MINIMAL + "lora: {r: 4, lora_alpha: 8}\ndataset_note: 1\n".replace("dataset_note: 1\n", ""))
    config = load(
        path,
        [
            "lora.r=8",
            "lora.r=64",
            "training.learning_rate=2e-5",
            "evaluation.metrics=[a, b]",
            "dataset.columns.prompt=question",
            "dataset.columns.completion=answer",
            "determinism=off",
            "quantization={}",
            "lora={use_rslora: true}",
            "name=a-b",
        ],
    )
    assert (config.lora.r, config.lora.lora_alpha, config.lora.use_rslora) == (64, 8, True)
    assert config.training.learning_rate == 2e-5
    assert config.evaluation.metrics == ("a", "b")
    assert config.dataset.columns == {"prompt": "question", "completion": "answer"}
    assert config.dataset.raw_files == ("rows.jsonl",)
    assert (config.determinism, config.name) == ("off", "a-b")
    assert config.quantization is not None


def test_an_override_makes_a_section_that_was_null() -> None:
    config = load(write("x.yaml", MINIMAL + "quantization: null\n"), ["quantization.bnb_4bit_quant_type=fp4"])
    assert config.quantization is not None


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.max_steps", "expected section.key=value, such as --set training.max_steps=20"),
        ("=3", "expected section.key=value, such as --set training.max_steps=20"),
        ("a..b=3", "expected section.key=value, such as --set training.max_steps=20"),
        ("lora.r=", "lora.r: no value; write null for none (--set lora.r=null)"),
        ("lora.r= # 3", "lora.r: no value; write null for none (--set lora.r=null)"),
        ("lora.r=0", "lora.r: 0 is out of range (allowed: integer >= 1)"),
        (
            "lora.r=[1",
            "not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        ),
        ("lora.r=!!int 3", "a tag (tag:yaml.org,2002:int) has no place in a config"),
        ("lora={r: 1, r: 2}", "r: written twice in one mapping"),
        ("name=7", "name: 7 is read as a number; quote it: '7'"),
        ("extends=a.yaml", "extends belongs in a file; --set changes single keys"),
    ],
)
def test_a_bad_override_is_shown_as_given(override: str, problem: str) -> None:
    assert problems_of("", override) == [f"--set {override}: {problem}"]


def test_an_unknown_key_of_an_override_names_the_likely_one() -> None:
    [problem] = problems_of("", "training.learning_rat=1")
    assert problem.startswith(
        "--set training.learning_rat=1: training.learning_rat: unknown key; did you mean learning_rate?"
    )


# The resolved config


def test_the_resolved_config_has_every_key_in_the_schemas_order() -> None:
    text = resolved_yaml(minimal("determinism: off\nquantization: {}\n"))
    assert text.startswith(
        "name: x\nseed: 0\ndevice: cuda\ndeterminism: 'off'\ndataset:\n  raw_files:\n  - rows.jsonl\n"
    )
    assert "#" not in text
    assert "extends" not in text
    keys = [line.split(":")[0].strip() for line in text.splitlines()]
    for section in ("dataset", "model", "lora", "quantization", "training", "evaluation", "export"):
        fields = type(getattr(minimal("quantization: {}"), section)).model_fields
        start = keys.index(section)
        assert [key for key in keys[start:] if key in fields][: len(fields)] == list(fields)


texts = (
    st.text(min_size=1, max_size=20)
    | st.sampled_from(
        [
            "2e-4",
            "off",
            "null",
            "a:",
            "~",
            "0o17",
            "0x1f",
            "010",
            "1_000",
            "12:30",
            "2026-01-01",
            "=",
            "<<",
            '"',
            "'",
        ]
    )
    | st.sampled_from(["a: b", "# c", " a", "a\n", "\t", "\x85", "\u2028", "\x00", "\ufeff"])
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw_files=st.lists(texts, min_size=1, max_size=3),
    columns=st.dictionaries(st.text(max_size=10) | texts, texts, max_size=3),
    by_tag=st.dictionaries(texts, st.lists(texts, max_size=2), max_size=3),
    modules=st.just("all-linear") | st.lists(texts, min_size=1, max_size=3),
    learning_rate=st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False),
    decay=st.integers(0, 10**6) | st.floats(0, 1e6),
    max_length=st.integers(16, 2**70),
    quantization=st.none() | st.fixed_dictionaries({"bnb_4bit_quant_type": st.sampled_from(["nf4", "fp4"])}),
    determinism=st.sampled_from(["strict", "seeded", "off"]),
)
def test_the_resolved_config_loads_back_to_an_equal_one(
    raw_files: list[str],
    columns: dict[str, str],
    by_tag: dict[str, list[str]],
    modules: object,
    learning_rate: float,
    decay: float,
    max_length: int,
    quantization: object,
    determinism: str,
) -> None:
    config = RunConfig.model_validate(
        {
            "name": "experiment",
            "determinism": determinism,
            "dataset": {"raw_files": raw_files, "columns": columns},
            "model": {"name_or_path": "org/model", "revision": COMMIT},
            "lora": {"target_modules": modules},
            "quantization": quantization,
            "training": {"learning_rate": learning_rate, "weight_decay": decay, "max_length": max_length},
            "evaluation": {"metrics_by_tag": by_tag},
        }
    )
    again = load(write("config.yaml", resolved_yaml(config)))
    assert again == config
    assert resolved_yaml(again) == resolved_yaml(config)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_a_config_or_a_config_error(data: st.DataObject) -> None:
    text = MINIMAL + "lora: {target_modules: [a, b]}\nevaluation:\n  metrics_by_tag:\n    a: &m [b]\n"
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        piece = data.draw(
            texts | st.sampled_from(list("[]{},:-?&*!|>%@` \n")) | st.sampled_from(["*m", "1e999", "[", "!!set"])
        )
        text = text[:start] + piece + text[end:]
    Path("x.yaml").write_bytes(text.encode("utf-8", "replace"))
    found = ["x.yaml: none"]
    try:
        load(Path("x.yaml"))
    except ConfigError as error:
        found = error.problems
    assert found
    assert all(problem.startswith("x.yaml") and problem.isprintable() for problem in found)


def test_loading_a_config_imports_nothing_heavy() -> None:
    code = "import sys, solotune.config.load; print(*{name.split('.')[0] for name in sys.modules})"
    names = set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())
    assert {"pydantic", "yaml"} <= names
    assert not names & {
        "torch",
        "numpy",
        "transformers",
        "rich",
        "rapidfuzz",
        "msgspec",
        "datasets",
        "pyarrow",
    }
