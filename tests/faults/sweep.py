"""A fault at each system call with which a stage writes, one case after the other, and what is there afterwards.

    python tests/faults/sweep.py --stages train export --every 7 --workers 2 --json found.json

strace makes the k-th write, fsync, rename, close and so on of a stage fail with ENOSPC or EIO, or kills the process
there. Which calls there are tells a first run that is only watched: those on splits, runs, models, caches, lock files
count, each on its own; of those that close a file, the ones that it was written through.
After each case nothing that claims to be whole may be broken; the next command goes on, or says what to do; and what
comes out in the end has the bytes of an undisturbed run.

Libraries are loaded once; every stage runs in a child of that process, so a case takes a second or two.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.faults.whole import broken  # noqa: E402
from tests.tiny import make_experiment, make_model, make_tokenizer  # noqa: E402

CALLS = (
    *("write", "pwrite64", "writev", "sendfile", "copy_file_range", "ftruncate", "fsync", "fdatasync"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "openat", "close"),
)
"""openat: those that make a file."""
FAULTS = ("KILL", "ENOSPC", "EIO")
RUN = "20260101-000000-small-aaaaaa"
SHORT = [
    *("--set", "training.max_steps=3", "--set", "training.save_steps=1", "--set", "training.eval_steps=2"),
    *("--set", "evaluation.max_examples=4", "--set", "evaluation.max_new_tokens=2", "--set", "export.proof_examples=4"),
]
STAGES = {
    "prepare": ["prepare", "--config", "small.yaml", *SHORT],
    "train": ["train", "--config", "small.yaml", "--run-id", RUN, *SHORT],
    "evaluate": ["evaluate", "--run", RUN],
    "export": ["export", "--run", RUN, "--merge"],
    "gguf": ["export", "--run", RUN, "--gguf", "f16"],
    "measure": ["evaluate", "--run", RUN],
    "report": ["report", "--run", RUN],
}
"""measure: what was exported, beside base and adapter."""


@dataclass(frozen=True)
class Case:
    """One fault."""

    stage: str
    call: str
    fault: str
    k: int
    path: str
    """What the call was on, in the run that was only watched."""


@dataclass(frozen=True)
class Found:
    """What came of it."""

    case: Case
    code: int
    """Exit code of the stage; negative: the signal."""
    trouble: list[str]
    """What must not be; empty: nothing was lost."""
    fired: bool = True
    """Whether the fault came: a stage that talks by the clock doesn't make the same calls each time."""


def main() -> int:
    """Sweeps, prints a table and what was lost; exit code 1 when something was."""
    arguments = _arguments()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        found = sweep(Path(folder), arguments.stages, arguments.every, arguments.workers, arguments.first)
    fired = [one for one in found if one.fired]
    for line in table(fired):
        print(line)
    if len(fired) < len(found):
        print(f"{len(found) - len(fired)} more, whose call wasn't made this time, don't count")
    lost = [one for one in found if one.trouble]
    for one in lost[:40]:
        print(f"LOST {one.case}: exit {one.code}: {'; '.join(one.trouble)}")
    print(f"{len(fired)} cases, {len(lost)} with a loss, {time.monotonic() - start:.0f} s")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    return 1 if lost else 0


def sweep(folder: Path, stages: Sequence[str], every: int, workers: int, first: int = 0) -> list[Found]:
    """Runs every `every`-th case of each kind (stage, call, fault) from `first`, spread over `workers` processes."""
    machine = _Machine(folder)
    cases = [case for stage in stages for case in machine.cases(stage)]
    chosen: list[Case] = []
    for kind in sorted({(c.stage, c.call, c.fault) for c in cases}):
        of_kind = [c for c in cases if (c.stage, c.call, c.fault) == kind]
        chosen += of_kind[(len(kind[2]) + first) % every :: every] if every < len(of_kind) else of_kind[:1]
    results = [folder / f"results-{n}.jsonl" for n in range(workers)]
    children = [
        _fork(lambda n=n: _write(results[n], [machine.try_case(c, n) for c in chosen[n::workers]]), None)
        for n in range(workers)
    ]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), codes
    lines = [json.loads(line) for path in results for line in path.read_text().splitlines()]
    return [Found(Case(**line["case"]), line["code"], line["trouble"], line["fired"]) for line in lines]


