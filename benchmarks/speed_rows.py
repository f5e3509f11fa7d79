"""Rows to measure `prepare` with: chats of about 665 bytes, made on the fly, the same ones every time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

_WORDS = """
the of and to in is that for it as with on be by this are from or an at which when can have not will use list
explain write function value return number line word text example answer question step first second water light
energy people country city history science model data train test table result because however therefore between
without before after during increase reduce compare describe summarise translate sentence paragraph story email
recipe customer product service price market company team project health exercise language computer program
code
""".split()  # noqa: SIM905
_FOREIGN = ("café", "naïve", "Größe", "“quoted”", "an em dash — here", "señor", "東京", "русский", "✓", "€ 20")
_TEXTS = 4_000


def raw_lines(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields compact JSON lines: 20 % with a system message, 15 % of several turns, 10 % not in ASCII only, half
    of them with source and tags.

    Answers are put together from four texts of a stock each, so that rows resemble each other no more than people's
    do. One row in a hundred repeats an earlier one under another id.
    """
    rng = random.Random(seed)
    texts = [_quoted(rng, 13) for _ in range(_TEXTS)]
    row = b'{"id":"row-%08d","messages":[%b]%b}\n'
    metas = [b',"meta":{"source":"forum","tags":["%b"]}' % tag for tag in (b"short", b"long", b"code")]
    turn = b'{"role":"user","content":"%b (%d)"},{"role":"assistant","content":"%b"}'
    said = b""
    for n in range(count):
        if n % 100 != 99:
            draw = rng.random()
            said = turn % (rng.choice(texts), n, b" ".join(rng.choices(texts, k=4)))
            if draw < 0.15:
                said += b"," + turn % (rng.choice(texts), n, rng.choice(texts))
            elif draw > 0.8:
                said = b'{"role":"system","content":"%b"},' % rng.choice(texts) + said
        yield row % (n, said, metas[n % 3] if n % 2 else b"")


def _quoted(rng: random.Random, words: int) -> bytes:
    """A text of about so many words as the inside of a JSON string."""
    size = max(3, round(words * rng.lognormvariate(0.0, 0.5)))
    chosen = [rng.choice(_WORDS) for _ in range(size)]
    if rng.random() < 0.018:
        chosen[rng.randrange(size)] = rng.choice(_FOREIGN)
    for at, mark in ((7, ".\n"), (13, ' "so"'), (19, ", 12.5 %"), (31, ":\n\n- ")):
        if size > at:
            chosen[at] += mark
    return json.dumps(" ".join(chosen), ensure_ascii=False)[1:-1].encode()
