"""prepare: raw rows -> data/splits/{train,val,test}.jsonl, with a place for every row that came in.

Raw files are only read. The splits are built in a hidden folder beside their place and moved into it at the
end, the manifest last: stopped at any moment, it leaves the old splits whole, or none that look whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import msgspec

from solotune import __version__, console
from solotune.artifacts.data_dir import raw_files
from solotune.artifacts.disk import trouble_in_one_line
from solotune.artifacts.files import FileRecord, atomic_write, differing_files, make_folder, record_files, write_jsonl
from solotune.artifacts.lock import held
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.splits_dir import MADE_BY, SCHEMA_VERSION, NearDuplicates, SplitsDir, SplitsManifest
from solotune.config.schema import SPLITS, DatasetConfig, RunConfig, Split
from solotune.dataset import leakage, policy, report, summary
from solotune.dataset.clean import Counts, clean, quarantine_line
from solotune.dataset.clusters import Clusters
from solotune.dataset.contract import Message
from solotune.dataset.divide import WaitingRows
from solotune.dataset.formats import Parser
from solotune.dataset.readers.raw_files import RawFiles
from solotune.dataset.readers.source import RawRecord
from solotune.dataset.reasons import RowProblem
from solotune.dataset.split import Splitter
from solotune.dataset.stored import read_rows
from solotune.dataset.token_lengths import TokenLengths, measure
from solotune.errors import ArtifactError, DataError

RAW_ROOT = Path("data/raw")
_REPORT_EVERY_ROWS = 4096


def run(config: RunConfig, *, replace: bool = False) -> SplitsDir:
    """Makes the splits that `config.dataset` describes, or finds that they are there.

    Args:
        config: the experiment; its model and max_length matter for the token lengths only.
        replace: make them again where there are some.

    Raises:
        DataError: raw files, rows or the way they divide can't be used; the message says what to do.
        ArtifactError: other splits are in the way, or the folder can't be written.
    """
    dataset = config.dataset
    splits = SplitsDir(Path(dataset.splits_dir))
    with console.stage("prepare"):
        raw = RawFiles(raw_files(dataset))
        _refuse_to_write_among_raw_files(splits, raw)
        with _disk_trouble_in_one_line(splits):
            make_folder(splits.path)
            with held(splits.path, "prepare"):
                if splits.is_complete and not replace:
                    manifest = _check_up_to_date(splits, dataset, raw)
                    splits.clear_leftovers()
                    console.say(f"{splits.path} is up to date: same raw files, same dataset section")
                    summary.show_rows(_counts_of(manifest), splits.quarantine)
                else:
                    manifest = _build(dataset, raw, splits)
                _show_splits(config, splits, manifest)
    return splits


def check(config: RunConfig) -> None:
    """Verifies splits that are there, and writes nothing. Raw files are compared where they are still there.

    Raises:
        ArtifactError: there are no finished splits, or they aren't what they should be.
    """
    splits = SplitsDir(Path(config.dataset.splits_dir))
    failed = []
    with console.stage("prepare --check"), held(splits.path, "prepare --check", shared=True):
        for finding in leakage.examine(splits, config.dataset):
            console.say(f"  {'FAIL' if finding.problem else 'ok  '}  {finding.check + ':':<18}{finding.what}")
            if finding.problem:
                failed.append(finding)
    if failed:
        raise ArtifactError(
            f"{splits.path} fails {len(failed)} of the checks above: {', '.join(f.check for f in failed)}",
            failed[0].problem,
        )
    console.say(f"{splits.path} is whole, and nothing of val or test is in train")


def _build(dataset: DatasetConfig, raw: RawFiles, splits: SplitsDir) -> SplitsManifest:
    """Reads, cleans, divides and publishes."""
    parser, splitter, counts = Parser(dataset), Splitter(dataset), Counts()
    # Near-duplicates are looked for in one file with all rows; else a row waits where it will most likely stay.
    guess = None if dataset.dedup.near == "cluster" else splitter.side_of
    splits.rejected.unlink(missing_ok=True)  # it would be taken for this one's
    with splits.staging() as staged, WaitingRows(staged, guess) as waiting:
        quarantine = staged / splits.quarantine.name
        _read_and_clean(raw, parser, splitter, waiting=waiting, quarantine=quarantine, counts=counts)
        summary.show_rows(counts, quarantine)
        try:
            policy.check_not_empty(raw.paths, counts)
            policy.check_quarantine(dataset, counts, quarantine, str(splits.rejected))
            splitter.check_declarations()
            clusters = Clusters(splitter, waiting)
            if dataset.dedup.near == "cluster":
                _keep_near_duplicates_together(clusters, dataset.dedup.threshold, staged / splits.clusters.name)
            paths = {split: staged / splits.split(split).name for split in SPLITS}
            with console.Progress("dividing", len(waiting), "rows") as bar:
                side_of = None if waiting.guesses and splitter.only_draws else splitter.side_of
                sides = waiting.divide(side_of, paths, bar.advance)
            empty = policy.check_sides(dataset, sides.rows)
        except DataError:
            if counts.quarantined:
                quarantine.replace(splits.rejected)
            raise
        assert sum(sides.rows.values()) == counts.kept, f"rows were lost: {sides.rows}, {counts}"
        near_pairs = staged / splits.near_duplicates.name
        near = None if dataset.dedup.near == "off" else _near_duplicates(dataset, paths, clusters, near_pairs)
        outputs = record_files(staged)
        outputs.pop(near_pairs.name, None)
        manifest = SplitsManifest(
            schema_version=SCHEMA_VERSION,
            config=dataset.model_dump(mode="json"),
            inputs=raw.hashes,
            outputs=outputs,
            rows_in=counts.rows_in,
            rows_kept=counts.kept,
            rows_quarantined=counts.quarantined,
            rows_duplicate=counts.duplicates,
            rows=sides.rows,
            groups=sides.groups,
            near=near,
            reasons=dict(sorted(counts.reasons.items())),
            tags=sides.tags,
            solotune=__version__,
            notes=dict(sorted(counts.notes.items())),
            unread_columns=dict(sorted(parser.unread.items())),
            rows_by_file=dict(counts.by_file),
        )
        manifest = splits.publish(staged, manifest, report.of(manifest, quarantine, near_pairs))
    console.say(f"wrote {splits.path}/: {', '.join(manifest.outputs)}, manifest.json")
    for split in empty:
        console.say(f"  note: {split} is empty, as dataset.{split}_fraction: 0 asks")
    return manifest


def _read_and_clean(
    raw: RawFiles,
    parser: Parser,
    splitter: Splitter,
    *,
    waiting: WaitingRows,
    quarantine: Path,
    counts: Counts,
) -> None:
    """One pass over the raw files: clean rows to `waiting`, the others to the file `quarantine`."""
    encode = msgspec.json.Encoder().encode
    with atomic_write(quarantine) as left_out, console.Progress("reading", None, "rows") as bar:

        def to_quarantine(record: RawRecord, problem: RowProblem) -> None:
            left_out.write(encode(quarantine_line(record, problem)) + b"\n")

        reported = 0
        for found in clean(raw.records(), parser.parse_many, to_quarantine, counts):
            row = found.checked.row
            group = splitter.declare(row, found.file, found.line)
            if not found.is_duplicate:
                waiting.add(found.checked.encoded, row.meta.tags, group)
            if counts.rows_in - reported >= _REPORT_EVERY_ROWS:
                bar.advance(counts.rows_in - reported)
                reported = counts.rows_in
        bar.advance(counts.rows_in - reported)


def _keep_near_duplicates_together(clusters: Clusters, threshold: float, path: Path) -> None:
    with console.Progress("looking for near-duplicates", len(clusters.waiting), "rows") as bar:
        clusters.join_near(threshold, bar.advance)
    clusters.splitter.check_declarations("near-duplicates, which dataset.dedup.near: cluster keeps together,")
    clusters.write(path)


def _near_duplicates(
    dataset: DatasetConfig, paths: Mapping[Split, Path], clusters: Clusters, pairs: Path
) -> NearDuplicates:
    """What is nearly the same on two sides, counted; the first pairs go to the file `pairs`."""
    # numpy and rensa take a quarter of a second to import; only those who look for near-duplicates pay for it.
    from solotune.dataset import near

    with console.Progress("looking for near-duplicates across splits", None, "rows") as bar:
        found = near.across(paths, dataset.dedup.threshold, bar.advance)
    write_jsonl(pairs, found.pairs)
    return NearDuplicates(
        threshold=dataset.dedup.threshold,
        rows=found.rows,
        pairs=FileRecord.of(pairs),
        clusters=clusters.count,
        clustered_rows=clusters.rows,
    )


def _check_up_to_date(splits: SplitsDir, dataset: DatasetConfig, raw: RawFiles) -> SplitsManifest:
    """The manifest of splits that this config would make again. Raises ArtifactError for any others."""
    manifest = splits.open(dataset)
    if manifest.near and differing_files(splits.path, {splits.near_duplicates.name: manifest.near.pairs}, hashes=True):
        raise ArtifactError(f"{splits.near_duplicates} isn't what prepare wrote", f"Run `{MADE_BY} --replace`")
    then, now = manifest.inputs, raw.hashes
    names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if names:
        listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise ArtifactError(
            f"{splits.path} was prepared from other raw files ({listed} changed, came or went)",
            f"Run `{MADE_BY} --replace`, or give this config a dataset.splits_dir of its own: "
            "a run made with the old splits can't be evaluated without them",
        )
    return manifest


def _counts_of(manifest: SplitsManifest) -> Counts:
    counts = Counts(manifest.rows_in, manifest.rows_kept, manifest.rows_duplicate)
    counts.reasons.update(manifest.reasons)
    counts.notes.update(manifest.notes)
    return counts


def _show_splits(config: RunConfig, splits: SplitsDir, manifest: SplitsManifest) -> None:
    limit = config.training.max_length
    lengths = _token_lengths(config, splits, sum(manifest.rows.values()))
    summary.show_unread(manifest.unread_columns, config.dataset.format)
    summary.show_splits(manifest.rows, lengths, limit)
    summary.show_tags(manifest.tags)
    summary.show_near(manifest.near, manifest.rows, splits)
    if lengths is None:
        console.say("token lengths: run `invoke fetch --config CONFIG`, then this again")
    else:
        summary.show_overlong(lengths, limit, config.dataset.on_overflow)
        summary.show_control_texts(lengths)
    splits.refresh_report(manifest, report.of(manifest, splits.quarantine, splits.near_duplicates, config, lengths))
    console.say(f"report: {splits.report}")
    if lengths is not None:
        console.say("next: invoke plan --config CONFIG")


def _token_lengths(config: RunConfig, splits: SplitsDir, rows: int) -> dict[Split, TokenLengths] | None:
    """Lengths by split, or None where the base model hasn't been fetched."""
    model = ModelDir.of(config.model)
    if not model.is_complete:
        return None
    # tokenizers and jinja2 take a quarter of a second to import; only those who have a model pay for it.
    from solotune.modeling.chat import ChatEncoder
    from solotune.modeling.token_cache import tokenised

    encoder = ChatEncoder.open(model, config.model.chat_template_path)
    lengths: dict[Split, TokenLengths] = {}
    with console.Progress("counting tokens", rows, "rows") as bar:
        for split in SPLITS:
            path = splits.split(split)
            found = tokenised(path, partial(_chats, path), encoder, bar.advance)
            lengths[split] = measure(
                path, found.lengths.tolist(), found.trained_tokens, config.training.max_length, encoder.control_tokens
            )
    return lengths


def _chats(path: Path) -> Iterator[tuple[Message, ...]]:
    return (row.messages for row in read_rows(path))


def _refuse_to_write_among_raw_files(splits: SplitsDir, raw: RawFiles) -> None:
    """Raw files stay as they were delivered, and are never mistaken for what was made of them."""
    target = splits.path.resolve()
    among = [name for name, path in raw.paths.items() if path.resolve().parent == target]
    if among or target.is_relative_to(RAW_ROOT.resolve()):
        raise DataError(
            f"dataset.splits_dir {splits.path} is where raw files are{f' ({among[0]})' if among else ''}",
            "Raw folders are never written: choose another, such as data/splits",
        )


def _disk_trouble_in_one_line(splits: SplitsDir) -> AbstractContextManager[None]:
    """What reading raises has its own words already."""
    return trouble_in_one_line(
        splits.path,
        "nothing was published",
        lambda: "Free some space (twice the size of the raw files is enough) and run the same command again",
    )