def table(found: Sequence[Found]) -> Iterator[str]:
    """Stage × call × fault: cases, and how many of them lost something."""
    cases = Counter((f.case.stage, f.case.call, f.case.fault) for f in found)
    lost = Counter((f.case.stage, f.case.call, f.case.fault) for f in found if f.trouble)
    yield f"{'stage':10}{'call':16}" + "".join(f"{fault:>14}" for fault in FAULTS)
    for stage in dict.fromkeys(f.case.stage for f in found):
        for call in (call for call in CALLS if any(cases[stage, call, fault] for fault in FAULTS)):
            cells = [f"{cases[stage, call, fault]} / {lost[stage, call, fault]}" for fault in FAULTS]
            yield f"{stage:10}{call:16}" + "".join(f"{cell:>14}" for cell in cells)
    yield "(cases / with a loss)"


class _Machine:
    """The workspace before each stage, what an undisturbed run of it gives, and a way to disturb it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before: dict[str, Path] = {}
        self._after: dict[str, dict[str, str]] = {}
        self._make()

    def _make(self) -> None:
        for name in ("tokenizer", "model", "start"):
            (self._folder / name).mkdir()
        made = _fork(lambda: _make_experiment(self._folder), None)
        assert os.waitpid(made, 0)[1] == 0
        state = self._folder / "start"
        assert _run(["fetch", "--config", "small.yaml"], state, self._folder / "log") == 0
        _load_libraries()
        _convert_once(self._folder / "converted")
        for stage, command in STAGES.items():
            self._before[stage] = state
            state = self._copy(state, f"after-{stage}")
            code = _run(command, state, log := self._folder / f"{stage}.log")
            assert code == 0, log.read_text()
            self._after[stage] = _outcome(state)

    def cases(self, stage: str) -> list[Case]:
        """A case for each fault at each call of a stage that writes below the workspace."""
        work = self._copy(self._before[stage], f"watch-{stage}")
        trace = self._folder / f"{stage}.strace"
        code = _run(STAGES[stage], work, self._folder / "log", ["-y", "-e", f"trace={','.join(CALLS)}"], trace)
        assert code == 0
        found: list[Case] = []
        counts: Counter[str] = Counter()
        main = ""
        written_through: set[str] = set()
        for line in trace.read_text(errors="replace").splitlines():
            matched = re.match(r"(\d+)\s+(\w+)\((.*)", line)
            if matched is None or matched[2] not in CALLS:
                continue
            main = main or matched[1]
            if matched[1] != main:
                continue  # strace counts for each thread by itself; ours write in the first
            counts[matched[2]] += 1
            if matched[2] == "openat":
                opened = re.search(r"= (\d+)<", matched[3])
                if opened:
                    (written_through.add if "O_RDONLY" not in matched[3] else written_through.discard)(opened[1])
                if "O_CREAT" not in matched[3]:
                    continue
            if matched[2] == "close" and matched[3].partition("<")[0] not in written_through:
                continue
            path = re.search(re.escape(str(work)) + rf"/({_WRITTEN}[^>\"]*)", matched[3])
            relative = re.search(rf'"({_WRITTEN}[^"]*)"', matched[3])
            if path or relative:
                name = (path or relative)[1]  # type: ignore[index]
                found += [Case(stage, matched[2], fault, counts[matched[2]], name) for fault in FAULTS]
        shutil.rmtree(work)
        return found

    def try_case(self, case: Case, worker: int) -> Found:
        work = self._copy(self._before[case.stage], f"case-{worker}")
        log = self._folder / f"case-{worker}.log"
        what = "signal=KILL" if case.fault == "KILL" else f"error={case.fault}"
        injected = ["-e", f"trace={case.call}", "-e", f"inject={case.call}:{what}:when={case.k}"]
        trace = self._folder / f"case-{worker}.strace"
        code = _run(STAGES[case.stage], work, log, injected, trace)
        fired = code == -signal.SIGKILL or "(INJECTED)" in trace.read_text(errors="replace")
        trouble = [*self._said(case, code, log.read_text(errors="replace")), *broken(work)]
        trouble += self._afterwards(case.stage, work, log)
        shutil.rmtree(work)
        return Found(case, code, trouble, fired)

    def _said(self, case: Case, code: int, text: str) -> list[str]:
        """An error is one that the user can act on; a kill leaves no time to say so, unless it hit a stage's child."""
        if case.fault == "KILL" and code == -signal.SIGKILL:
            return []
        if code == 0:  # the call wasn't made this time; or none was needed
            return []
        if code != 2 or "Traceback" in text or "fault in solotune" in text:
            return [f"exit {code}: {text[-600:]}"]
        return [] if "error: " in text else [f"nothing was said: {text[-300:]}"]

    def _afterwards(self, stage: str, work: Path, log: Path) -> list[str]:
        """The next command goes on or says what to do; in the end all is as if nothing had been."""
        command = STAGES[stage]
        run = work / "runs" / RUN
        exported = _text(run / "export" / "export.json")
        if stage == "train" and run.exists() and '"outcome": null' in _text(run / "manifest.json"):
            command = ["train", "--resume", RUN]
        elif (stage == "train" and run.exists()) or f'"{_EXPORTED.get(stage)}"' in exported:
            command = STAGES["report"]  # finished, whatever was said; the page may be missing
        code = _run(command, work, log)
        text = log.read_text(errors="replace")
        if code != 0:
            return [f"afterwards: exit {code}: {text[-600:]}"]
        wrong = broken(work)
        ours, wanted = _outcome(work), self._after[stage]
        differing = sorted(n for n in ours.keys() | wanted.keys() if ours.get(n) != wanted.get(n))
        if differing:
            wrong.append(f"not as undisturbed: {', '.join(differing)}")
        # A lock file that a kill left is on nothing, and goes with the next command that locks.
        names = (".staged*",) if command == STAGES["report"] else (".staged*", ".lock")
        left = [p.relative_to(work).as_posix() for name in names for p in work.rglob(name)]
        # Another process may be writing there: what is left in the cache goes after a day.
        left = [name for name in left if not name.startswith("cache/")]
        return wrong + ([f"left behind: {left}"] if left else [])

    def _copy(self, source: Path, name: str) -> Path:
        target = self._folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
        return target


