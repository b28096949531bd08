"""Read the weights files of Keras: HDF5 in its layouts, `.keras` archives, SavedModel folders.

    .h5          Keras 1 and 2: a group per layer, `conv2d_7/conv2d_7/kernel:0`; of a whole model
                 under `model_weights`. Keras 3 writes it too, without `:0`
    .weights.h5  Keras 3: `layers/conv2d_7/vars/0`, layers numbered anew in the order of the graph
    .keras       a zip archive of `config.json` and such a `model.weights.h5`
    SavedModel   a folder with `variables/variables.index`: `checkpoints.tensor_bundle`

Convolutions are found wherever they lie, so that wrapped and nested models load too. Nothing is
executed, and nothing is allocated before shapes, sizes and links have been checked: a file may
claim any shape, or refer to other files.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.checkpoints.keras_paths import find_index
from mirnet_edge.checkpoints.stored import KerasConvolution, printable
from mirnet_edge.checkpoints.tensor_bundle import read_bundle
from mirnet_edge.dependencies import require
from mirnet_edge.errors import CheckpointError, MirnetEdgeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_AGAIN = "Copy or download it again"
_INNER_WEIGHTS, _INNER_CONFIG = "model.weights.h5", "config.json"
_CONFIG_BYTES = 4 * 2**20
_WEIGHTS_BYTES = 8 * 2**30
# Nobody compresses weights well: a file that claims more was made to fill the memory.
_LARGEST_RATIO = 16
_MOST_OBJECTS = 20_000
_DEEPEST = 16
# groups beside the layers: the optimizer's moments repeat the kernels' names and shapes
_NOT_LAYERS = ("optimizer_weights", "optimizer", "metrics", "compile_metrics")


def read_keras(path: Path) -> dict[str, Tensor]:
    """Return the state dict of the `KerasMIRNet` whose weights a file holds.

    Args:
        path: One that `is_keras`.

    Raises:
        CheckpointError: No such file, damaged, of another network, or it refers to other files.
        MissingDependencyError: h5py is not installed.
    """
    with _errors_as_damage(path), _open_convolutions(path) as convolutions:
        from mirnet_edge.checkpoints.keras_layers import state_dict_from_convolutions

        return state_dict_from_convolutions(convolutions, str(path))


def check_keras(path: Path) -> None:
    """Refuse a file that claims what it does not hold, before torch is imported.

    Raises:
        CheckpointError: As `read_keras`, but for what only the values tell.
        MissingDependencyError: h5py is not installed.
    """
    with _errors_as_damage(path), _open_convolutions(path):
        pass


@contextmanager
def _errors_as_damage(path: Path) -> Iterator[None]:
    """Convert what h5py raises for damaged files to a `CheckpointError`."""
    try:
        yield
    except MirnetEdgeError:
        raise
    except (OSError, LookupError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise _damaged(path, error) from error


@contextmanager
def _open_convolutions(path: Path) -> Iterator[list[KerasConvolution]]:
    """Yield the convolutions of a file, whose values can be read as long as this is open."""
    index = find_index(path)
    if index is not None:
        yield read_bundle(index)
        return
    if not path.is_file() or path.stat().st_size == 0:
        found = "is empty" if path.is_file() else "is no file"
        raise CheckpointError(
            f"{path} {found}; expected weights of Keras (.h5, .weights.h5, .keras, or a SavedModel "
            "folder). Check the path"
        )
    with tempfile.TemporaryDirectory() as folder:
        weights, names = path, None
        if zipfile.is_zipfile(path):
            weights, names = _unpack(path, Path(folder))
        h5py: Any = require("h5py", "reading Keras weights")
        with h5py.File(weights, "r", locking=False) as file:
            walk = _Walk(h5py, str(path), weights.stat().st_size)
            walk.visit(file, ())
            yield walk.convolutions(names)


def _unpack(path: Path, folder: Path) -> tuple[Path, list[str] | None]:
    """Return the weights of a `.keras` archive, and the layers' own names that its config tells."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {one.filename: one for one in archive.infolist()}
            if _INNER_WEIGHTS not in members:
                named = ", ".join(map(printable, list(members)[:3])) or "nothing"
                raise CheckpointError(
                    f"{path} is an archive without {_INNER_WEIGHTS}, found {named}; expected one "
                    "that model.save wrote. Give a .keras file"
                )
            names = None
            if _INNER_CONFIG in members:
                text = b"".join(_bounded(archive, members[_INNER_CONFIG], _CONFIG_BYTES, path))
                names = _names_from_config(text, path)
            weights = folder / "model.h5"
            with weights.open("wb") as stream:
                for block in _bounded(archive, members[_INNER_WEIGHTS], _WEIGHTS_BYTES, path):
                    stream.write(block)
            return weights, names
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise _damaged(path, error) from error
    except RuntimeError as error:  # an encrypted member
        raise _damaged(path, error) from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be unpacked ({error.strerror or error}); make room in the folder for "
            f"temporary files, {tempfile.gettempdir()}"
        ) from error


