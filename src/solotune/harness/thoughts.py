"""Blocks of thoughts that a model writes before its answer, where nobody asked for them."""

from __future__ import annotations

from typing import NamedTuple

BLOCKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
"""How Qwen3, DeepSeek, SmolLM3 and GLM mark them; Mistral; Seed."""


class Parted(NamedTuple):
    """An answer taken apart."""

    thoughts: str
    """A whole block, with its marks; empty: it begins with none."""
    content: str
    is_unfinished: bool
    """It begins with a block that doesn't end: the content is all of it."""


def parted(answer: str, reference: str) -> Parted:
    """What a chat would show as thoughts and as answer.

    Where the reference itself begins with thoughts, they are what is asked for, and the content keeps them.
    """
    for start, end in BLOCKS:
        if answer.lstrip().startswith(start):
            before, found, after = answer.partition(end)
            if not found:
                return Parted("", answer, is_unfinished=True)
            if reference.lstrip().startswith(start):
                break
            return Parted(before + end, after.lstrip(), is_unfinished=False)
    return Parted("", answer, is_unfinished=False)
