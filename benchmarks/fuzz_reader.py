"""Fuzzes the reader: any bytes, as a file of any type and layout, are rows, quarantined rows, or a clear refusal.

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris
    PYTHONPATH=src:.venv/lib/python3.11/site-packages /tmp/fuzz/bin/python benchmarks/fuzz_reader.py -max_total_time=600

atheris isn't in the lock. The first byte chooses file type and format, the rest is the file. Anything but an
`assert` that holds and a `DataError` is a finding; libFuzzer then writes the input to `crash-…` and stops. Parquet is
left out: nearly all bytes are refused by Arrow's footer; tests damage whole files byte by byte instead.
"""

from __future__ import annotations

import base64
import gzip
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["solotune", "json"]):
    import msgspec
    import zstandard

    from solotune.config.schema import DatasetConfig
    from solotune.dataset.clean import Counts, clean, quarantine_line
    from solotune.dataset.contract import decode, encode
    from solotune.dataset.formats import FORMATS, Parser
    from solotune.dataset.readers import read_file
    from solotune.dataset.readers.source import RawRecord
    from solotune.dataset.reasons import NOTES, REASONS, RowProblem
    from solotune.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".jsonl.zst")
PACKERS = {".gz": gzip.compress, ".zst": zstandard.compress}
FOLDER = Path(tempfile.mkdtemp())
SEED_ROWS = (
    b'{"id":"a","messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"meta":{"tags":["t"]}}',
    (
        b'{"messages": [{"role": "developer", "content": "s"}, '
        b'{"role": "user", "content": [{"type": "text", "text": "q"}]}, '
        b'{"role": "assistant", "content": "a", "weight": 1}]}'
    ),
    b'{"conversations":[{"from":"human","value":"\\u00e9\\ud83d\\ude00"},{"from":"gpt","value":"caf\xc3\xa9"}]}',
    b'{"instruction":"q","input":"i","output":"a","id":7,"\\u0069d":"b","source":"\xef\xbb\xbf"}',
    b'instruction,output\nq,"a\n""b"""\n',
    b'[{"prompt": "q", "completion": "a"}, {}, [[[["]"]]]], 1e999, NaN]',
)


def fuzz(data: bytes) -> None:
    if len(data) < 2:
        return
    suffix, format_name = SUFFIXES[data[0] % len(SUFFIXES)], list(FORMATS)[data[1] % len(FORMATS)]
    content = data[2:]
    path = FOLDER / f"f{suffix}"
    # Half of the compressed files are damaged ones.
    pack = PACKERS.get(path.suffix)
    path.write_bytes(pack(content) if pack and data[0] < 128 else content)
    parser = Parser(DatasetConfig(raw_files=("f",), format=format_name))
    counts, left_out = Counts(), 0

    def quarantine(record: RawRecord, problem: RowProblem) -> None:
        nonlocal left_out
        left_out += 1
        line = msgspec.json.decode(msgspec.json.encode(quarantine_line(record, problem)))
        raw = base64.b64decode(line["raw_base64"]) if "raw_base64" in line else line["raw"].encode()
        assert raw == record.raw
        assert line["code"] in REASONS
        if record.offset is not None and (not pack or data[0] < 128):
            assert content[record.offset : record.offset + len(raw)] == raw

    kept = 0
    try:
        for found in clean(read_file(path, "f"), parser.parse_many, quarantine, counts):
            kept += not found.is_duplicate
            line = found.checked.encoded
            assert encode(found.checked.row) == line
            assert decode(line) == found.checked.row
            assert b"\n" not in line
    except DataError:
        return
    assert counts.rows_in == counts.kept + counts.duplicates + counts.quarantined
    assert (counts.kept, counts.quarantined) == (kept, left_out)
    assert counts.notes.keys() <= NOTES.keys()


def main() -> None:
    corpus = Path(tempfile.mkdtemp())
    for i in range(len(SUFFIXES)):
        for j in range(len(FORMATS)):
            content = SEED_ROWS[5] if i == 1 else SEED_ROWS[4] if i in (2, 3) else b"\n".join(SEED_ROWS[:4])
            (corpus / f"{i}{j}").write_bytes(bytes([i, j]) + content)
    atheris.Setup([*sys.argv, str(corpus)], fuzz)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
