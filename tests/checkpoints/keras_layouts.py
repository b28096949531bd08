"""Write a network's weights in the layouts of Keras and TensorFlow, without either."""

from __future__ import annotations

import json
import struct
import zipfile

import h5py
import numpy as np
import torch
from torch import nn

from mirnet_edge.checkpoints.crc32c import masked_crc32c
from mirnet_edge.checkpoints.keras_layers import GRANULARITIES, list_in_graph_order
from mirnet_edge.models.keras_mirnet import KerasMIRNet, KerasMIRNetConfig


def make_network(**config):
    torch.manual_seed(7)
    return KerasMIRNet(KerasMIRNetConfig(**config)).eval()


def list_layers(network, first=17, granularity=GRANULARITIES[0]):
    """Return (name, kernel, bias) in the order of the graph, as a session names them.

    The session made other layers before: numbers begin at FIRST, and have a gap.
    """
    convolutions = {
        name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    }
    names = {
        key: f"conv2d_{first + index + 22 * (index > 40)}" if first + index else "conv2d"
        for index, key in enumerate(convolutions)
    }
    return [
        (
            names[key],
            convolutions[key].weight.detach().permute(2, 3, 1, 0).numpy(),
            convolutions[key].bias.detach().numpy(),
        )
        for key in list_in_graph_order(network.config, granularity)
    ]


def write_legacy(path, network, *, root="", colon=":0", optimizer=False, dtype=None, first=17):
    """Write the `.h5` of Keras 2, or with COLON empty that of Keras 3."""
    layers = list_layers(network, first)
    with h5py.File(path, "w") as file:
        group = file.require_group(root) if root else file
        group.attrs["layer_names"] = [name.encode() for name, _, _ in layers] + [b"add"]
        group.create_group("add").attrs["weight_names"] = np.array([], "S1")
        for name, kernel, bias in reversed(layers):
            inner = group.create_group(name).create_group(name)
            inner.create_dataset(f"kernel{colon}", data=kernel, dtype=dtype)
            inner.create_dataset(f"bias{colon}", data=bias, dtype=dtype)
            if optimizer:
                moment = file.require_group(f"optimizer_weights/Adam/m/{name}")
                moment.create_dataset("kernel:0", data=kernel * 0)
                moment.create_dataset("bias:0", data=bias * 0)
    return path


def write_numbered(
    path, network, *, named=True, root="", granularity=GRANULARITIES[0], first=17, optimizer=True
):
    """Write the `.weights.h5` of Keras 3, with the session's names or, as before 3.8, without."""
    with h5py.File(path, "w") as file:
        layers = list_layers(network, first, granularity)
        for index, (name, kernel, bias) in enumerate(layers):
            own = f"conv2d_{index}" if index else "conv2d"
            group = file.create_group(f"{root}layers/{own}/vars")
            if named:
                group.attrs["name"] = name
            group["0"], group["1"] = kernel, bias
        if optimizer:
            file["optimizer/vars/0"] = np.int64(3)
            file["optimizer/vars/1"] = np.zeros((3, 3, 3, 8), np.float32)
        file["metrics/mean/vars/0"] = np.float32(0)
    return path


def write_archive(path, network, *, names=True, first=17, compression=zipfile.ZIP_STORED):
    """Write a `.keras` archive, whose config alone has the session's names."""
    inner = path.with_suffix(".inner.h5")
    write_numbered(inner, network, named=False, first=first, granularity=GRANULARITIES[1])
    layers = [
        {"class_name": "Conv2D", "config": {"name": name, "filters": kernel.shape[3]}}
        for name, kernel, _ in list_layers(network, first, GRANULARITIES[1])
    ]
    config = {"class_name": "Functional", "config": {"layers": layers if names else []}}
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.3.3"}))
        archive.writestr("config.json", json.dumps(config))
        archive.write(inner, "model.weights.h5")
    inner.unlink()
    return path


def _varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number, content):
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _block(rows):
    block, before = b"", b""
    for key, value in rows:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        block += _varint(shared) + _varint(len(key) - shared) + _varint(len(value))
        block += key[shared:] + value
        before = key
    return block + struct.pack("<II", 0, 1)


def write_saved_model(folder, network, *, named=True, first=17):
    """Write a SavedModel's variables: layers in the order of the graph, with Adam's moments."""
    data, entries, nodes = b"", {}, b""

    def put(key, content, dtype, shape):
        nonlocal data
        dims = b"".join(_field(2, _field(1, side)) for side in shape)
        message = _field(1, dtype) + _field(2, dims) + _field(4, len(data))
        message += _field(5, len(content)) + _varint(6 << 3 | 5)
        entries[key.encode()] = message + struct.pack("<I", masked_crc32c(content))
        data += content

    layers = list_layers(network, first, GRANULARITIES[2])
    for index, (name, *values) in enumerate(layers):
        for part, value in zip(("kernel", "bias"), values, strict=True):
            owner = f"layer_with_weights-{index}/{part}"
            key = f"{owner}/.ATTRIBUTES/VARIABLE_VALUE"
            put(key, np.ascontiguousarray(value).tobytes(), 1, value.shape)
            slot = f"{owner}/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE"
            put(slot, np.zeros_like(value).tobytes(), 1, value.shape)
            stated = _field(1, b"VARIABLE_VALUE") + _field(2, f"{name}/{part}".encode())
            nodes += _field(1, _field(2, stated + _field(3, key.encode())))
    put("save_counter/.ATTRIBUTES/VARIABLE_VALUE", bytes(8), 9, ())
    if named:
        graph = _varint(len(nodes)) + bytes(4) + nodes
        put("_CHECKPOINTABLE_OBJECT_GRAPH", graph, 7, ())
    blocks, handles = b"", []
    rows = [(b"", _field(1, 1)), *sorted(entries.items())]
    for start in range(0, len(rows), 50):
        part = rows[start : start + 50]
        handles.append((part[-1][0], len(blocks), len(_block(part))))
        blocks += _sealed(_block(part))
    meta = (len(blocks), len(_block([])))
    blocks += _sealed(_block([]))
    top = _block([(key, _varint(offset) + _varint(size)) for key, offset, size in handles])
    place = (len(blocks), len(top))
    footer = b"".join(map(_varint, (*meta, *place))).ljust(40, b"\0")
    variables = folder / "variables"
    variables.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"not read")
    (variables / "variables.data-00000-of-00001").write_bytes(data)
    (variables / "variables.index").write_bytes(
        blocks + _sealed(top) + footer + struct.pack("<Q", 0xDB4775248B80FB57)
    )
    return folder


def _sealed(block):
    return block + b"\0" + struct.pack("<I", masked_crc32c(block + b"\0"))
