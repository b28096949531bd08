"""Open checkpoints that claim what they do not hold; print time, memory and the answer.

    python benchmarks/bombs.py

Each file is small and would take minutes or gigabytes where its claims were believed. It is opened
by `mirnet export --weights FILE` in a process of its own: processor seconds, which a busy machine
does not change, and the peak of resident memory are the whole program's; the first row has those of
the program that is asked for weights that are not there. The exit code is 1 where a file is not
refused within 2 s and 300 MB.
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_S, MOST_MB = 2.0, 300.0


def safetensors(header: bytes, values: bytes = b"") -> bytes:
    """Return a safetensors file of this header."""
    return struct.pack("<Q", len(header)) + header + values


def archive(description: bytes, storages: dict[str, bytes], *, packed: bool = False) -> bytes:
    """Return a file as torch.save writes it, of a pickle and the bytes of storages."""
    buffer = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", kind) as written:
        written.writestr("net/data.pkl", description)
        for key, content in storages.items():
            written.writestr(f"net/data/{key}", content)
        written.writestr("net/version", b"3\n")
    return buffer.getvalue()


def number(value: int) -> bytes:
    """Return the pickle of a whole number."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def text(value: str) -> bytes:
    """Return the pickle of a text."""
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def numbers(values: tuple[int, ...]) -> bytes:
    """Return the pickle of a tuple of whole numbers."""
    return b"(" + b"".join(number(one) for one in values) + b"t"


def tensor(
    shape: tuple[int, ...], stride: tuple[int, ...], count: int, offset: int = 0, key: str = "0"
) -> bytes:
    """Return the pickle of a tensor of a storage of COUNT floats."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    storage += number(count) + b"tQ"
    arguments = storage + number(offset) + numbers(shape) + numbers(stride) + b"\x89"
    arguments += b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def pickle_of(entries: dict[str, bytes]) -> bytes:
    """Return the pickle of a dictionary."""
    inner = b"".join(text(name) + value for name, value in entries.items())
    return b"\x80\x02}(" + inner + b"u."


def nested_tuples(depth: int) -> bytes:
    """Return the pickle of a tuple of twice the tuple before, DEPTH times: 2^DEPTH in all."""
    return b")" + b"".join(b"q%c" % (place,) + b"h%c\x86" % (place,) for place in range(depth))


def deep_header(length: int) -> bytes:
    """Return a header of dictionaries in dictionaries."""
    count = length // 6
    return b'{"a":' * count + b"{}" + b"}" * count


def many_entries(length: int) -> bytes:
    """Return a header of LENGTH bytes with entries of empty tensors."""
    one = '"%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    count = length // (len(one) + 4)
    return ("{" + ",".join(one % place for place in range(count)) + "}").encode()


def long_lists(length: int) -> bytes:
    """Return a header whose only entry is a list of lists."""
    return b'{"a":[' + b"[]," * (length // 3) + b"[]]}"


def many_records(count: int) -> bytes:
    """Return an archive of many empty records."""
    return archive(pickle_of({}), {str(place): b"" for place in range(count)})


def overlapping_views(count: int) -> bytes:
    """Return an archive of many tensors that all lie over one storage."""
    size = 250_000
    views = {f"a{place}": tensor((size - count,), (1,), size, place) for place in range(count)}
    return archive(pickle_of(views), {"0": bytes(4 * size)})


def stream_of_claims() -> bytes:
    """Return a file as torch before 1.6 wrote it, whose storage claims a terabyte."""
    magic = b"\x80\x02" + number(0x1950A86A20F9469CFC6C) + b"."
    version, machine = b"\x80\x02M\xe9\x03.", b"\x80\x02}."
    claim = pickle_of({"conv_in.weight": tensor((1 << 38,), (1,), 1 << 38)})
    keys = b"\x80\x02](" + text("0") + b"e."
    return magic + version + machine + claim + keys + struct.pack("<q", 1 << 38)


def hdf5(fill: Callable[[Any], object]) -> bytes:
    """Return an HDF5 file that a function fills."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def layer(group: Any, **kernel: Any) -> None:  # noqa: ANN401  # h5py has no types
    """Add a convolution whose kernel is made of h5py's options."""
    inner = group.create_group("conv2d/conv2d")
    inner.create_dataset("kernel:0", dtype="f4", **kernel)
    inner.create_dataset("bias:0", shape=(8,), dtype="f4", data=[0.0] * 8)


