"""Read the pickle of a checkpoint as data: plain values, containers and claims of tensors.

The stream is interpreted here, opcode by opcode. A class or function in it is a name: those that
torch writes for tensors are understood, some harmless ones become `OtherObject`, any other refuses
the file. Python's unpickler is never called.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from mirnet_edge.checkpoints.stored import (
    BYTES_OF_TYPE,
    OtherObject,
    OtherTensor,
    Storage,
    StoredTensor,
    check_key,
    view_of,
)
from mirnet_edge.errors import CheckpointError

if TYPE_CHECKING:
    import io

MOST_OPCODES = 400_000
"""Of one pickle; a state dict takes about 25 for each tensor."""

FindStorage: TypeAlias = Callable[[str, str, int], Storage]
"""Returns the storage of a type, key and number of values, or refuses it."""


class ForeignObjectError(CheckpointError):
    """A pickle names a class or function that is none of a checkpoint's."""

    def __init__(self, name: str) -> None:
        """Remember the name."""
        super().__init__(name)
        self.name = name


_LARGEST_KEY = 1 << 60


class _Key:
    """A key that is no text and no small number; equal to none."""


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names."""

    text: str


_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}  # fmt: skip
_QUANTIZED = {f"Q{name}Storage" for name in ("Int8", "Int32", "UInt8", "UInt4x2", "UInt2x4")}
# never called; what they would make is unknown, and no weight
_HARMLESS = {
    "numpy.dtype", "numpy.ndarray", "_codecs.encode", "torch.device", "torch.Generator",
    "torch.serialization._get_layout",
    "torch.torch_version.TorchVersion", "argparse.Namespace", "types.SimpleNamespace",
    "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath", "pathlib.Path",
    "pathlib._local.PosixPath", "datetime.datetime", "datetime.timedelta",
    "datetime.date", "datetime.timezone", "collections.deque",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core")
      for name in ("scalar", "_reconstruct")),
    *(f"{builtins}.{name}" for builtins in ("builtins", "__builtin__")
      for name in ("set", "frozenset", "complex", "bytearray", "slice", "range", "xrange", "list",
                  "dict", "tuple", "int", "float", "str", "bool", "bytes")),
}  # fmt: skip
_HARMLESS_ENDS = (".AttributeDict",)  # of Lightning, under several modules
_DICTIONARIES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
_OTHER_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "torch.sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "torch.sparse_csr",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_meta_tensor_no_storage": "torch.meta",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_device_tensor_from_numpy": "of another device",
}


def read_pickle(stream: io.BytesIO, find_storage: FindStorage) -> tuple[Any, list[StoredTensor]]:
    """Return the object of the pickle at the stream's place, and all tensors that it claims.

    The stream's place is behind the pickle then.

    Args:
        stream: Holds at most `stored.LARGEST_HEADER` bytes.
        find_storage: Called for each storage that the pickle names.

    Raises:
        ForeignObjectError: It names a class or function that is none of a checkpoint's.
        CheckpointError: It is damaged, too long, or claims what cannot be.
    """
    machine = _Interpreter(find_storage)
    return machine.run(stream), machine.claims


class _Interpreter:
    """The machine of the pickle format: a stack, marks in it, and a memo."""

    def __init__(self, find_storage: FindStorage) -> None:
        self._find_storage = find_storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self.claims: list[StoredTensor] = []

    def run(self, stream: io.BytesIO) -> Any:  # noqa: ANN401
        with warnings.catch_warnings():
            # Python warns of escapes in texts of the oldest protocol, which torch does not write
            warnings.simplefilter("ignore")
            return self._run(stream)

    def _run(self, stream: io.BytesIO) -> Any:  # noqa: ANN401
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count > MOST_OPCODES:
                    raise CheckpointError(
                        f"its description has more than {MOST_OPCODES} steps; expected a state dict"
                    )
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, argument)
            return self._stack.pop()
        except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"its description is damaged ({str(error)[:80]})") from error

    def _step(self, name: str, argument: Any) -> None:  # noqa: ANN401
        if name in _PLAIN:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            self._refuse(f"the instruction {name}")

    def _refuse(self, found: str) -> NoReturn:
        raise CheckpointError(f"its description is damaged: found {found}")

    def _pop_to_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def mark(self, _: object) -> None:
        self._marks.append(len(self._stack))

    def empty_container(self, kind: type) -> None:
        self._stack.append(kind())

    def empty_set(self, _: object) -> None:
        self._stack.append(OtherObject(kind="set"))

    def frozen_set(self, _: object) -> None:
        self._pop_to_mark()
        self.empty_set(None)

    def pop(self, _: object) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def pop_mark(self, _: object) -> None:
        self._pop_to_mark()

    def duplicate(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def put(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def list_of_marked(self, _: object) -> None:
        self._stack.append(self._pop_to_mark())

    def tuple_of_marked(self, _: object) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def short_tuple(self, length: int) -> None:
        if len(self._stack) < length:
            self._refuse("too short a stack")
        items = tuple(self._stack[-length:])
        del self._stack[-length:]
        self._stack.append(items)

    def dict_of_marked(self, _: object) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._set_items(items)

    def append_item(self, _: object) -> None:
        item = self._stack.pop()
        self._extend([item])

    def append_marked(self, _: object) -> None:
        self._extend(self._pop_to_mark())

    def add_marked(self, _: object) -> None:
        self._pop_to_mark()  # to a set, whose items are no tensors

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, OtherObject):
            self._refuse("items for what is no list")

    def set_item(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def set_marked(self, _: object) -> None:
        self._set_items(self._pop_to_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, OtherObject):
            return
        if not isinstance(target, dict):
            self._refuse("entries for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str):
                check_key(key)
            # hashing a nested tuple may not end, and numbers can be chosen to have one hash
            is_plain = isinstance(key, str) or (type(key) is int and abs(key) < _LARGEST_KEY)
            target[key if is_plain else _Key()] = value

    def name(self, text: str) -> None:
        module, _, attribute = text.partition(" ")
        self._push_name(f"{module}.{attribute}")

    def name_on_stack(self, _: object) -> None:
        attribute, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            self._refuse("a name that is no text")
        self._push_name(f"{module}.{attribute}")

    def _push_name(self, text: str) -> None:
        if not (
            text in _HARMLESS
            or text in _REBUILDERS
            or text in _DICTIONARIES
            or text in _OTHER_TENSORS
            or text.startswith("numpy.dtypes.")
            or text.endswith(_HARMLESS_ENDS)
            or _dtype_of(text)
            or _storage_type(text)
        ):
            raise ForeignObjectError(text)
        self._stack.append(_Name(text))

    def make(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(arguments, tuple):
            self._refuse("a call without arguments")
        self._stack.append(self._made(function, arguments))

    def make_with_keywords(self, _: object) -> None:
        self._stack.pop()
        self.make(None)

    def _made(self, function: Any, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401
        """Return what calling a known function would make; nothing is called."""
        if not isinstance(function, _Name):
            self._refuse("a call of what is no function")
        if function.text in _REBUILDERS:
            return _REBUILDERS[function.text](self, arguments)
        if function.text in _DICTIONARIES:
            return self._dictionary(arguments)
        if function.text in _OTHER_TENSORS:
            return OtherTensor(kind=_OTHER_TENSORS[function.text])
        return OtherObject(kind=function.text)

    def _dictionary(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        pairs = arguments[0] if arguments else []
        if isinstance(pairs, dict):
            return dict(pairs)
        if isinstance(pairs, list):  # of pairs, as Python 2 wrote them
            self._stack.append({})
            self._set_items([part for pair in pairs for part in (pair[0], pair[1])])
            filled: dict[Any, Any] = self._stack.pop()
            return filled
        return {}

    def build(self, _: object) -> None:
        self._stack.pop()  # attributes, which no weight is among

    def storage(self, _: object) -> None:
        claim = self._stack.pop()
        if not isinstance(claim, tuple) or len(claim) < 5 or claim[0] != "storage":
            self._refuse("a reference that is no storage")
        _, kind, key, _, count, *more = claim
        if more and more[0] is not None:
            self._refuse("a view of a storage, as torch wrote before 0.4")
        dtype = _storage_type(kind.text) if isinstance(kind, _Name) else None
        if dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
            self._refuse("a storage of no known type")
        if dtype in _QUANTIZED:
            self._stack.append(OtherTensor(kind="quantized"))
        else:
            self._stack.append(self._find_storage(dtype, key, count))

    def rebuild(self, arguments: tuple[Any, ...]) -> StoredTensor | OtherTensor:
        """Return the claim of `_rebuild_tensor` (v1, v2): storage, offset, shape, stride, ..."""
        storage, offset, shape, stride = arguments[:4]
        if isinstance(storage, OtherTensor):
            return storage
        if not isinstance(storage, Storage):
            self._refuse("a tensor without a storage")
        return self._claim(view_of(storage, storage.dtype, offset, shape, stride))

    def _claim(self, tensor: StoredTensor) -> StoredTensor:
        self.claims.append(tensor)
        return tensor

    def rebuild_typed(self, arguments: tuple[Any, ...]) -> StoredTensor:
        """Return the claim of `_rebuild_tensor_v3`, whose storage has no type of its own."""
        storage, offset, shape, stride, _, _, kind = arguments[:7]
        dtype = _dtype_of(kind.text) if isinstance(kind, _Name) else None
        if not isinstance(storage, Storage) or dtype is None:
            self._refuse("a tensor without a storage or type")
        return self._claim(view_of(storage, dtype, offset, shape, stride))

    def rebuild_parameter(self, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401
        """Return the tensor of a parameter."""
        return arguments[0]

    def rebuild_from_type(self, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401
        """Return the tensor of a subclass."""
        return self._made(arguments[0], arguments[2])

    def size(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the sides of a torch.Size."""
        return tuple(arguments[0]) if arguments else ()


