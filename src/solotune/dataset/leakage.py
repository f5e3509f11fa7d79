"""Whether splits on disk are whole and leak nothing. Reads, never writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from solotune import console
from solotune.artifacts.data_dir import raw_files
from solotune.artifacts.files import differing_files
from solotune.artifacts.splits_dir import MADE_BY, SplitsDir, SplitsManifest
from solotune.config.schema import SPLITS, DatasetConfig, Split
from solotune.dataset.clean import digest
from solotune.dataset.clusters import Member
from solotune.dataset.contract import Row
from solotune.dataset.digests import DigestSet, digest_of
from solotune.dataset.readers import find_files
from solotune.dataset.split import declared_key, group_key
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError, DataError

_SHOWN = 3
_REPLACE = f"Run `{MADE_BY} --replace`"
_HELD_OUT: tuple[Split, ...] = ("test", "val")


class Finding(NamedTuple):
    """The outcome of one check."""

    check: str
    what: str
    """What was found, in a line."""
    problem: str = ""
    """What to do about it; empty: all is well."""


def examine(splits: SplitsDir, dataset: DatasetConfig) -> Iterator[Finding]:
    """Yields a finding for each check, the cheap ones first.

    Raises:
        ArtifactError: there are no splits, or unfinished ones.
    """
    manifest = splits.manifest()
    yield _files(splits, manifest)
    yield _raw_files(manifest, dataset)
    changes = manifest.changes(dataset)
    yield Finding(
        "config", changes or "the dataset section that made them", manifest.ways_out(dataset) if changes else ""
    )
    rows = _Rows(splits)
    try:
        rows.read()
    except (ArtifactError, OSError) as error:
        yield Finding("rows", getattr(error, "what", str(error)), _REPLACE)
        return
    yield Finding("rows", f"{sum(rows.count.values()):,} rows can be read")
    yield _counts(splits, manifest, rows)
    yield from rows.findings()
    if dataset.dedup.near != "off":
        yield _near_duplicates(splits, dataset)


def _files(splits: SplitsDir, manifest: SplitsManifest) -> Finding:
    recorded = dict(manifest.outputs)
    if manifest.near:
        recorded[splits.near_duplicates.name] = manifest.near.pairs
    damage = differing_files(splits.path, recorded, hashes=True)
    if damage:
        return Finding("files", "; ".join(damage), _REPLACE)
    return Finding("files", f"{len(recorded)} files are what prepare wrote")


def _raw_files(manifest: SplitsManifest, dataset: DatasetConfig) -> Finding:
    try:
        new = find_files(raw_files(dataset)).keys() - manifest.inputs.keys()
    except (DataError, ArtifactError):
        new = set()  # none is there any more
    if new:
        return Finding("raw files", f"not among those that were read: {', '.join(sorted(new)[:_SHOWN])}", _REPLACE)
    there = {name: record for name, record in manifest.inputs.items() if Path(name).is_file()}
    changed = differing_files(Path(), there, hashes=True)
    if changed:
        return Finding("raw files", "; ".join(changed[:_SHOWN]), _REPLACE)
    unchanged = f"unchanged: {len(there):,} of {len(manifest.inputs):,}"
    gone = len(there) < len(manifest.inputs)
    return Finding("raw files", f"{unchanged}; the others are gone and weren't compared" if gone else unchanged)


def _counts(splits: SplitsDir, manifest: SplitsManifest, rows: _Rows) -> Finding:
    m = manifest
    parts = f"{m.rows_kept:,} kept + {m.rows_quarantined:,} quarantined + {m.rows_duplicate:,} duplicates"
    left_out = _lines(splits.quarantine)
    wrong = []
    if m.rows_in != m.rows_kept + m.rows_quarantined + m.rows_duplicate:
        wrong.append(f"{m.rows_in:,} in isn't {parts}")
    wrong += [
        f"{split}.jsonl has {rows.count[split]:,} rows, the manifest says {m.rows.get(split, 0):,}"
        for split in SPLITS
        if rows.count[split] != m.rows.get(split, 0)
    ]
    if sum(m.rows.values()) != m.rows_kept:
        wrong.append(f"{sum(m.rows.values()):,} rows in the splits, {m.rows_kept:,} kept")
    if not left_out == m.rows_quarantined == sum(m.reasons.values()):
        wrong.append(f"{left_out:,} lines in {splits.quarantine.name}, {m.rows_quarantined:,} rows quarantined")
    if wrong:
        return Finding("counts", "; ".join(wrong), _REPLACE)
    return Finding("counts", f"{m.rows_in:,} in = {parts}")


def _near_duplicates(splits: SplitsDir, dataset: DatasetConfig) -> Finding:
    from solotune.dataset import near

    threshold = dataset.dedup.threshold
    with console.Progress("looking for near-duplicates across splits", None, "rows") as bar:
        found = near.across({split: splits.split(split) for split in SPLITS}, threshold, bar.advance)
    if not any(found.rows.values()):
        return Finding("near-duplicates", f"none across splits (Jaccard {threshold:g} and more)")
    pair = found.pairs[0]
    counted = " and ".join(f"{count:,} rows of {split}" for split, count in found.rows.items() if count)
    said = (
        f"{counted} say almost what a row on another side says, such as {console.safe(pair.id, 60)} ({pair.split}) "
        f"and {console.safe(pair.other_id, 60)} ({pair.other_split}), Jaccard {pair.jaccard:g}"
    )
    if dataset.dedup.near == "cluster":
        return Finding("near-duplicates", said, _REPLACE)
    return Finding("near-duplicates", f"{said}; dataset.dedup.near: cluster keeps such rows together")


class _Problems:
    """The first few problems of a check, and how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._shown: list[str] = []

    def add(self, problem: str) -> None:
        self.count += 1
        if len(self._shown) < _SHOWN:
            self._shown.append(problem)

    def __str__(self) -> str:
        more = f"; and {self.count - _SHOWN:,} more" if self.count > _SHOWN else ""
        return "; ".join(self._shown) + more