def _run(command: Sequence[str], work: Path, log: Path, options: Sequence[str] = (), trace: Path | None = None) -> int:
    """Runs a stage in a child of this process, under strace where options for it are given; returns its exit code."""

    def stage() -> None:
        from solotune import cli

        os.environ["SOLOTUNE_COMMAND"] = "invoke"
        os.environ["SOLOTUNE_CACHE"] = str(work / "cache")
        os.chdir(work)
        if options:
            os.kill(os.getpid(), signal.SIGSTOP)  # until strace is there
        code = cli.main(command)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    child = _fork(stage, log)
    if not options:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.waitpid(child, os.WUNTRACED)
    strace = subprocess.Popen(["strace", "-f", "-qq", *options, "-o", str(trace), "-p", str(child)])
    while "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text():
        if strace.poll() is not None:
            raise RuntimeError("strace can't attach here")
        time.sleep(0.002)
    os.kill(child, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    strace.wait()
    return code


def _fork(work: Callable[[], Any], log: Path | None) -> int:
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        if log is not None:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a child must not go on as its parent
        import traceback

        traceback.print_exc()
        os._exit(99)


def _make_experiment(folder: Path) -> None:
    make_tokenizer(folder / "tokenizer")
    make_model(folder / "model", folder / "tokenizer")
    make_experiment(folder / "start", folder / "model")


def _load_libraries() -> None:
    """All that the stages import, once; nothing is computed, for a child of a process with busy threads would hang."""
    from solotune.environment import prepare_process

    prepare_process(device="cpu")
    import torch

    torch.set_num_threads(1)
    from transformers.models.llama import modeling_llama  # noqa: F401

    from solotune.dataset import near, report  # noqa: F401
    from solotune.stages import evaluate, export, prepare, train  # noqa: F401


def _convert_once(kept: Path) -> None:
    """llama.cpp's converter takes seconds to start: it runs in the undisturbed export, and then gives what it gave."""
    from solotune.modeling import gguf_export

    convert = gguf_export._convert
    kept.mkdir()

    def as_before(folder: Path, *arguments: str) -> None:
        out = Path(arguments[arguments.index("--outfile") + 1])
        before = kept / "-".join(word for word in arguments if word != str(out))
        if not before.exists():
            convert(folder, *arguments)
            shutil.copyfile(out, before)
        shutil.copyfile(before, out)

    gguf_export._convert = as_before


def _outcome(work: Path) -> dict[str, str]:
    """What must come out of an experiment, whatever happened on the way: name -> what can be compared."""
    found = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if path.is_file() and re.fullmatch(_COMPARED, name):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() and name.endswith("eval_report.json"):
            found[name] = str({**json.loads(path.read_text()), "seconds": 0, "run_id": ""})
    return found


_EXPORTED = {"export": "merged", "gguf": "gguf-f16"}
"""What export.json says when a stage has done what it was asked for."""
_WRITTEN = "(?:data/splits|runs|models|cache)"
_COMPARED = (
    r"data/splits/\w+\.jsonl|runs/[\w-]+/(config\.yaml|predictions\.jsonl|adapter/.*"
    r"|export/(adapter|merged)/[^/]*\.(safetensors|json|jinja)|export/gguf/f16/.*\.gguf)"
)


def _text(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    return ""


def _write(path: Path, found: Sequence[Found]) -> None:
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--every", type=int, default=1, help="take every n-th call of each kind only")
    parser.add_argument("--first", type=int, default=0, help="which of them to begin with")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", help="where to write what was found")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
