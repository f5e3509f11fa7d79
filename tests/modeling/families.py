"""Small tokenizers with the layout, flags and chat templates of well-known model families."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny import CHATML
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from solotune.artifacts.model_dir import ModelDir
from solotune.modeling.chat import ChatEncoder

ROOT = Path(__file__).parent.parent.parent
_CORPUS = [
    'turn the light on in the kitchen {"tool":"light","room":"kitchen"}',
    "user assistant system model start end header im inst think turn of text <| |> </ > [ ] /INST",
    "You are a helpful assistant.\n\nThe answer is  42,   not 41.\n",
] * 8
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Family:
    """What makes a family's tokenizer: its control tokens and how text around them is cut."""

    template: str
    special: tuple[str, ...]
    """Added tokens with the flag `special`."""
    added: tuple[str, ...] = ()
    """Added tokens without it."""
    bos: str = ""
    eos: str = ""
    style: str = "bytes"
    """`bytes` (GPT-2), `qwen` (NFC, cut by a pattern), `llama3` (whole words first), `prepend` (Llama 2, Mistral: a
    space before each text), `metaspace`, `gemma` (SentencePiece without it)."""
    takes_system: bool = True
    turn_end: str = ""
    strips: frozenset[str] = field(default_factory=frozenset)


def trl(name: str) -> str:
    """A template that TRL ships."""
    folder = importlib.resources.files("trl").joinpath("chat_templates")
    return folder.joinpath(f"{name}.jinja").read_text(encoding="utf-8")


SMOLLM2 = CHATML.replace(
    "{% for message in messages %}",
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}",
)
_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_pad|>")
_TOOLS = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|file_sep|>")
_LLAMA3 = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|reserved_special_token_0|>",
)
_GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
_MISTRAL = (ROOT / "configs" / "templates" / "mistral.jinja").read_text(encoding="utf-8")
BOTH = frozenset({"system", "user", "assistant"})

FAMILIES: dict[str, Family] = {
    "smollm2": Family(
        SMOLLM2,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"),
        bos="<|im_start|>",
        eos="<|im_end|>",
        turn_end="<|im_end|>",
    ),
    "qwen2_5": Family(trl("qwen2_5"), _QWEN, _TOOLS, "", "<|im_end|>", "qwen", turn_end="<|im_end|>"),
    "qwen3": Family(
        trl("qwen3"),
        _QWEN,
        (*_TOOLS, "<tool_response>", "</tool_response>", "<think>", "</think>"),
        "",
        "<|im_end|>",
        "qwen",
        turn_end="<|im_end|>",
    ),
    "llama3": Family(
        trl("llama3"), _LLAMA3, (), "<|begin_of_text|>", "<|eot_id|>", "llama3", turn_end="<|eot_id|>", strips=BOTH
    ),
    "mistral": Family(_MISTRAL, ("<unk>", "<s>", "</s>"), (), "<s>", "</s>", "prepend", turn_end="</s>"),
    "mistral_v3": Family(
        _MISTRAL,
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
        (),
        "<s>",
        "</s>",
        "metaspace",
        turn_end="</s>",
    ),
    "gemma": Family(
        trl("gemma"),
        _GEMMA,
        ("\n\n", "\n\n\n", "▁▁", "▁▁▁", "<table>", "<unused7>"),
        "<bos>",
        "<eos>",
        "gemma",
        takes_system=False,
        turn_end="<end_of_turn>",
        strips=BOTH,
    ),
    "gemma3": Family(
        trl("gemma3"),
        _GEMMA,
        ("\n\n", "\n\n\n", "▁▁", "<table>", "<start_of_image>"),
        "<bos>",
        "<eos>",
        "gemma",
        turn_end="<end_of_turn>",
        strips=frozenset({"user", "assistant"}),
    ),
}


def build(family: Family, folder: Path) -> ChatEncoder:
    """Writes the files of a base model's tokenizer into `folder` and opens them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(family)), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096}
    config |= {"bos_token": family.bos} if family.bos else {}
    config |= {"eos_token": family.eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(family.template, encoding="utf-8")
    return ChatEncoder.open(ModelDir(folder))


def _tokenizer(family: Family) -> dict[str, Any]:
    of_bytes = family.style in ("bytes", "qwen", "llama3")
    tokenizer = Tokenizer(models.BPE(unk_token=None if of_bytes else "<unk>", byte_fallback=not of_bytes))
    if family.style == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    if family.style in ("qwen", "llama3"):
        words = pre_tokenizers.Split(Regex(_WORDS), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    elif family.style == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # while it learns: no token reaches over a space
    tokenizer.decoder = (
        decoders.ByteLevel()
        if of_bytes
        else decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    )
    ascii_ = [chr(c) for c in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in (*family.special, *family.added)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()) if of_bytes else ["▁", "\n", *ascii_],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    if family.style == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    elif not of_bytes:
        spaces = normalizers.Replace(" ", "▁")
        prepends = family.style == "prepend"
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prepends else spaces
        tokenizer.pre_tokenizer = None
    made: dict[str, Any] = json.loads(tokenizer.to_str())
    for token in made["added_tokens"]:
        token["special"] = token["content"] in family.special
    vocab = made["model"]["vocab"]
    if not of_bytes:
        for byte in range(256):
            vocab[f"<0x{byte:02X}>"] = len(vocab)
        made["model"]["fuse_unk"] = True
    made["model"]["ignore_merges"] = family.style == "llama3"
    _merge_into(made, family)
    return made


def _merge_into(made: dict[str, Any], family: Family) -> None:
    """Merges that end in a control token, as Gemma's has them: the worst that a vocabulary can hold."""
    vocab, merges = made["model"]["vocab"], made["model"]["merges"]
    for token in (*family.special, *family.added):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if all(ord(c) < 128 and c not in " \n" for c in token):
                for part in (left, right):
                    vocab.setdefault(part, len(vocab))
                merges.append([left, right])
    for size in range(2, max(map(len, (*family.special, *family.added)))):
        for token in (*family.special, *family.added):
            part = token[:size]
            if part in vocab and part[:-1] in vocab and part[-1] in vocab and size < len(token):
                merges.insert(0, [part[:-1], part[-1]])
