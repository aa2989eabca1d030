"""Pickles read as data: what an .npy file of objects holds, without running an instruction of it.

A pickle is a program for a stack machine, which may call anything. Here its instructions are only decoded (`pickletools`), and the few
that build containers, strings, numbers and numpy arrays are followed, by us. No class that a file names is looked up, and none is made.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.data.faults import must_be_its_own
from mrdist.errors import DataError

_INSTRUCTIONS = 2_000_000  # of one file: a shape has some hundred, a test set of 50,000 shapes about a million
_LONGEST = 1 << 48
_WANTED = "arrays, dicts, lists, strings and numbers"


class _Known(Enum):
    """What a pickle of numpy arrays may name."""

    ARRAY = "_reconstruct"
    BUFFER = "_frombuffer"
    BYTES = "encode"
    NO_BYTES = "bytes"  # none at all: how protocol 2 says b""
    CLASS = "ndarray"
    DTYPE = "dtype"
    SCALAR = "scalar"


_NAMES = {
    **{f"numpy.{core}.multiarray _reconstruct": _Known.ARRAY for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _Known.SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _Known.BUFFER for core in ("core", "_core")},
    "numpy ndarray": _Known.CLASS,
    "numpy dtype": _Known.DTYPE,
    "_codecs encode": _Known.BYTES,
    "__builtin__ bytes": _Known.NO_BYTES,
}
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d{0,5}|O8?")
_VALUE = re.compile(r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?(STRING|UNICODE|BYTES)8?|BYTEARRAY8")
_VALUES = frozenset(code.name for code in pickletools.opcodes if _VALUE.fullmatch(code.name))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Refused(Exception):
    """Something that no file of arrays needs; the message is what it was."""


class _Begun:
    """An array or a type that the file has named, and will say more of."""

    def __init__(self, code: str = "") -> None:
        self.code = code  # of a type; empty: an array
        self.places: list[int] = []  # of the memo


def read(path: Path, *, limit: int) -> Any:
    """What `numpy.save` wrote: an array, a dict, or a list of anything such.

    Args:
        limit: bytes that the file may have; what is made of it takes about as much.

    Returns:
        numpy arrays, dicts with names as keys, lists, tuples, strings, bytes, numbers, None. An array of objects without an axis is the
        object; one with an axis is a list.

    Raises:
        DataError: it is missing, too large, damaged, or names anything but arrays and their types; it says what. Nothing was run.
        MachineFault: the machine cannot read it.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise DataError(what=path, got=f"{size >> 20} MB", wanted=f"at most {limit >> 20} MB", try_="see whether it is the right file")
        file = io.BytesIO(path.read_bytes())
    except OSError as wrong:
        must_be_its_own(wrong)
        raise DataError(what=path, got=wrong.strerror, wanted="a file", try_="fetch it, or see whether the folder is right") from None
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            return _Machine(file, limit).run()
        if dtype.kind not in "biuf":
            raise _Refused(f"numbers of type {dtype.kind}")
        return _array(shape, dtype, fortran, file.read())
    except _Refused as wrong:
        try_ = "do not unpickle it elsewhere, it may run code; fetch the file again from where it was published"
        raise DataError(what=path, got=str(wrong), wanted=_WANTED, try_=try_) from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, struct.error) as wrong:
        said = " ".join(str(wrong).split())[:100] or type(wrong).__name__
        raise DataError(what=path, got=f"a damaged file: {said}", wanted=_WANTED, try_="fetch it again") from None