class _Rows:
    """One pass over the rows of all sides: val against test, then train against both.

    In memory: 20 bytes for each row, 60 more for each row of val and test, 250 for each row of a cluster.
    """

    def __init__(self, splits: SplitsDir) -> None:
        self._splits = splits
        self.count = dict.fromkeys(SPLITS, 0)
        self._problems = {check: _Problems() for check in ("ids", "declared splits", "groups", "duplicates")}
        self._ids = DigestSet()
        self._held_out = {check: {side: DigestSet() for side in _HELD_OUT} for check in ("groups", "duplicates")}
        self._declared = 0
        self._clusters: dict[bytes, str] = {}
        self._side_of_cluster: dict[str, Split] = {}

    def read(self) -> None:
        """Raises ArtifactError where a line isn't a row."""
        if self._splits.clusters.is_file():
            self._problems["clusters"] = _Problems()
            decode = msgspec.json.Decoder(Member).decode
            with self._splits.clusters.open("rb") as lines:
                try:
                    self._clusters = {digest_of(m.id): m.cluster for m in map(decode, lines)}
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise ArtifactError(f"{self._splits.clusters} has a line that isn't a row's cluster") from error
        for side in (*_HELD_OUT, "train"):
            for row in read_rows(self._splits.split(side)):
                self.count[side] += 1
                self._look_at(row, side)

    def findings(self) -> Iterator[Finding]:
        fine = {
            "ids": "no id is there twice",
            "declared splits": f"{self._declared:,} rows declare a split, and are there",
            "groups": "none is on two sides",
            "duplicates": "no row is on two sides",
            "clusters": f"{len(self._side_of_cluster):,} clusters of near-duplicates, none on two sides",
        }
        for check, problems in self._problems.items():
            yield Finding(check, str(problems), _REPLACE) if problems.count else Finding(check, fine[check])

    def _look_at(self, row: Row, side: Split) -> None:
        name = console.safe(row.id, 60)
        row_id = digest_of(row.id)
        if not self._ids.add(row_id):
            self._problems["ids"].add(f"{name} is there twice")
        if row.meta.split is not msgspec.UNSET:
            self._declared += 1
            if row.meta.split != side:
                self._problems["declared splits"].add(f"{name} declares {row.meta.split} and is in {side}")
        keys = [group_key(row)] + ([declared_key(row.meta.group)] if row.meta.group else [])
        for key in keys:
            self._compare("groups", digest_of(key), side, f"{name} of {side} is of the same group as a row of")
        said = digest("\0".join([m.content.strip() for m in row.messages]).encode())
        self._compare("duplicates", said, side, f"{name} of {side} says the same as a row of")
        cluster = self._clusters.get(row_id)
        if cluster and self._side_of_cluster.setdefault(cluster, side) != side:
            self._problems["clusters"].add(f"{name} of {side}, cluster {cluster[:12]}, has others elsewhere")

    def _compare(self, check: str, key: bytes, side: Split, words: str) -> None:
        sides = self._held_out[check]
        for other, known in sides.items():
            if other != side and key in known:
                self._problems[check].add(f"{words} {other}")
        if side in sides:
            sides[side].add(key)


def _lines(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