def _bounded(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int, path: Path
) -> Iterator[bytes]:
    """Yield a member's bytes, at most LIMIT and as many as its compressed size can hold."""
    allowed = min(limit, _LARGEST_RATIO * member.compress_size + 2**20)
    if member.file_size > allowed:
        raise CheckpointError(
            f"{path}: {member.filename} would unpack to {member.file_size} bytes from "
            f"{member.compress_size}; expected at most {allowed}. {_AGAIN}"
        )
    with archive.open(member) as stream:
        # zipfile itself stops at the stated size
        while block := stream.read(1 << 20):
            yield block


def _names_from_config(text: bytes, path: Path) -> list[str] | None:
    """Return the names of the convolutions, in the order of the graph, as the session had them.

    None where the model is of no such kind: the layers' numbers in the weights file then tell
    their order.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: {_INNER_CONFIG} is no JSON ({type(error).__name__}). {_AGAIN}"
        ) from error
    names = list(_convolution_names(config, 0))
    return names or None


def _convolution_names(config: Any, depth: int) -> Iterator[str]:  # noqa: ANN401  # JSON
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(layers, list) or depth > _DEEPEST:
        return
    for layer in layers:
        if not isinstance(layer, dict):
            continue
        own = layer.get("config")
        name = own.get("name") if isinstance(own, dict) else None
        if layer.get("class_name") == "Conv2D" and isinstance(name, str):
            yield name
        else:
            yield from _convolution_names(layer, depth + 1)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip().splitlines() or [""])[0][:120]
    return CheckpointError(
        f"{path} is damaged or no {path.suffix} file ({type(error).__name__}: {reason}); "
        f"expected complete weights of Keras. {_AGAIN}"
    )


@dataclass
class _Walk:
    """Find the convolutions in an HDF5 file."""

    h5py: Any
    origin: str
    file_bytes: int
    seen: int = 0
    ranks: dict[str, int] = field(default_factory=dict)
    """Places of layers in the order that the file states, by name."""
    found: list[tuple[Any, Any, str, str | None, int | None]] = field(default_factory=list)
    """Kernel, bias, label, name and place of convolutions."""

    def visit(self, group: Any, place: tuple[str, ...]) -> None:  # noqa: ANN401  # h5py has no types
        self._count(len(group))
        for rank, name in enumerate(_stated_names(group)):
            self.ranks.setdefault(name, rank)
        children = {name: self._child(group, name, place) for name in group}
        datasets = {
            name: child
            for name, child in children.items()
            if isinstance(child, self.h5py.Dataset) and child.shape not in ((), None)
        }
        if datasets:
            self._take(datasets, group, place)
        for name, child in children.items():
            if isinstance(child, self.h5py.Group) and name not in _NOT_LAYERS:
                if len(place) >= _DEEPEST:
                    raise CheckpointError(
                        f"{self.origin} holds groups more than {_DEEPEST} deep at "
                        f"{printable('/'.join(place))}; expected weights of Keras. {_AGAIN}"
                    )
                self.visit(child, (*place, name))

    def _count(self, more: int) -> None:
        self.seen += more
        if self.seen > _MOST_OBJECTS:
            raise CheckpointError(
                f"{self.origin} holds more than {_MOST_OBJECTS} groups and tensors; expected "
                f"weights of a MIRNet. {_AGAIN}"
            )

    def _child(self, group: Any, name: str, place: tuple[str, ...]) -> Any:  # noqa: ANN401
        link = group.get(name, getlink=True)
        if not isinstance(link, self.h5py.HardLink):
            raise CheckpointError(
                f"{self.origin}: {printable('/'.join((*place, name)))} is a link to another place "
                "or file; expected tensors in the file itself. Save the weights again with "
                "model.save_weights"
            )
        return group[name]

    def _take(self, datasets: dict[str, Any], group: Any, place: tuple[str, ...]) -> None:  # noqa: ANN401
        """Note the convolution whose kernel and bias these are.

        A float tensor of something else is refused: the network has no place for it.
        """
        where = "/".join(place)
        plain = {name.partition(":")[0]: dataset for name, dataset in datasets.items()}
        is_numbered = place[-1:] == ("vars",)
        wanted = ("0", "1") if is_numbered else ("kernel", "bias")
        if set(plain) != set(wanted) or len(plain) != len(datasets):
            if all(dataset.dtype.kind in "iub" for dataset in datasets.values()):
                return  # counters, random seeds
            raise CheckpointError(
                f"{self.origin}: {printable(where)} holds {', '.join(map(printable, datasets))}; "
                "expected kernel and bias of convolutions alone, which is all that a MIRNet of "
                "the Keras examples has. Give weights of a MIRNet"
            )
        kernel, bias = (plain[name] for name in wanted)
        owner = place[-2] if is_numbered and len(place) > 1 else (place or ("",))[-1]
        if is_numbered:
            stated = group.attrs.get("name")
            name = stated if isinstance(stated, str) else None
            rank = _trailing_number(owner)
        else:
            name, rank = owner, self.ranks.get(owner)
        self.found.append((kernel, bias, where, name, rank))

    def convolutions(self, names: list[str] | None) -> list[KerasConvolution]:
        """Return what was found, with NAMES in the order of the graph for those without one."""
        if names is not None and len(names) == len(self.found):
            by_rank = sorted(self.found, key=lambda one: -1 if one[4] is None else one[4])
            if all(one[3] is None for one in self.found):
                self.found = [
                    (*one[:3], name, one[4]) for one, name in zip(by_rank, names, strict=True)
                ]
        return [
            KerasConvolution(
                label=label,
                name=name,
                place=rank,
                kernel=self._checked(kernel, label),
                bias=self._checked(bias, label),
                read=_reader(kernel, bias),
            )
            for kernel, bias, label, name, rank in self.found
        ]

    def _checked(self, dataset: Any, label: str) -> tuple[int, ...]:  # noqa: ANN401
        """Return a tensor's shape; refuse what would not fit into the file."""
        claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
        stored = dataset.id.get_storage_size()
        is_whole = (
            stored == claimed if dataset.chunks is None else claimed <= _LARGEST_RATIO * stored
        )
        if (
            dataset.external
            or dataset.is_virtual
            or not is_whole
            or claimed > _LARGEST_RATIO * self.file_bytes
        ):
            raise CheckpointError(
                f"{self.origin}: a tensor of {printable(label)} claims {claimed} bytes "
                f"{tuple(dataset.shape)}, the file holds {stored} of them; expected all of them in "
                f"the file itself. {_AGAIN}"
            )
        if dataset.dtype.kind != "f" and not _is_bfloat16(dataset):
            raise CheckpointError(
                f"{self.origin}: a tensor of {printable(label)} is {dataset.dtype}; expected "
                "floats. Save the float weights, before any quantization"
            )
        return tuple(dataset.shape)


def _stated_names(group: Any) -> list[str]:  # noqa: ANN401  # as above
    """Return the names of layers in the order that a group states, in parts where they are many."""
    parts = sorted(
        (len(name), name) for name in group.attrs if re.fullmatch(r"layer_names\d{0,2}", name)
    )
    stated = [name for _, part in parts for name in group.attrs[part]]
    return [
        name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in stated
    ]


def _trailing_number(name: str) -> int | None:
    """Return the number at the end of a group's name; the first of a kind has none."""
    digits = name.rpartition("_")[2]
    return int(digits) if "_" in name and digits.isascii() and digits.isdigit() else 0


def _is_bfloat16(dataset: Any) -> bool:  # noqa: ANN401  # as above
    return bool(dataset.dtype.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16")


def _reader(kernel: Any, bias: Any) -> Any:  # noqa: ANN401  # as above
    return lambda: (_values(kernel), _values(bias))


def _values(dataset: Any) -> np.ndarray:  # noqa: ANN401  # as above
    values = np.asarray(dataset[()])
    if _is_bfloat16(dataset):  # the upper half of a float32, stored as two bytes without a type
        return (values.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