class _Machine:
    """The stack, the memo, and the instructions that are followed."""

    def __init__(self, file: io.BytesIO, limit: int) -> None:
        self._file = file
        self._most = min(limit >> 5, _INSTRUCTIONS)
        self._spare = limit  # bytes that may still be made anew, rather than shared with the file's
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Follow the instructions to the end; what is left on the stack."""
        for count, (code, value, _) in enumerate(pickletools.genops(self._file)):
            if count > self._most:
                raise _Refused(f"more than {self._most} instructions")
            if code.name == "STOP":
                break
            self._follow(code.name, value)
        (result,) = self._stack
        return result

    def _follow(self, name: str, value: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._named(value if name == "GLOBAL" else self._two_names())
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self._keep(len(self._memo) if name == "MEMOIZE" else value)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[value])
        elif name == "REDUCE":
            given = stack.pop()
            stack.append(self._called(stack.pop(), given))
        elif name == "BUILD":
            self._built(stack.pop())
        else:
            self._contained(name)

    def _contained(self, name: str) -> None:
        """Containers, and what marks their beginning."""
        stack = self._stack
        match name:
            case "MARK":
                self._marks.append(len(stack))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._since()
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_DICT":
                stack.append({})
            case "LIST":
                stack.append(self._since())
            case "TUPLE":
                stack.append(tuple(self._since()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "DICT":
                stack.append(_filled({}, self._since()))
            case "APPEND":
                last = stack.pop()
                _list(stack[-1]).append(last)
            case "APPENDS":
                more = self._since()
                _list(stack[-1]).extend(more)
            case "SETITEM":
                pair, stack[-2:] = stack[-2:], []
                _filled(stack[-1], pair)
            case "SETITEMS":
                more = self._since()
                _filled(stack[-1], more)
            case _:
                raise _Refused(f"the instruction {name}")

    def _since(self) -> list[Any]:
        first = self._marks.pop()
        held, self._stack[first:] = self._stack[first:], []
        return held

    def _keep(self, place: int) -> None:
        if not 0 <= place <= self._most:
            raise _Refused("a memo of absurd size")
        self._memo[place] = self._stack[-1]
        if isinstance(self._stack[-1], _Begun):
            self._stack[-1].places.append(place)

    def _two_names(self) -> str:
        module, name = self._stack[-2:]
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Refused("a name that is no text")
        del self._stack[-2:]
        return f"{module} {name}"

    def _named(self, name: str) -> None:
        if name not in _NAMES:
            raise _Refused(f"the name {name.replace(' ', '.')[:100]}")
        self._stack.append(_NAMES[name])

    def _called(self, what: Any, given: Any) -> Any:
        if not isinstance(what, _Known) or not isinstance(given, tuple):
            raise _Refused("a call of something else")
        match what:
            case _Known.ARRAY if given[0] is _Known.CLASS:
                return _Begun()
            case _Known.DTYPE:
                code = given[0].decode("ascii") if isinstance(given[0], bytes) else given[0]
                if not isinstance(code, str) or not _DTYPE.fullmatch(code):
                    raise _Refused(f"an array of type {str(code)[:40]}" if isinstance(code, str) else "an array of another type")
                return _Begun(code)
            case _Known.SCALAR:
                dtype, data = given
                return _array((), dtype, False, self._raw(data)).item()
            case _Known.BUFFER:
                data, dtype, shape, order = given
                return _array(shape, dtype, order == "F", self._raw(data))
            case _Known.BYTES:
                text, encoding = given
                if not isinstance(text, str) or encoding != "latin1":
                    raise _Refused("text in an encoding")
                return self._raw(text)
            case _Known.NO_BYTES if given == ():
                return b""
        raise _Refused("a call of something else")

    def _built(self, state: Any) -> None:
        begun = self._stack[-1]
        if not isinstance(begun, _Begun) or not isinstance(state, tuple):
            raise _Refused("a state for something else")
        if begun.code:
            order, inner = state[1], state[2:5]
            if order not in ("<", ">", "|", "=") or inner != (None, None, None):
                raise _Refused("an array of records")
            made: Any = np.dtype(begun.code).newbyteorder(order)
        else:
            _, shape, dtype, fortran, data = state
            made = _array(shape, dtype, bool(fortran), data if isinstance(data, list) else self._raw(data))
        self._stack[-1] = made
        for place in begun.places:
            self._memo[place] = made

    def _raw(self, data: Any) -> bytes | bytearray:
        """Bytes, of which older pickles make text."""
        if isinstance(data, str):
            self._spare -= len(data)
            if self._spare < 0:
                raise _Refused("more bytes than the file has")
            return data.encode("latin1")
        if not isinstance(data, bytes | bytearray):
            raise _Refused("an array without its numbers")
        return data


def _array(shape: Any, dtype: Any, fortran: bool, data: Any) -> Any:
    """An array of these numbers, read-only; of objects: a list, or the only one."""
    if not isinstance(shape, tuple) or not all(type(length) is int and 0 <= length < _LONGEST for length in shape) or len(shape) > 8:
        raise _Refused("an array without a shape")
    if not isinstance(dtype, np.dtype):
        raise _Refused("an array without a type")
    count = math.prod(shape)
    if dtype.hasobject:
        if not isinstance(data, list) or len(data) != count or len(shape) > 1:
            raise _Refused("an array of objects that is no list")
        return data if shape else data[0]
    if isinstance(data, list) or len(data) != count * dtype.itemsize:
        raise ValueError(f"an array of {count} numbers without {count} numbers")
    held: NDArray[Any] = np.frombuffer(data, dtype) if count else np.zeros(0, dtype)
    held.flags.writeable = False
    return held.reshape(shape, order="F" if fortran else "C")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _Refused("a list that is none")
    return value


def _filled(held: Any, pairs: list[Any]) -> dict[str, Any]:
    keys = pairs[::2]
    # Names alone: the hash of a string is secret, that of a number is not, and a file could choose numbers that all collide.
    if not isinstance(held, dict) or not all(isinstance(key, str) for key in keys):
        raise _Refused("a dict with other keys than names")
    held.update(zip(keys, pairs[1::2], strict=True))
    return held
