"""What is at a path: the same answer from every Python, and none where the system gives none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crun_batch.paths import is_file, is_folder, is_link, is_there

ASKED = (is_there, is_file, is_folder, is_link)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("file", (True, True, False, False)),
        ("folder", (True, False, True, False)),
        ("pipe", (True, False, False, False)),
        ("to_file", (True, True, False, True)),
        ("to_folder", (True, False, True, True)),
        ("to_nothing", (False, False, False, True)),
        ("to_itself", (False, False, False, True)),
        ("nothing", (False, False, False, False)),
        ("file/below", (False, False, False, False)),
        ("null\x00byte", (False, False, False, False)),
    ],
)
def test_each_kind_is_told(name: str, found: tuple[bool, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for link, end in {
        "to_file": "file",
        "to_folder": "folder",
        "to_nothing": "no",
        "to_itself": "to_itself",
    }.items():
        (tmp_path / link).symlink_to(end)
    assert found == tuple(asks(tmp_path / name) for asks in ASKED)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG])
def test_what_the_system_refuses_to_say_is_an_error(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "stat", refuses)
    for asks in ASKED:
        with pytest.raises(OSError, match=os.strerror(number)):
            asks(Path("run/job.json"))