def many_datasets(file: Any) -> None:  # noqa: ANN401  # as above
    """Add 30,000 tensors of one value."""
    for place in range(30_000):
        file.create_dataset(f"d{place}", data=0.0)


def deep_groups(file: Any) -> None:  # noqa: ANN401  # as above
    """Add a group in a group, 200 times."""
    for _ in range(200):
        file = file.create_group("a")


def keras_archive(members: dict[str, bytes], packed: bool) -> bytes:
    """Return a `.keras` archive."""
    buffer = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", kind) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return buffer.getvalue()


def shared_keys(length: int, count: int) -> bytes:
    """Return an index of TensorFlow whose keys each repeat LENGTH bytes of the one before."""
    from mirnet_edge.checkpoints.crc32c import masked_crc32c

    def varint(value: int) -> bytes:
        groups = [value >> shift & 0x7F for shift in range(0, 35, 7)]
        return bytes([*(one | 0x80 for one in groups[:-1]), groups[-1]])

    def block(content: bytes) -> bytes:
        content += struct.pack("<II", 0, 1)
        return content + b"\0" + struct.pack("<I", masked_crc32c(content + b"\0"))

    def entry(shared: int, own: bytes, value: bytes) -> bytes:
        return varint(shared) + varint(len(own)) + varint(len(value)) + own + value

    entries = entry(0, b"a" * length, b"") + entry(length, b"b", b"") * count
    keys = block(entries)
    handle = varint(0) + varint(len(keys) - 5)
    top = block(entry(0, b"z", handle))
    footer = varint(0) * 2 + varint(len(keys)) + varint(len(top) - 5)
    return keys + top + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a tensor of 10^12 values of stride 0": (
        "a.pth",
        lambda: archive(
            pickle_of({"conv_in.weight": tensor((10**6, 10**6), (0, 0), 1)}), {"0": bytes(4)}
        ),
    ),
    "a tensor whose rows overlap": (
        "a.pth",
        lambda: archive(
            pickle_of({"conv_in.weight": tensor((50_000, 50_000), (1, 1), 100_000)}),
            {"0": bytes(400_000)},
        ),
    ),
    "2000 tensors over one storage": ("a.pth", lambda: overlapping_views(2000)),
    "a storage of a terabyte": (
        "a.pth",
        lambda: archive(pickle_of({"a": tensor((1 << 38,), (1,), 1 << 38)}), {"0": bytes(4)}),
    ),
    "a storage of a terabyte, as before torch 1.6": ("a.pth", stream_of_claims),
    "deflated: 64 MB in 64 KB": (
        "a.pth",
        lambda: archive(
            pickle_of({"a": tensor((1 << 24,), (1,), 1 << 24)}), {"0": bytes(1 << 26)}, packed=True
        ),
    ),
    "tuples nested 200 times, twice each": (
        "a.pth", lambda: archive(pickle_of({"a": nested_tuples(200)}), {}),
    ),
    "such a tuple as a key": (
        "a.pth", lambda: archive(b"\x80\x02}" + nested_tuples(200) + b"Ns.", {}),
    ),
    "lists nested 2 million times": (
        "a.pth", lambda: archive(b"\x80\x02" + b"]" * 2_000_000 + b"a" * 1_999_999 + b".", {}),
    ),
    "4 million steps": ("a.pth", lambda: archive(b"\x80\x02(" + b"]" * 4_000_000 + b"l.", {})),
    "numbers as keys with one hash": (
        "a.pth",
        lambda: archive(
            b"\x80\x02}("
            + b"".join(number(place * (2**61 - 1)) + b"N" for place in range(1, 60_000))
            + b"u.",
            {},
        ),
    ),
    "a pickle of 46 MB": ("a.pth", lambda: archive(pickle_of({"a": text("x" * 46_000_000)}), {})),
    "25,000 records": ("a.pth", lambda: many_records(25_000)),
    "a header of 46 MB": ("a.safetensors", lambda: safetensors(many_entries(46_000_000))),
    "a header of 4 MB": ("a.safetensors", lambda: safetensors(many_entries(4_000_000))),
    "a header of lists, 4 MB": ("a.safetensors", lambda: safetensors(long_lists(4_000_000))),
    "a header that claims 2^60 bytes": (
        "a.safetensors", lambda: struct.pack("<Q", 1 << 60) + b"{}",
    ),
    "a header 600,000 deep": ("a.safetensors", lambda: safetensors(deep_header(3_600_000))),
    "a header 900 deep": ("a.safetensors", lambda: safetensors(deep_header(5400))),
    "metadata of 46 MB": (
        "a.safetensors",
        lambda: safetensors(json.dumps({"__metadata__": {"card": "x" * 46_000_000}}).encode()),
    ),
    "a card 300,000 deep": (
        "a.safetensors",
        lambda: safetensors(
            json.dumps({"__metadata__": {"card": '{"a":' * 300_000 + "}" * 300_000}}).encode()
        ),
    ),
    "a key of 3 MB": (
        "a.safetensors",
        lambda: safetensors(
            json.dumps(
                {"a." * 1_500_000: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
            ).encode()
        ),
    ),
    "19,000 prefixes": (
        "a.safetensors",
        lambda: safetensors(
            json.dumps(
                {
                    f"{place}.conv_in.weight": {
                        "dtype": "F32", "shape": [0], "data_offsets": [0, 0],
                    }
                    for place in range(19_000)
                }
            ).encode()
        ),
    ),
    "sides of 2^61, of which one is 0": (
        "a.safetensors",
        lambda: safetensors(
            json.dumps(
                {
                    name: {"dtype": "F32", "shape": [1 << 61, 0, 3, 3], "data_offsets": [0, 0]}
                    for name in ("stem.weight", "head.weight", "blocks.0.up_middle.weight")
                }
            ).encode()
        ),
    ),
    "HDF5: a tensor of 40 TB": (
        "a.h5", lambda: hdf5(lambda file: layer(file, shape=(3, 3, 1 << 20, 1 << 20))),
    ),
    "HDF5: 36 MB of zeros, compressed": (
        "a.h5",
        lambda: hdf5(
            lambda file: layer(
                file, data=[[[[0.0]] * (1 << 20)] * 3] * 3, chunks=True, compression="gzip"
            )
        ),
    ),
    "HDF5: 30,000 tensors": ("a.weights.h5", lambda: hdf5(many_datasets)),
    "HDF5: groups 200 deep": ("a.h5", lambda: hdf5(deep_groups)),
    "Keras: a configuration of 45 MB": (
        "a.keras",
        lambda: keras_archive(
            {"config.json": b"[" + b"[]," * 15_000_000 + b"[]]", "model.weights.h5": b""},
            packed=False,
        ),
    ),
    "Keras: 500 MB in 500 KB": (
        "a.keras", lambda: keras_archive({"model.weights.h5": bytes(500 << 20)}, packed=True),
    ),
    "TensorFlow: 100,000 keys that share 1 MB": (
        "variables.index", lambda: shared_keys(1_000_000, 100_000),
    ),
}  # fmt: skip
"""File name and content of each, by what it claims."""


