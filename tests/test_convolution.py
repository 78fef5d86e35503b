# SPDX-License-Identifier: Apache-2.0
"""The ops of codecs that work on planes, against their references, on every device."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import reference
from cases import assert_close, normal, rounds

EPILOGUES = ["store", "operand", "relu", "residual_relu"]


class Case(NamedTuple):
    height: int
    width: int
    channels: int
    n: int
    past: int = 0  # channels
    zoom: int = 1
    side: int = 3
    stride: int = 1
    padding: int = 1


CASES = [
    Case(1, 1, 1, 1),
    Case(3, 5, 3, 7),
    Case(5, 4, 12, 64, past=12),
    Case(9, 7, 16, 33, stride=2),
    Case(8, 10, 40, 12, stride=2, past=8),
    Case(4, 6, 24, 20, zoom=2),
    Case(3, 3, 5, 4, zoom=3, side=5, stride=2, padding=2),
    Case(6, 5, 70, 9, side=1, padding=0),
    Case(7, 9, 3, 8, side=4, stride=3, padding=0),
    Case(11, 13, 64, 130),  # more columns and places than a task takes
    Case(4, 4, 200, 31, past=200),  # deeper than what a task gathers at a time
]


@pytest.fixture
def codec(testing: ModuleType, device: str) -> Any:
    return lambda threads=1: testing.Codec(device, threads=threads)


def dtype(device: str) -> str:
    return "bfloat16" if rounds(device) else "float32"


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: "x".join(map(str, c)))
def test_convolution(codec, device, case, epilogue, rng):
    shape = {key: getattr(case, key) for key in ("zoom", "side", "stride", "padding")}
    depth = case.side**2 * (case.channels + case.past)
    given: dict[str, Any] = {
        "x": normal(rng, case.height, case.width, case.channels),
        "w": normal(rng, case.n, depth, scale=depth**-0.5),
        "bias": normal(rng, case.n) if case.n % 2 else None,
        "past": normal(rng, case.height, case.width, case.past) if case.past else None,
        "epilogue": epilogue,
    }
    want = reference.convolution(**given, **shape, precision=dtype(device))
    if epilogue == "residual_relu":
        given["residual"] = normal(rng, *want.shape)
        want = reference.convolution(**given, **shape, precision=dtype(device))
    flat = {
        key: value.reshape(-1, value.shape[-1])
        for key, value in given.items()
        if key in ("x", "past", "residual") and value is not None
    }
    given |= {"width": case.width, "past_channels": case.past, **shape, **flat}
    one, many = (codec(threads).convolution(**given) for threads in (1, 3))
    assert one.tobytes() == many.tobytes()
    stored = "float32" if epilogue == "store" else dtype(device)
    assert_close(one, want.reshape(one.shape), stored)


def test_no_past_is_zeros(codec, rng):
    given = {"x": normal(rng, 12, 8), "width": 4, "w": normal(rng, 5, 9 * 16), "past_channels": 8}
    got = codec().convolution(**given)
    assert got.tobytes() == codec().convolution(**given, past=np.zeros((12, 8))).tobytes()
    assert got.tobytes() != codec().convolution(**given, past=np.ones((12, 8))).tobytes()


def test_more_places_than_are_unfolded_at_a_time(codec, rng):
    x, added = rng.integers(-8, 9, (2, 600 * 500, 1)).astype(np.float32)
    given = {"width": 500, "w": np.full((1, 1), 2.0), "bias": np.ones(1), "side": 1, "padding": 0}
    got = codec().convolution(x=x, residual=added, **given, epilogue="residual_relu")
    assert np.array_equal(got, np.maximum(2 * x + 1 + added, 0))


@pytest.mark.parametrize(("rows", "cols", "channels", "patch"), [(4, 6, 4, 2), (3, 6, 33, 3)])
def test_latents_are_squashed(codec, device, rows, cols, channels, patch, rng):
    tokens = normal(rng, rows * cols // patch**2, patch**2 * channels, scale=3)
    tokens[0, 0], tokens[-1, -1] = 1e20, -1e20
    want = reference.ungroup(tokens, rows, cols, patch, 3.0)
    got = codec().ungroup(tokens, rows, cols, channels, patch, 3.0)
    relative = 5e-3 if dtype(device) == "bfloat16" else 1e-6
    np.testing.assert_allclose(got, want.reshape(got.shape), relative, 1e-6)


def test_norm_then_silu(codec, device, rng):
    x, scale, shift = normal(rng, 9, 100), normal(rng, 100), normal(rng, 100)
    y = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, -1, keepdims=True) + 1e-6) * scale + shift
    assert_close(codec().norm_silu(x, scale, shift, 1e-6), y / (1 + np.exp(-y)), dtype(device))
