"""The socket in a run directory through which its running session can be told something, and who is at its ends.

Owns that only the run's owner reaches it. The socket is `.control`, mode 0600 from the moment at which it is
there, and it listens only once that is checked; both ends look who the other is, where the system says so (Linux:
SO_PEERCRED, macOS: LOCAL_PEERCRED). A link or a file of that name is not followed and not replaced.

An address of a socket has room for about 100 bytes and paths may be longer, so it is named through the open
folder (`/proc/self/fd/N/.control`), which also stays the same folder whatever happens to the path. Where there is
no such way, a path that is too long is reached by a link in a private temporary folder.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from crun_batch.errors import RunDirectoryError
from crun_batch.paths import is_there

CONTROL_NAME = ".control"
LONGEST_ADDRESS_BYTES = 100
"""sun_path holds 108 bytes on Linux and 104 on macOS, the zero at its end included."""
WAITING_AT_MOST = 16
"""Connections that may wait to be taken."""
_DESCRIPTORS = Path("/proc/self/fd")
_LOCAL_PEERCRED, _SOL_LOCAL = 1, 0


class Peer(Struct, frozen=True):
    """Who is at the other end; None: the system does not say."""

    user_id: int | None
    process_id: int | None


class NoListener(RunDirectoryError):
    """Nobody listens at a run directory: no session runs there, or it cannot be reached."""


class ControlSocket:
    """The listening end, for as long as a session runs. Made by who has the directory's lock, so there is one."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the file system takes no socket, or something else has its name."""
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
        try:
            self._identity = self._bind(folder)
        except BaseException:
            self._close_all()
            raise

    def close(self) -> None:
        """Nobody listens any more; the name goes, where it still is this socket's."""
        with suppress(OSError):
            if _identity(self._folder) == self._identity:
                os.unlink(CONTROL_NAME, dir_fd=self._folder)
        self._close_all()

    def _bind(self, folder: Path) -> tuple[int, int]:
        _remove_dead(self._folder)
        with suppress(OSError):  # Linux makes the file with the socket's own mode; elsewhere it is set below
            os.fchmod(self.listening.fileno(), 0o600)
        with _address(folder, self._folder) as address:
            self.listening.bind(address)
        os.chmod(CONTROL_NAME, 0o600, dir_fd=self._folder)
        found = os.stat(CONTROL_NAME, dir_fd=self._folder, follow_symlinks=False)
        if (
            not stat.S_ISSOCK(found.st_mode)
            or found.st_uid != os.geteuid()
            or stat.S_IMODE(found.st_mode) != 0o600
        ):
            raise OSError(errno.EPERM, "the file system does not keep who may use a socket")
        self.listening.listen(WAITING_AT_MOST)
        self.listening.setblocking(False)
        return found.st_dev, found.st_ino

    def _close_all(self) -> None:
        self.listening.close()
        os.close(self._folder)


def connected(folder: Path, timeout_seconds: float) -> socket.socket:
    """The other end: connected to the session of a run directory.

    Raises NoListener (nobody, or one that was killed), RunDirectoryError (it is somebody else's).
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = _owner_of(folder, descriptor)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_seconds)
        try:
            with _address(folder, descriptor) as address:
                connection.connect(address)
            told = peer_of(connection).user_id
            if told is not None and told != owner:
                raise RunDirectoryError(f"{folder}/{CONTROL_NAME}: who listens there is not who owns it")
        except BaseException:
            connection.close()
            raise
    except PermissionError as error:
        raise RunDirectoryError(f"{folder}: only the user who started the run may steer it") from error
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise NoListener(f"{folder}: nobody listens") from error
    finally:
        os.close(descriptor)
    return connection


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end of a connection."""
    if sys.platform == "linux":
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        process_id, user_id, _ = struct.unpack("3i", found)
        return Peer(user_id, process_id)
    if sys.platform == "darwin":
        found = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)  # struct xucred: version, uid, groups
        return Peer(struct.unpack_from("II", found)[1], None)
    return Peer(None, None)


def _owner_of(folder: Path, descriptor: int) -> int:
    found = os.stat(CONTROL_NAME, dir_fd=descriptor, follow_symlinks=False)
    if not stat.S_ISSOCK(found.st_mode):
        what = "a link" if stat.S_ISLNK(found.st_mode) else "no socket"
        raise RunDirectoryError(f"{folder}: {CONTROL_NAME} is {what}; nothing is sent through it")
    return found.st_uid


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.stat(CONTROL_NAME, dir_fd=descriptor, follow_symlinks=False)
    return found.st_dev, found.st_ino


def _remove_dead(descriptor: int) -> None:
    """A socket that a killed session has left: whoever has the lock is alone here."""
    try:
        found = os.stat(CONTROL_NAME, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(errno.EEXIST, f"{CONTROL_NAME} is there, and is no socket of this user")
    os.unlink(CONTROL_NAME, dir_fd=descriptor)


@contextmanager
def _address(folder: Path, descriptor: int) -> Iterator[str]:
    """A name of the folder's socket that is short enough."""
    through = _DESCRIPTORS / str(descriptor)
    path = folder.absolute() / CONTROL_NAME
    if is_there(through):
        yield str(through / CONTROL_NAME)
    elif len(os.fsencode(path)) <= LONGEST_ADDRESS_BYTES:
        yield str(path)
    else:
        with tempfile.TemporaryDirectory(prefix="crun-") as private:
            link = Path(private) / "run"
            link.symlink_to(folder.absolute())
            yield str(link / CONTROL_NAME)
