"""A folder has one writer, or readers."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from solotune.artifacts.lock import NAME, Holder, held, holder
from solotune.errors import ArtifactError


def refused(folder: Path, *, shared: bool) -> bool:
    try:
        with held(folder, "second", shared=shared):
            return False
    except ArtifactError:
        return True


@pytest.mark.parametrize(
    ("first", "second", "refuses"),
    [(False, False, True), (False, True, True), (True, False, True), (True, True, False)],
)
def test_writers_are_alone_and_readers_are_not(tmp_path: Path, first: bool, second: bool, refuses: bool) -> None:
    with held(tmp_path, "first", shared=first):
        assert refused(tmp_path, shared=second) is refuses
    assert not refused(tmp_path, shared=False)


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    with held(tmp_path, "train --resume x"), pytest.raises(ArtifactError) as caught, held(tmp_path, "train"):
        pass
    assert str(caught.value).startswith(f"`train --resume x` works in {tmp_path} (process {os.getpid()} on ")


def test_the_name_of_a_reader_that_has_gone_isnt_told(tmp_path: Path) -> None:
    """Of several readers the first has its name there; a later one doesn't take its place."""
    context = multiprocessing.get_context("fork")
    with held(tmp_path, "evaluate", shared=True):

        def read() -> None:
            with held(tmp_path, "train", shared=True):
                pass

        child = context.Process(target=read)
        child.start()
        child.join()
        reader = f"`evaluate` works in .*process {os.getpid()} on"
        with pytest.raises(ArtifactError, match=reader), held(tmp_path, "prepare"):
            pass
        (tmp_path / NAME).write_bytes(msgspec.json.encode(Holder("train", child.pid or 0, socket.gethostname(), "now")))
        with pytest.raises(ArtifactError, match="another process works in"), held(tmp_path, "prepare"):
            pass


def test_who_writes_in_a_folder_can_be_seen_without_getting_in_the_way(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path, "train (run x)"):
        seen = holder(tmp_path)
        assert seen is not None
        assert (seen.doing, seen.pid) == ("train (run x)", os.getpid())
    with held(tmp_path, "evaluate", shared=True):
        assert holder(tmp_path) is None
    (tmp_path / NAME).write_text("left by a process that was killed")
    assert holder(tmp_path) is None
    assert not refused(tmp_path, shared=False)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with held(tmp_path, "a"):
        assert [p.name for p in tmp_path.iterdir()] == [NAME]
    assert list(tmp_path.iterdir()) == []
    with ExitStack() as readers:
        for _ in range(3):
            readers.enter_context(held(tmp_path, "a", shared=True))
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from solotune.artifacts.lock import held\n"
        "with held(Path(sys.argv[1]), 'victim'): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    assert refused(tmp_path, shared=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not refused(tmp_path, shared=False)


_WORK = """
import os, sys, time
from pathlib import Path
from solotune.artifacts.lock import held
from solotune.errors import ArtifactError
folder, inside, until = Path(sys.argv[1]), sys.argv[2], time.time() + 1.5
while time.time() < until:
    try:
        with held(folder, "work"):
            os.mkdir(inside)  # fails where another is inside
            os.rmdir(inside)
    except ArtifactError:
        pass
"""


def test_many_who_come_and_go_are_never_two_at_once(tmp_path: Path) -> None:
    """The lock file is deleted each time: a lock on the deleted one must not count."""
    folder = tmp_path / "held"
    folder.mkdir()
    command = [sys.executable, "-c", _WORK, str(folder), str(tmp_path / "inside")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate()[1].decode() for process in processes] == [""] * 4


def test_a_reader_needs_no_right_to_write(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o555)
    with held(tmp_path, "reader", shared=True):
        pass


def test_another_users_lock_holds() -> None:
    """Root's, say, which this user may read and not write."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o777)
        with held(folder, "first"):
            child = os.fork()
            if not child:
                os.setgid(65534)
                os.setuid(65534)
                os._exit(0 if refused(folder, shared=False) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