def measure(weights: Path) -> tuple[float, float, str, int]:
    """Return the processor seconds, the peak memory in MB, the answer and the exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mirnet_edge", "export", "--weights", str(weights),
         "--out", str(weights.parent / "bundle")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    answer = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = usage.ru_utime + usage.ru_stime
    process.returncode = os.waitstatus_to_exitcode(status)
    line = answer.strip().replace(str(weights), "FILE")
    return seconds, usage.ru_maxrss / 1024, line, process.returncode


def write(folder: Path) -> None:
    """Write all files, each into a folder of its own."""
    for place, (name, content) in enumerate(BOMBS.values()):
        (folder / str(place)).mkdir()
        (folder / str(place) / name).write_bytes(content())


def main() -> int:
    """Print the table in Markdown; return 1 where a file is not refused in time and memory."""
    failed = 0
    print("| what it claims | processor s | MB | answer |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        # by another process: a child begins with its parent's peak of memory
        subprocess.run([sys.executable, __file__, "--write", folder], check=True)
        seconds, memory, _, _ = measure(Path(folder) / "absent.pth")
        print(f"| (no such file) | {seconds:.2f} | {memory:.0f} | |")
        for place, (claim, (name, _)) in enumerate(BOMBS.items()):
            seconds, memory, answer, code = measure(Path(folder) / str(place) / name)
            is_refused = code == 2 and "\n" not in answer
            fits = is_refused and seconds < MOST_S and memory < MOST_MB
            failed += not fits
            shown = answer.partition(": ")[2].replace("|", "\\|")[:150]
            print(f"| {claim} | {seconds:.2f} | {memory:.0f} | {shown}{'' if fits else ' FAILS'} |")
    return int(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]))
    else:
        sys.exit(main())
