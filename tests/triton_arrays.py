# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays with what the Triton interpreter asks of tensors, and e4m3 in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Type(NamedTuple):
    """A dtype as the interpreter reads it: by its name and size."""

    name: str
    itemsize: int
    is_floating_point: bool = True

    def __str__(self) -> str:
        return self.name


E4M3 = Type("float8_e4m3fn", 1)


class Tensor:
    """A contiguous array, 128-byte aligned as tensor maps want it. Kernels work on it in place."""

    def __init__(self, array: np.ndarray, dtype: Type | None = None) -> None:
        spare = np.empty(array.nbytes + 128, np.uint8)
        start = -spare.ctypes.data % 128
        self.array = spare[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array
        self.address = self.array.ctypes.data
        self.dtype = dtype or Type(str(array.dtype), array.itemsize)
        self.shape = array.shape

    @classmethod
    def at(cls, address: int, dtype: Type) -> Tensor:
        """Memory of somebody else's, of unknown size."""
        made = cls(np.empty(0, np.uint8), dtype)
        made.address = address
        return made

    def data_ptr(self) -> int:
        return self.address

    def stride(self) -> list[int]:
        return [s // self.array.itemsize for s in self.array.strides]

    def untyped_storage(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:  # "moving" to the host and back is moving nowhere
        return self

    def copy_(self, other: Tensor) -> None:
        pass

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.shape

    def new_empty(self, size: object, device: str) -> Tensor:
        return Tensor.at(0, self.dtype)

    def set_(self, storage: Tensor, offset: int, size: object, stride: object) -> None:
        self.address = storage.address


def _e4m3_value(code: int) -> float:
    exponent, mantissa = code >> 3 & 15, code & 7
    value = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -value if code & 128 else value


E4M3_VALUES = np.array([_e4m3_value(code) for code in range(256)])
E4M3_VALUES[[127, 255]] = np.nan


def e4m3(x: np.ndarray) -> np.ndarray:
    """The nearest codes of values up to 448 in size, ties to the even code."""
    positive = E4M3_VALUES[:127]
    middle = (positive[1:] + positive[:-1]) / 2
    code = np.searchsorted(middle, np.abs(x), side="left")
    tie = np.abs(x) == middle[np.minimum(code, 125)]
    code = code + (tie & (code % 2 == 1))
    return np.where(np.signbit(x), code | 128, code).astype(np.uint8)
