"""export/gguf/<type>: the merged model for llama.cpp and Ollama, measured in llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from solotune.artifacts.files import atomic_folder, record_files
from solotune.artifacts.measured import Artefact
from solotune.artifacts.model_dir import ModelDir
from solotune.config.gguf_types import CONVERTED, QUANTISED, TYPES
from solotune.console import Progress, safe, say, warn
from solotune.errors import ProofError, SolotuneError
from solotune.modeling import gguf_export
from solotune.modeling.gguf_runtime import serving_mismatches
from solotune.modeling.gguf_weights import wrong_tensors
from solotune.modeling.merge import tensor_count
from solotune.modeling.ollama import modelfile
from solotune.stages.export import tolerance
from solotune.stages.export.model_card import Facts, gguf_card
from solotune.stages.export.yardstick import Yardstick


def parse(asked: Sequence[str]) -> tuple[str, ...]:
    """`q8_0,f16` and repeated options as types. Raises SolotuneError for one that there isn't."""
    types = tuple(dict.fromkeys(part.strip().lower() for text in asked for part in text.split(",")))
    unknown = [kind for kind in types if kind not in TYPES]
    if unknown:
        raise SolotuneError(f"there is no GGUF type {unknown[0]!r}", f"There are {', '.join(TYPES)}")
    return types


def share_of_merged(types: Sequence[str], merge_dtype: str) -> float:
    """How large files of these types become, beside the merged model; with what some are made of on the way."""
    of_16_bits = sum(_OF_16_BITS.get(kind) or (int(kind[1]) + 1) / 16 for kind in types)
    made_of = 1.0 if any(kind in QUANTISED for kind in types) else 0.0  # bf16, once for all of them
    return (of_16_bits + made_of) / (2 if merge_dtype == "float32" else 1)


_OF_16_BITS = {"f32": 2.0, "f16": 1.0, "bf16": 1.0, "q8_0": 0.54}


def refuse_impossible(facts: Facts, types: Sequence[str]) -> None:
    """Raises before anything long is done where llama.cpp's tools are missing or don't know the model."""
    for kind in types:
        if kind in QUANTISED:
            gguf_export.refuse_unquantisable(kind)
    if types:
        gguf_export.refuse_unconvertible(facts.base.path)


def export_gguf(facts: Facts, yardstick: Yardstick, scratch: Path, kind: str, merge_base: str | None) -> Artefact:
    """Converts export/merged, measures the file in llama.cpp, and puts a Modelfile beside it.

    Args:
        facts: of the run.
        yardstick: what it is held against.
        scratch: a folder on the disk of the export; what several types are made of stays there.
        kind: the GGUF type.
        merge_base: of the merged model.

    Raises:
        ProofError: it is beyond the tolerance, or llama.cpp makes other prompts of chats than the run did.
    """
    merged, place, name = facts.run_dir.export / "merged", facts.run_dir.export / "gguf" / kind, f"gguf-{kind}"
    with atomic_folder(place) as folder:
        file = folder / f"{facts.config.name}-{kind}.gguf"
        say(f"converting to GGUF, {kind}")
        made_by = write_gguf(merged, file, kind, scratch)
        _refuse_other_weights(file, merged)
        measured = yardstick.measure_gguf(name, file, tolerance.of_gguf(facts.config.export, kind))
        _refuse_beyond_tolerance(yardstick, measured.artefact, kind)
        _refuse_other_prompts(file, yardstick)
        if measured.runs_past:
            past = safe(", ".join(measured.runs_past))
            warn(f"llama.cpp doesn't stop at {past} by itself: the Modelfile tells Ollama to")
        artefact = msgspec.structs.replace(
            measured.artefact, path=f"export/gguf/{kind}", merge_base=merge_base, made_by=made_by, dtype=kind
        )
        (folder / "Modelfile").write_text(modelfile(file, yardstick.encoder), encoding="utf-8")
        (folder / "README.md").write_text(gguf_card(facts, name, artefact, file.name), encoding="utf-8")
        artefact = msgspec.structs.replace(artefact, files=record_files(folder))
    found = artefact.divergence
    assert found is not None
    say(
        f"{name}: loss {artefact.measured['loss']:.4f} beside the adapter's {yardstick.trained.adapter_loss:.4f}, "
        f"KL {found.kl_mean:.2e}, the same likeliest token at {found.greedy_agreement:.2%} of the positions: {place}"
    )
    return artefact


def write_gguf(merged: Path, file: Path, kind: str, scratch: Path) -> str:
    """The GGUF; returns what made it."""
    if kind in CONVERTED:
        return gguf_export.convert(merged, file, kind)
    converted = scratch / "converted.gguf"
    if not converted.exists():
        gguf_export.convert(merged, converted, "bf16", name=file.stem)
    return gguf_export.quantize(converted, file, kind)


def _refuse_other_weights(file: Path, merged: Path) -> None:
    with Progress("comparing its weights", tensor_count(ModelDir(merged)), "tensors") as bar:
        wrong = wrong_tensors(file, merged, bar.advance)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ProofError(
            f"{file.name} holds other weights than the merged model: {safe('; '.join(wrong[:3]), 600)}{more}",
            "It wasn't exported; serve the merged model, and report this with the run's manifest.json",
        )


def _refuse_beyond_tolerance(yardstick: Yardstick, artefact: Artefact, kind: str) -> None:
    if not artefact.failed:
        return
    raise ProofError(
        f"the GGUF of type {kind} isn't close enough to the adapter on {yardstick.on_what}: "
        f"{'; '.join(artefact.failed)}",
        f"It wasn't exported: {tolerance.what_helps(artefact, kind)}",
    )


def _refuse_other_prompts(file: Path, yardstick: Yardstick) -> None:
    """Holds llama.cpp's server, with the template and tokenizer in the file, against the run's own prompts."""
    prompts = yardstick.prompts()
    assert prompts
    found = serving_mismatches(file, yardstick.encoder, prompts)
    differing = sorted({*found.template, *found.tokens})
    if differing:
        raise ProofError(
            f"llama.cpp makes other prompts of {len(differing)} of {len(prompts)} held-out chats than the run did: "
            f"{found.reason or ('another text' if found.template else 'other token ids')}",
            "It wasn't exported; serve the merged model",
        )
