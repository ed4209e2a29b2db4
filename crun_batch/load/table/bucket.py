"""Files in buckets: `s3://`, `gs://`, `az://`, through the file systems that Arrow brings along.

Credentials come from where each cloud keeps them (variables, its own files, the machine's role) and never from a
job file. AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL name another server that speaks S3; STORAGE_EMULATOR_HOST names
one that speaks as Google's does, which is asked without credentials, as Google's own clients do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from importlib import reload
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from crun_batch.errors import InputError
from crun_batch.load.table.copies import (
    RemoteFile,
    base_of,
    copied_pieces,
    ensure_room,
    is_pattern,
    matches,
    mistake,
)

_PIECE_BYTES = 1 << 20
GCS_GIVES_UP_AFTER = timedelta(seconds=30)
"""Arrow's own limit is 15 minutes, also where there are no credentials at all."""
BUCKET_FAULTS = (OSError, pa.ArrowException)
"""What goes wrong with a bucket: Azure's refusals of credentials are no OSError."""
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials, or a role of this machine",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login",
    "az": "AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY, or az login",
}
"""Scheme -> where its credentials are looked for."""


def bucket_files(address: str) -> list[RemoteFile]:
    """The files that an address or a pattern means, sorted by name. Raises InputError."""
    scheme, path = _split(address)
    system = _system(scheme, address)
    try:
        infos = _found(system, path)
    except BUCKET_FAULTS as error:
        raise _refused(scheme, address, error) from None
    if not infos:
        raise mistake("is not there" if not is_pattern(path) else "no file matches", address)
    return [_remote(system, scheme, one) for one in sorted(infos, key=lambda info: str(info.path))]


def file_system(address: str) -> tuple[Any, str]:
    """The file system that an address leads to, and the path there. Raises InputError."""
    scheme, path = _split(address)
    if scheme not in _SYSTEMS:
        raise mistake(f"is in no bucket; write {', '.join(f'{one}://' for one in SCHEMES)}", address)
    return _system(scheme, address), path


def _split(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    path = address.partition("://")[2]
    if "@" in parts.netloc:
        raise mistake("holds credentials, which have no place in a job file", f"{parts.scheme}://{parts.hostname}")
    if not parts.netloc or not parts.path.strip("/"):
        raise mistake(f"names no file; write {parts.scheme}://BUCKET/PATH", address)
    return parts.scheme, path


def _system(scheme: str, address: str) -> Any:
    try:
        return _SYSTEMS[scheme]()
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise mistake(f"this Arrow cannot open {scheme}://: {error}", address) from None


def _file_systems() -> Any:
    """Arrow's module of them, with those of the clouds, which the command line has left out (`cli/lean.py`)."""
    from pyarrow import fs

    return fs if "S3FileSystem" in vars(fs) else reload(fs)


def s3_file_system(environ: Mapping[str, str] = os.environ) -> Any:
    """Arrow's, at the endpoint and region of the environment."""
    options: dict[str, Any] = {}
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        parts = urlsplit(endpoint)
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme or "https"}
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if region:
        options["region"] = region
    return _file_systems().S3FileSystem(**options)


def gcs_file_system(environ: Mapping[str, str] = os.environ) -> Any:
    """Arrow's, with the credentials that Google's libraries find, or at the emulator of the environment."""
    fs, emulator = _file_systems(), environ.get("STORAGE_EMULATOR_HOST")
    if not emulator:
        return fs.GcsFileSystem(retry_time_limit=GCS_GIVES_UP_AFTER)
    parts = urlsplit(emulator if "://" in emulator else f"http://{emulator}")
    return fs.GcsFileSystem(
        anonymous=True,
        endpoint_override=parts.netloc,
        scheme=parts.scheme,
        retry_time_limit=GCS_GIVES_UP_AFTER,
    )


def _azure() -> Any:
    account = os.environ.get("AZURE_STORAGE_ACCOUNT") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise ValueError("the variable AZURE_STORAGE_ACCOUNT is not set")
    return _file_systems().AzureFileSystem(
        account_name=account, account_key=os.environ.get("AZURE_STORAGE_KEY") or None
    )


_SYSTEMS: Mapping[str, Callable[[], Any]] = {"s3": s3_file_system, "gs": gcs_file_system, "az": _azure}
SCHEMES = tuple(_SYSTEMS)


def _found(system: Any, path: str) -> list[Any]:
    from pyarrow import fs

    if not is_pattern(path):
        info = system.get_file_info(path)
        return [info] if info.type == fs.FileType.File else []
    selector = fs.FileSelector(base_of(path), recursive=True, allow_not_found=True)
    return [
        info
        for info in system.get_file_info(selector)
        if info.type == fs.FileType.File and matches(info.path, path)
    ]


def _remote(system: Any, scheme: str, info: Any) -> RemoteFile:
    address = f"{scheme}://{info.path}"

    def copy_to(path: Path) -> None:
        ensure_room(path.parent, info.size)
        try:
            with system.open_input_stream(info.path, compression=None) as stream:
                written = copied_pieces(_pieces(stream), path)
            now = system.get_file_info(info.path)
        except BUCKET_FAULTS as error:
            raise _refused(scheme, address, error) from None
        if (written, now.size, now.mtime_ns) != (info.size, info.size, info.mtime_ns):
            raise mistake("was changed while it was fetched; start again with the file as it is now", address)

    return RemoteFile(address, copy_to)


def _pieces(stream: Any) -> Iterator[bytes]:
    while piece := stream.read(_PIECE_BYTES):
        yield piece


def _refused(scheme: str, address: str, error: Exception) -> InputError:
    words = " ".join(str(error).split())
    return mistake(f"cannot be read: {words[:300]} (credentials: {_CREDENTIALS[scheme]})", address)
