"""Whom an https connection trusts: one TLS context for paid requests and for control calls.

The system's certificates; `SSL_CERT_FILE` and `SSL_CERT_DIR` in their place, as OpenSSL reads them; a job's
`endpoint.ca_file` besides. Where a system has no certificates (a slim container), certifi's.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from crun_batch.errors import InputError, Mistake
from crun_batch.paths import is_file, is_folder

BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where Debian, Fedora, openSUSE and Alpine keep theirs: an interpreter built elsewhere looks in another place."""
FILE, FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"


def client_context(ca_files: tuple[Path, ...] = (), environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """The context that trusts the system's certificates and those of `ca_files`; HTTP/1.1 alone is offered.

    Raises InputError naming the variable or the key whose file holds no certificate. Reading takes 20 ms: it is
    done once for the same files.
    """
    return _context(ca_files, environ.get(FILE) or None, environ.get(FOLDER) or None)


@lru_cache(maxsize=16)
def _context(ca_files: tuple[Path, ...], file: str | None, folder: str | None) -> ssl.SSLContext:
    context = _empty(uses_the_system=file is None and folder is None)
    context.set_alpn_protocols(["http/1.1"])
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a private CA's file may hold an intermediate alone
    if file is not None:
        _load(context, Path(file), FILE)
    if folder is not None:
        _load_folders(context, folder, alone=file is None)
    if file is None and folder is None and type(context) is ssl.SSLContext:
        _load_the_systems(context)
    for path in ca_files:
        _load(context, path, "endpoint.ca_file")
    return context


def _empty(*, uses_the_system: bool) -> ssl.SSLContext:
    """Certificate and host name are checked; on macOS the system itself checks, which keeps no file of its CAs."""
    if uses_the_system and sys.platform == "darwin":
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _load_the_systems(context: ssl.SSLContext) -> None:
    """What OpenSSL was built to read; else where systems keep theirs; else certifi's."""
    context.set_default_verify_paths()
    folder = ssl.get_default_verify_paths().capath
    if context.cert_store_stats()["x509_ca"] or (folder is not None and _has_certificates(Path(folder))):
        return
    found = next((bundle for bundle in BUNDLES if is_file(Path(bundle))), None)
    if found is None:
        import certifi

        found = certifi.where()
    context.load_verify_locations(cafile=found)


def _load(context: ssl.SSLContext, path: Path, name: str) -> None:
    """Trust the certificates of one PEM file."""
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise _unusable(name, f"{path} holds no certificate (PEM)") from None
    except OSError as error:
        raise _unusable(name, f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None


def _load_folders(context: ssl.SSLContext, folders: str, *, alone: bool) -> None:
    """Trust folders of certificates named by their hash; OpenSSL reads them when it needs one."""
    found = [folder for folder in folders.split(os.pathsep) if is_folder(Path(folder))]
    if not found and alone:
        raise _unusable(FOLDER, f"{folders} is no folder")
    for folder in found:
        context.load_verify_locations(capath=folder)


def _has_certificates(folder: Path) -> bool:
    return is_folder(folder) and any(name.suffix == ".0" for name in folder.iterdir())


def _unusable(name: str, what: str) -> InputError:
    if name == "endpoint.ca_file":
        return InputError(Mistake(what, key=name))
    return InputError(f"{name}: {what}", advice=f"Name a file of CA certificates (PEM) in {name}, or unset it.")
