"""tokenizer.json, changed so that no text becomes a control token."""

from __future__ import annotations

from typing import Any

from solotune.errors import ModelError


def without_control_tokens(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json that can't emit a control token, whatever text it is given.

    The control tokens go, and so do their entries in the vocabulary and what merges into them: a byte-pair model that
    looks words up whole (`ignore_merges`) would find them there.

    Raises:
        ModelError: the model of the tokenizer can't be taught to leave them out.
    """
    added = tokenizer.get("added_tokens", [])
    control = {token["content"] for token in added if is_control(token)}
    model = dict(tokenizer["model"])
    if not isinstance(model.get("vocab"), dict):
        raise ModelError(
            f"this tokenizer's model ({model.get('type')}) finds control tokens in ordinary text",
            "Use a base model with a byte-pair (BPE) tokenizer",
        )
    if model.get("byte_fallback") and all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256)):
        model["unk_token"] = None  # every character has its bytes: none is unknown
    gone = control - {model.get("unk_token")}
    model["vocab"] = {token: i for token, i in model["vocab"].items() if token not in gone}
    if model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, control)]
    plain = {
        **tokenizer,
        "added_tokens": [token for token in added if not is_control(token)],
        "post_processor": None,
        "truncation": None,
        "padding": None,
        "model": model,
    }
    # SentencePiece's "first" puts a space before the first word of a text. Our texts stand behind markup: never first.
    return _with_prepend_scheme(plain, {"first": "never"})


def without_prefix(plain: dict[str, Any]) -> dict[str, Any]:
    """The same for a text that goes on behind another: no space is put before its first word."""
    return _without_prepend(_with_prepend_scheme(plain, {"first": "never", "always": "never"}))


def is_control(added_token: dict[str, Any]) -> bool:
    """Whether an added token of tokenizer.json is more than white space, which Gemma has in runs."""
    return bool(added_token["content"].replace("▁", " ").strip())


def _touches(merge: str | list[str], tokens: set[str]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left + right in tokens or left in tokens or right in tokens


def _with_prepend_scheme(tokenizer: dict[str, Any], schemes: dict[str, str]) -> dict[str, Any]:
    def changed(part: dict[str, Any] | None) -> dict[str, Any] | None:
        if part is None:
            return None
        if part.get("type") == "Sequence":
            return {**part, "pretokenizers": [changed(p) for p in part["pretokenizers"]]}
        if part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") in schemes:
            return {**part, "prepend_scheme": schemes[part.get("prepend_scheme", "always")]}
        return part

    return {**tokenizer, "pre_tokenizer": changed(tokenizer.get("pre_tokenizer"))}


def _without_prepend(tokenizer: dict[str, Any]) -> dict[str, Any]:
    normalizer = tokenizer.get("normalizer") or {}
    if normalizer.get("type") == "Prepend":
        return {**tokenizer, "normalizer": None}
    if normalizer.get("type") == "Sequence":
        kept = [part for part in normalizer["normalizers"] if part.get("type") != "Prepend"]
        return {**tokenizer, "normalizer": {**normalizer, "normalizers": kept}}
    return tokenizer
