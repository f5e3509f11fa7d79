from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from solotune.artifacts.disk import trouble_in_one_line
from solotune.errors import ArtifactError


def raised(folder: Path, error: Exception) -> Exception:
    with pytest.raises(Exception) as caught, trouble_in_one_line(folder, "step 4 isn't saved", lambda: "See to it"):  # noqa: PT011
        raise error
    return caught.value


def test_a_full_disk_and_one_that_went_away_are_told_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    full = raised(folder, OSError(errno.ENOSPC, "No space left on device", str(folder / "x")))
    assert str(full).startswith(f"the disk is full: {folder} couldn't be written, and step 4 isn't saved")
    for number in (errno.ESTALE, errno.ENOTCONN, errno.EROFS, errno.ENOENT):
        gone = raised(folder, OSError(number, os.strerror(number), str(folder / "x")))
        assert isinstance(gone, ArtifactError)
        assert str(gone).startswith(f"can't write {folder / 'x'}: {os.strerror(number)}")
    assert isinstance(raised(folder, OSError(errno.EIO, "Input/output error")), ArtifactError)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/elsewhere/torchinductor/x.py"),
        OSError(errno.ENOENT, "No such file or directory", "gcc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ValueError("no disk"),
    ],
    ids=str,
)
def test_what_happened_elsewhere_isnt_blamed_on_the_folder(tmp_path: Path, error: Exception) -> None:
    assert raised(tmp_path / "runs" / "a", error) is error