def _dtype_of(name: str) -> str | None:
    """Return the type of values that a name such as torch.float32 stands for."""
    module, _, dtype = name.rpartition(".")
    return dtype if module == "torch" and dtype in BYTES_OF_TYPE else None


def _storage_type(name: str) -> str | None:
    """Return the type of a storage class's values; None for another class."""
    module, _, kind = name.rpartition(".")
    if module not in ("torch", "torch.storage", "torch.cuda"):
        return None
    return kind if kind in _QUANTIZED else _STORAGES.get(kind)


_REBUILDERS: dict[str, Callable[[_Interpreter, tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _Interpreter.rebuild,
    "torch._utils._rebuild_tensor_v2": _Interpreter.rebuild,
    "torch._utils._rebuild_tensor_v3": _Interpreter.rebuild_typed,
    "torch._utils._rebuild_parameter": _Interpreter.rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _Interpreter.rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _Interpreter.rebuild_from_type,
    "torch.Size": _Interpreter.size,
}
_PLAIN = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING",
    "SHORT_BINSTRING", "INT", "LONG", "FLOAT", "UNICODE", "STRING",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_ACTIONS: dict[str, Callable[[_Interpreter, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _Interpreter.mark,
    "EMPTY_DICT": lambda machine, _: machine.empty_container(dict),
    "EMPTY_LIST": lambda machine, _: machine.empty_container(list),
    "EMPTY_SET": _Interpreter.empty_set,
    "POP": _Interpreter.pop,
    "POP_MARK": _Interpreter.pop_mark,
    "DUP": _Interpreter.duplicate,
    "PUT": _Interpreter.put,
    "BINPUT": _Interpreter.put,
    "LONG_BINPUT": _Interpreter.put,
    "MEMOIZE": _Interpreter.put,
    "GET": _Interpreter.get,
    "BINGET": _Interpreter.get,
    "LONG_BINGET": _Interpreter.get,
    "LIST": _Interpreter.list_of_marked,
    "TUPLE": _Interpreter.tuple_of_marked,
    "TUPLE1": lambda machine, _: machine.short_tuple(1),
    "TUPLE2": lambda machine, _: machine.short_tuple(2),
    "TUPLE3": lambda machine, _: machine.short_tuple(3),
    "DICT": _Interpreter.dict_of_marked,
    "APPEND": _Interpreter.append_item,
    "APPENDS": _Interpreter.append_marked,
    "ADDITEMS": _Interpreter.add_marked,
    "FROZENSET": _Interpreter.frozen_set,
    "SETITEM": _Interpreter.set_item,
    "SETITEMS": _Interpreter.set_marked,
    "GLOBAL": _Interpreter.name,
    "STACK_GLOBAL": _Interpreter.name_on_stack,
    "REDUCE": _Interpreter.make,
    "NEWOBJ": _Interpreter.make,
    "NEWOBJ_EX": _Interpreter.make_with_keywords,
    "BUILD": _Interpreter.build,
    "BINPERSID": _Interpreter.storage,
}
