"""What stands in export/: what export.json says of it, and the models themselves, to be measured as they lie there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from solotune.artifacts.measured import Artefact, ExportRecord, Proof, damage_of
from solotune.artifacts.run_dir import RunDir
from solotune.config.schema import RunConfig
from solotune.errors import ArtifactError
from solotune.harness.held_out import HeldOut, spread
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.merged_model import merged_subject, where_it_fits
from solotune.modeling.subject import Subject


@dataclass(frozen=True)
class Exported:
    """An exported model that is there, whole."""

    artefact: Artefact
    rows: Sequence[int]
    """Numbers of the rows that it is measured on."""

    @property
    def gguf(self) -> str | None:
        """The name of its file, where it is a GGUF."""
        return next((name for name in self.artefact.files if name.endswith(".gguf")), None)


def to_measure(run_dir: RunDir, record: ExportRecord | None, config: RunConfig, rows: int) -> dict[str, Exported]:
    """Merged models and GGUF files by their name in export.json; without the record nothing was exported.

    Args:
        run_dir: of the run.
        record: its export.json.
        config: says how many rows a GGUF is measured on, which runs on the CPU.
        rows: how many there are.

    Raises:
        ArtifactError: a file isn't what export wrote.
    """
    found = {}
    for name, artefact in kept(record).items():
        damage = damage_of(artefact, run_dir.path)
        if damage:
            raise ArtifactError(
                f"{run_dir.path / str(artefact.path)} isn't what was exported: {'; '.join(damage)}",
                f"`--no-exports` measures without it; or delete the export, to make it again: `rm -r {run_dir.export}`",
            )
        one = Exported(artefact, range(rows))
        most = config.evaluation.gguf_examples
        found[name] = Exported(artefact, sorted(spread(rows, most))) if one.gguf else one
    return found


def kept(record: ExportRecord | None) -> Mapping[str, Artefact]:
    """What of it is a model of its own and stands on the disk."""
    artefacts = record.artefacts if record else {}
    return {name: one for name, one in artefacts.items() if name != "adapter" and one.path is not None}


def rows_of_proof(record: ExportRecord | None, held_out: HeldOut) -> Sequence[int] | None:
    """Numbers of the rows that `export` measured on; None where some of them aren't among these, or nothing was."""
    if record is None or not record.examples:
        return None
    if held_out.is_whole:
        return sorted(spread(len(held_out), record.examples))
    return range(len(held_out)) if record.examples == len(held_out) else None


def proofs(record: ExportRecord | None, held_out: HeldOut) -> dict[str, Proof]:
    """What export.json says of each model, those among them that weren't kept."""
    among = rows_of_proof(record, held_out) is not None
    found = {}
    for name, one in (record.artefacts if record else {}).items():
        figures = [one.measured.get(key) for key in ("loss", "perplexity", "base_loss", "adapter_loss")]
        if name == "adapter" or record is None or None in figures:
            continue
        loss, perplexity, base_loss, adapter_loss = (float(figure) for figure in figures if figure is not None)
        found[name] = Proof(
            examples=record.examples,
            loss=loss,
            perplexity=perplexity,
            base_loss=base_loss,
            adapter_loss=adapter_loss,
            kl_mean=one.divergence.kl_mean if one.divergence else None,
            greedy_agreement=one.divergence.greedy_agreement if one.divergence else None,
            merge_base=one.merge_base,
            kept=one.path is not None,
            passed=one.passed,
            rows_are_among=among,
        )
    return found


def device_of(run_dir: RunDir, one: Exported, config: RunConfig) -> str:
    """Where `opened` runs it."""
    return "cpu" if one.gguf else where_it_fits(run_dir.path / str(one.artefact.path), config).device


@contextmanager
def opened(run_dir: RunDir, one: Exported, encoder: ChatEncoder, config: RunConfig) -> Iterator[Subject]:
    """Loads an exported model as it lies on the disk; its memory is free again when the block ends."""
    folder = run_dir.path / str(one.artefact.path)
    if one.gguf:
        from solotune.modeling.gguf_runtime import GgufSubject

        gguf = GgufSubject(folder / one.gguf, encoder, config)
        try:
            yield gguf
        finally:
            gguf.close()
        return
    fix = "`--set evaluation.max_new_tokens=N` asks for shorter answers; `--no-exports` measures without it"
    with merged_subject(folder, encoder, config, fix) as merged:
        yield merged
