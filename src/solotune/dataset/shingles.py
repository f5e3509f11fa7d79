"""What two rows are compared by: the words of their turns, five by five.

The system message isn't compared: thousands of rows share one, and aren't duplicates for that. Case, white space and
the marks of a sentence make no difference; signs that mean something (+ < / #) do. Where words aren't set apart by
blanks (Chinese, Japanese, Thai …) each character is a word. A text of fewer than five words is one shingle: in a short
text another word is another question ("kitchen" for "garage", "12 + 34" for "12 + 35"), and no near-duplicate.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from solotune.dataset.contract import Message

SIZE = 5
MAX_BYTES = 256 * 1024
"""Of a longer text the beginning is compared."""

_BLANKS = "\"'()[]{},.;:!?`"
WORDS = bytes(
    0 if c == 0 else 32 if c < 33 or c == 127 or chr(c) in _BLANKS else ord(chr(c).lower()) if c < 128 else c
    for c in range(256)
)
"""For bytes.translate: letters of ASCII to lower case, what separates words to blanks."""
_MARKS = str.maketrans(dict.fromkeys("«»‘’“”„…·–—¿¡、。「」『』《》（），：；！？\u00a0\u3000", " "))
_UNSPACED = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff])")


def folded(messages: Iterable[Message]) -> bytes:
    """The turns as one text, ready for `WORDS`."""
    text = "\n".join([m.content for m in messages if m.role != "system"])
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text[:MAX_BYTES]).casefold().translate(_MARKS)
        text = _UNSPACED.sub(r" \1 ", text)
    return text.encode("utf-8", "replace")[:MAX_BYTES]


def shingles(text: bytes) -> frozenset[bytes]:
    """The shingles of a folded text; none where it has no word."""
    words = text.translate(WORDS).split()
    if len(words) < SIZE:
        return frozenset([b" ".join(words)] if words else [])
    return frozenset(b" ".join(words[i : i + SIZE]) for i in range(len(words) - SIZE + 1))


def jaccard(one: frozenset[bytes], other: frozenset[bytes]) -> float:
    """Shared shingles by all shingles of both: 0 to 1."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0
