"""export: what people serve (adapter, merged model, GGUF), proven on held-out rows as it lies on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from solotune import report
from solotune.artifacts.disk import refuse_without_room
from solotune.artifacts.files import atomic_folder, record_files, staged_name, write_json, write_text
from solotune.artifacts.lock import held
from solotune.artifacts.measured import EXPORT_SCHEMA_VERSION, Artefact, ExportCommand, ExportRecord
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.config.load import load
from solotune.console import say, stage, warn
from solotune.errors import ArtifactError
from solotune.harness.divergence import bytes_remembered
from solotune.modeling.base_weights import vocabulary
from solotune.modeling.merge import merged_bytes
from solotune.stages.export import gguf as gguf_files
from solotune.stages.export.existing import nothing_half_left, open_export
from solotune.stages.export.merged import export_merged, refuse_no_base
from solotune.stages.export.model_card import Facts, adapter_card
from solotune.stages.export.yardstick import Yardstick

RUNS = Path("runs")


def run(
    wanted: str,
    *,
    merge: bool = False,
    merge_base: str | None = None,
    gguf: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> ExportRecord:
    """Exports a finished run, or adds to what was exported of it. Nothing is overwritten, nothing skipped.

    Args:
        wanted: run id, unique prefix, or `latest`.
        merge: base + adapter as one model.
        merge_base: the weights to merge into, `dequantised` or `original`; None: those that the figures recommend.
        gguf: GGUF types, made of the merged model; one string may hold several, with commas.
        overrides: `export.key=value` over the run's config.

    Raises:
        ArtifactError: the run isn't finished, or what is asked for is there already.
        ProofError: what was written doesn't behave like the adapter; none of it is left.
    """
    types = gguf_files.parse(gguf)
    with stage("export"), ExitStack() as locks:
        run_dir = RunDir.find(RUNS, wanted)
        locks.enter_context(held(run_dir.path, command := f"export --run {run_dir.run_id}"))
        manifest, _ = run_dir.finished()
        config = load(run_dir.config_of(manifest), overrides)
        locks.enter_context(held(Path(config.dataset.splits_dir), command, shared=True))
        before = open_export(run_dir)
        _refuse_what_is_there(run_dir, before, merge, types)
        base = ModelDir.of(config.model)
        fetched = base.open_as_trained(run_dir.run_id, manifest.base_model)
        facts = Facts(run_dir, manifest, config, base, fetched)
        refuse_no_base(facts, merge_base)
        gguf_files.refuse_impossible(facts, types)
        _refuse_full_disk(facts, merge, types)
        with nothing_half_left(run_dir), _scratch(run_dir) as scratch:
            asked = ExportCommand(merge, merge_base, list(types), list(overrides))
            record = _make(facts, before, asked, scratch)
            # Before the other merge is deleted, many GB: a stop there would take what passed along.
            write_json(run_dir.export_record, record)
        say(f"record: {run_dir.export_record}")
        report.write(run_dir)
        if record.artefacts.keys() - (before.artefacts.keys() if before else set()):
            say(f"next: invoke evaluate --run {run_dir.run_id}")  # exports beside base and adapter, in one table
    return record


def _refuse_what_is_there(run_dir: RunDir, before: ExportRecord | None, merge: bool, types: Sequence[str]) -> None:
    there = before.artefacts if before else {}
    asked = [*(["merged"] if merge else []), *(f"gguf-{kind}" for kind in types)]
    twice = [name for name in asked or ["adapter"] if name in there]
    if twice:
        raise ArtifactError(
            f"{run_dir.export} holds {', '.join(twice)} already",
            f"Ask for what isn't there to add to it, or delete all of it to export again: `rm -r {run_dir.export}`",
        )
    if types and not merge and "merged" not in there:
        raise ArtifactError("a GGUF is made of the merged model, and there is none", "Add `--merge`")


def _refuse_full_disk(facts: Facts, merge: bool, types: Sequence[str]) -> None:
    """Says before anything long is done that what is asked for doesn't fit; all of it lies side by side for a while."""
    size = merged_bytes(facts.base, facts.config.export.merge_dtype)
    merges = (2 if facts.config.quantization else 1) if merge else 0
    needed = int(size * (merges + gguf_files.share_of_merged(types, facts.config.export.merge_dtype)))
    if merge or types:
        needed += bytes_remembered(vocabulary(facts.base))
    if not (facts.run_dir.export / "adapter").exists():
        needed += sum(file.stat().st_size for file in facts.run_dir.adapter.iterdir())
    refuse_without_room(facts.run_dir.path, needed, "the exported models", "Make room, or export them one by one")


def _make(facts: Facts, before: ExportRecord | None, asked: ExportCommand, scratch: Path) -> ExportRecord:
    """Writes and measures what is asked for. What passed is on record before what comes after it is begun."""
    artefacts = dict(before.artefacts) if before else {}
    commands = before.commands if before else []
    examples, of_adapter, is_new = before.examples if before else 0, {}, "adapter" not in artefacts
    if asked.merge or asked.gguf:
        wanted = facts.config.export.proof_examples
        is_asked = any(value.startswith("export.proof_examples=") for value in asked.overrides)
        if is_asked and examples not in (0, wanted):
            warn(f"what is added is measured on the {examples} rows that the rest was measured on, not on {wanted}")
        yardstick = Yardstick.measure(facts, examples or wanted, scratch)
        examples, of_adapter = yardstick.examples, yardstick.of_adapter

    def record() -> ExportRecord:
        passed = msgspec.structs.replace(
            asked,
            merge=asked.merge and "merged" in artefacts,
            gguf=[kind for kind in asked.gguf if f"gguf-{kind}" in artefacts],
        )
        made = [passed] if is_new or passed.merge or passed.gguf else []
        return ExportRecord(EXPORT_SCHEMA_VERSION, facts.run_dir.run_id, examples, artefacts, [*commands, *made])

    if is_new:
        artefacts["adapter"] = _export_adapter(facts, of_adapter)
    if asked.merge:
        write_json(facts.run_dir.export_record, record())
        artefacts |= export_merged(facts, yardstick, scratch, asked.merge_base)
    for kind in asked.gguf:
        write_json(facts.run_dir.export_record, record())
        made_of = artefacts["merged"].merge_base
        artefacts[f"gguf-{kind}"] = gguf_files.export_gguf(facts, yardstick, scratch, kind, made_of)
    if is_new:
        _write_card(facts, artefacts)
    return record()


@contextmanager
def _scratch(run_dir: RunDir) -> Iterator[Path]:
    """A folder for what is measured and not kept, on the disk of the export. A failure leaves it there."""
    run_dir.export.mkdir(exist_ok=True)
    folder = staged_name(run_dir.export / "scratch")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def _export_adapter(facts: Facts, measured: dict[str, float]) -> Artefact:
    place = facts.run_dir.export / "adapter"
    with atomic_folder(place) as folder:
        for file in facts.run_dir.adapter.iterdir():
            shutil.copyfile(file, folder / file.name)
        files = record_files(folder)
    _write_card(facts, {})
    say(f"adapter for PEFT and vLLM: {place}")
    return Artefact("export/adapter", files, None, measured, {}, None)


def _write_card(facts: Facts, artefacts: dict[str, Artefact]) -> None:
    """The adapter's, with what was measured on the models made of it."""
    write_text(facts.run_dir.export / "adapter" / "README.md", adapter_card(facts, artefacts))
