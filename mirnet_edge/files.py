"""Write files atomically, hash them, say what is no file, read TOML files that people write."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from mirnet_edge.errors import MirnetEdgeError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


DISK_FULL = frozenset((errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)))
"""Error numbers of a full disk, and of a full quota."""
NAME_BYTES = 255
"""The longest file name of common file systems, in bytes."""


def hidden_sibling(path: Path, ending: str) -> Path:
    """Return a path beside PATH: a dot, PATH's name and ENDING, shortened to `NAME_BYTES`.

    A name that is too long keeps its beginning, with a hash of the whole in place of the rest.
    """
    name = f".{path.name}{ending}"
    if len(os.fsencode(name)) > NAME_BYTES:
        mark = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
        begin = path.name
        while len(os.fsencode(name := f".{begin}{mark}{ending}")) > NAME_BYTES:
            begin = begin[:-1]  # whole characters: libraries refuse names with half of one
    return path.with_name(name)


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


_SPECIAL = (
    (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)  # fmt: skip
_POINTER, _PAGES = b"version https://git-lfs", (b"<!doctype html", b"<html")


def describe_special(path: Path) -> str | None:
    """Return what PATH is where reading it may never end: a pipe, a socket, a device; else None."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return next((what for is_kind, what in _SPECIAL if is_kind(mode)), None)


def describe_download(head: bytes) -> str | None:
    """Return what lies in place of a file that was not downloaded; None where HEAD is no such.

    Args:
        head: The first bytes, 64 or more.
    """
    text = head.lstrip(b"\xef\xbb\xbf\r\n\t ").lower()
    if text.startswith(_POINTER):
        return "a Git LFS pointer and not the file itself, which `git lfs pull` downloads"
    if text.startswith(_PAGES):
        return "a web page: that is what the download was answered with"
    return None


def write_atomically(path: Path, payload: bytes) -> None:
    """Write PAYLOAD to PATH so that a reader sees the old file or the new one, never a part.

    Raises:
        MirnetEdgeError: The folder cannot be written, or the disk is full.
    """
    with replace_file(path) as part:
        part.write_bytes(payload)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield an empty file beside PATH, of its suffix, that replaces PATH at the end of the block.

    A reader sees the old file or the new one, never a part.

    Raises:
        MirnetEdgeError: The folder cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = hidden_sibling(path, f".{uuid.uuid4().hex[:8]}{path.suffix}")
        part.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise MirnetEdgeError(
            f"{path.parent} cannot be written ({error.strerror}); choose another output folder"
        ) from error
    try:
        yield part
        _sync(part)
        # private (0600) until it is complete; a result is to be as readable as any other file
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise MirnetEdgeError(
            f"{path} cannot be written ({error.strerror}); what was there is kept. "
            f"{'Free the disk or choose' if error.errno in DISK_FULL else 'Choose'} another folder"
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def replace_folder(
    target: Path, is_resumable: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Yield an empty folder beside TARGET that replaces TARGET at the end of the block.

    After a kill at any moment, or an exception, TARGET is the old folder or the new one.

    Args:
        target: The folder.
        is_resumable: Whether the block can go on with what a killed program left in a folder. That
            folder is then yielded instead of an empty one, and Ctrl-C keeps it for the next time.

    Raises:
        MirnetEdgeError: The parent folder cannot be written, or TARGET is not a folder.
    """
    target = target.absolute()
    if target.exists() and not target.is_dir():
        raise MirnetEdgeError(f"{target} is a file; expected a folder or nothing. Choose another")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name}.new-{os.getpid()}-"
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
        for rest in _list_unfinished(target):
            if is_resumable is not None and is_resumable(rest) and not any(staging.iterdir()):
                staging.rmdir()
                rest.rename(staging)
            else:
                shutil.rmtree(rest, ignore_errors=True)
        recover(target)
    except OSError as error:
        raise MirnetEdgeError(
            f"{target.parent} cannot be written ({error.strerror}); choose another output folder"
        ) from error
    try:
        yield staging
        for file in staging.rglob("*"):
            if file.is_file():
                _sync(file)
        staging.chmod(0o777 & ~_umask())
        _swap(staging, target)
    except BaseException as error:
        if is_resumable is None or not isinstance(error, KeyboardInterrupt):
            shutil.rmtree(staging, ignore_errors=True)
        raise
    shutil.rmtree(staging, ignore_errors=True)


def recover(target: Path) -> None:
    """Restore a folder that `replace_folder` had moved aside when the program was killed.

    Only where the system cannot exchange two folders in one step; elsewhere there is nothing to
    restore.
    """
    if not target.absolute().name:
        return  # a root is never replaced
    former = _former(target.absolute())
    if former.is_dir() and not target.exists():
        former.rename(target.absolute())


def _swap(staging: Path, target: Path) -> None:
    """Replace TARGET by STAGING; the old folder is at STAGING afterwards, or deleted."""
    if not target.exists():
        staging.rename(target)
        return
    if _exchange(staging, target):
        return
    former = _former(target)
    shutil.rmtree(former, ignore_errors=True)
    target.rename(former)
    staging.rename(target)
    shutil.rmtree(former, ignore_errors=True)


def _exchange(one: Path, two: Path) -> bool:
    """Exchange two folders atomically; return whether the system can (Linux: renameat2)."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library older than glibc 2.28
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(two), exchange) == 0)


def _list_unfinished(target: Path) -> list[Path]:
    """Return the unfinished folders of killed programs beside TARGET, the latest first."""
    found = []
    for rest in target.parent.glob(f".{target.name}.new-*-*"):
        writer = rest.name.rsplit("-", 2)[1]
        if writer.isdigit() and not _alive(int(writer)):
            found.append(rest)
    return sorted(found, key=lambda rest: rest.stat().st_mtime, reverse=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _former(target: Path) -> Path:
    return target.with_name(f".{target.name}.former")


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    # reading the umask needs setting it; the process is single-threaded where this is called
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_Kind = TypeVar("_Kind", bound=BaseModel)


def read_toml(path: Path, kind: type[_Kind], *, absent: str | None = None) -> _Kind:
    """Return the content of a TOML file as a document.

    Args:
        path: The file.
        kind: The class of the document.
        absent: The message where the file cannot be read; None for its name and the reason.

    Raises:
        OptionError: The file cannot be read, is not TOML, or does not fit the class.
    """
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise OptionError(absent or f"{path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not TOML: {error}. Correct that line") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise OptionError(
            f"{path}: {where}: {first['msg']}; expected the keys {', '.join(kind.model_fields)}"
        ) from error


def user_cache() -> Path:
    """Return this package's folder in the user's cache, where the system keeps that."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "mirnet-edge"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "mirnet-edge"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "mirnet-edge"
