"""ONNX Runtime Web as a page needs it: from its npm package, checked, compressed.

The package is not part of mirnet-edge: `npm pack` brings it once, into the user's cache, or
`--runtime` names its file. Its SHA-256 is pinned, so that no other content is ever served.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from mirnet_edge.errors import MirnetEdgeError, MissingDependencyError, OptionError
from mirnet_edge.files import replace_folder, sha256_of, user_cache, write_atomically

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""Of the package's archive."""
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
"""The file that `npm pack` writes."""
OPERATORS_TABLE = "package/docs/webgpu-operators.md"
"""In the archive: the operators of the WebGPU provider."""

_TO_GET_IT = f"npm pack {PACKAGE}@{VERSION}"
_WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_WEBGPU = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
# the package holds no text of its license; the same project's Python package does
_LICENSES = ("LICENSE", "ThirdPartyNotices.txt")
_IDENTITY = "identity.json"
_NPM_S = 600


def copy_runtime(folder: Path, archive: Path | None = None, *, webgpu: bool = True) -> None:
    """Copy the files of ONNX Runtime Web into a new folder, with their license.

    Args:
        folder: Made here.
        archive: The package's file; None for the one in the user's cache, which npm brings.
        webgpu: Whether the build for GPUs is copied beside the one for processors.

    Raises:
        OptionError: The archive is another than the pinned one.
        MissingDependencyError: It is not in the cache, and npm is not installed.
        MirnetEdgeError: npm failed, or a folder cannot be written.
    """
    prepared = _prepare(archive)
    names = json.loads((prepared / _IDENTITY).read_text(encoding="utf-8"))
    left_out = () if webgpu else [_packed_name(name) for name in _WEBGPU]
    folder.mkdir(parents=True)
    for name in names:
        if name not in left_out:
            shutil.copyfile(prepared / name, folder / name)


def find_archive(archive: Path | None = None) -> Path:
    """Return the file of the npm package, after checking its SHA-256.

    Args:
        archive: As for `copy_runtime`.

    Raises:
        OptionError: As `copy_runtime`.
        MissingDependencyError: As `copy_runtime`.
        MirnetEdgeError: As `copy_runtime`.
    """
    if archive is not None:
        return _checked(archive, f"--runtime {archive}")
    cached = user_cache() / ARCHIVE
    if not cached.is_file() or sha256_of(cached) != SHA256:
        _download(cached)
    return cached


def _checked(archive: Path, name: str) -> Path:
    if not archive.is_file():
        raise OptionError(f"{name} does not exist; expected {ARCHIVE}, which {_TO_GET_IT} writes")
    found = sha256_of(archive)
    if found != SHA256:
        raise OptionError(
            f"{name} has SHA-256 {found[:12]}, expected {SHA256[:12]} of {ARCHIVE}; get it again: "
            f"{_TO_GET_IT}"
        )
    return archive


def _download(cached: Path) -> None:
    """Bring the package into the cache."""
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependencyError(
            f"the page needs {PACKAGE} {VERSION} of npm, and npm is not installed here: install "
            f"it, or run {_TO_GET_IT} on another machine and give the file: --runtime {ARCHIVE}"
        )
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".npm-") as temporary:
        folder = Path(temporary)
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", "."]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_NPM_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _npm_failed(str(error)) from error
        if done.returncode or not (folder / ARCHIVE).is_file():
            raise _npm_failed(done.stderr.strip() or f"exit code {done.returncode}")
        _checked(folder / ARCHIVE, f"what npm gave as {ARCHIVE}")
        (folder / ARCHIVE).replace(cached)


def _npm_failed(reason: str) -> MirnetEdgeError:
    first = " ".join(reason.split())[:200]
    return MirnetEdgeError(
        f"npm could not bring {PACKAGE} {VERSION} ({first}); where it can be reached run "
        f"{_TO_GET_IT} and give the file: --runtime {ARCHIVE}"
    )


def _prepare(archive: Path | None) -> Path:
    """Return the folder of the cache with the files as a page serves them, making it once."""
    folder = user_cache() / f"{PACKAGE}-{VERSION}"
    if _is_complete(folder):
        return folder
    found = find_archive(archive)
    with replace_folder(folder) as new, tarfile.open(found) as package:
        for name in (*_WASM, *_WEBGPU):
            content = _read(package, f"package/dist/{name}")
            packed = gzip.compress(content, 9, mtime=0) if name.endswith(".wasm") else content
            (new / _packed_name(name)).write_bytes(packed)
        (new / "package.json").write_bytes(_read(package, "package/package.json"))
        for name, text in _licenses().items():
            (new / name).write_bytes(text)
        hashes = {path.name: sha256_of(path) for path in sorted(new.iterdir())}
        write_atomically(new / _IDENTITY, json.dumps(hashes, indent=1).encode())
    return folder


def _is_complete(folder: Path) -> bool:
    identity = folder / _IDENTITY
    if not identity.is_file():
        return False
    hashes: dict[str, Any] = json.loads(identity.read_text(encoding="utf-8"))
    return all(
        (folder / name).is_file() and sha256_of(folder / name) == expected
        for name, expected in hashes.items()
    )


def _packed_name(name: str) -> str:
    return f"{name}.gz" if name.endswith(".wasm") else name


def _read(package: tarfile.TarFile, name: str) -> bytes:
    member = package.extractfile(name)
    if member is None:
        raise MirnetEdgeError(f"{ARCHIVE} holds no {name}; get it again: {_TO_GET_IT}")
    return member.read()


def _licenses() -> dict[str, bytes]:
    """Return the license texts of ONNX Runtime by file name, as its Python package ships them."""
    spec = importlib.util.find_spec("onnxruntime")
    home = Path(spec.origin).parent if spec and spec.origin else Path()
    return {name: (home / name).read_bytes() for name in _LICENSES if (home / name).is_file()}
