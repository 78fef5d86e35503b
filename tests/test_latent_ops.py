# SPDX-License-Identifier: Apache-2.0
"""The ops around latents and time against NumPy, on every device."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from cases import TOLERANCE
from models import relative_error
from rtfm_rt import _testing


def single(raw: np.ndarray, precision: str) -> np.ndarray:
    """float32 of bytes that hold operands."""
    if precision == "float32":
        return raw.reshape(-1).view(np.float32)
    return (raw.reshape(-1).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def stored(values: np.ndarray, precision: str) -> np.ndarray:
    """The bytes of operands; the reverse of `single`."""
    rounded = reference.operand(values, precision).astype(np.float32).reshape(-1)
    if precision == "float32":
        return rounded.view(np.uint8)
    return (rounded.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def dense(raw: np.ndarray, cols: int, precision: str = "float32") -> np.ndarray:
    """Rows without their padding, which ops must leave alone."""
    rows = single(raw, precision).reshape(len(raw), -1)
    assert not rows[:, cols:].any()
    return rows[:, :cols]


#        tokens heads dim pages layers
SHAPES = [
    (1, 1, 8, 0, 1),
    (5, 2, 16, 3, 2),
    (7, 3, 24, 1, 1),
    (33, 16, 64, 31, 2),
    (3, 1, 256, 32, 1),
    (4, 128, 8, 5, 3),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_time_attention(shape, device, rng):
    tokens, heads, dim, count, layers = shape
    ops = _testing.LatentOps(device)
    width, size = heads * dim, (layers, 2, tokens, heads * dim)
    qkv = rng.normal(size=(tokens, 3 * width)).astype(np.float32)
    angles = rng.uniform(-3, 3, (1 + count, dim // 2)).astype(np.float32)
    angles[0] = 0
    pages = [reference.operand(2 * rng.normal(size=size), ops.precision) for _ in range(count)]
    layer = layers - 1
    y, page = ops.time_attention(
        qkv, np.cos(angles), np.sin(angles), [stored(p, ops.precision) for p in pages],
        stored(np.full(size, 7.0), ops.precision), layer, heads,
    )  # fmt: skip
    seen = [(p[layer, 0], p[layer, 1]) for p in pages]
    want = reference.time_attention(qkv, np.cos(angles), np.sin(angles), heads, seen)
    assert relative_error(dense(y, width, ops.precision), want) <= TOLERANCE[ops.precision].norm

    kept = single(page, ops.precision).reshape(size)
    own = reference.operand(qkv[:, width:], ops.precision).reshape(tokens, 2, width)
    assert np.array_equal(kept[layer], own.transpose(1, 0, 2))
    assert (kept[:layer] == 7).all()


def test_time_attention_for_a_page_alone_and_without_one(device, rng):
    ops = _testing.LatentOps(device)
    qkv = rng.normal(size=(3, 48)).astype(np.float32)
    ones, page = np.ones((1, 4), np.float32), stored(np.zeros(96), ops.precision)
    y, filled = ops.time_attention(qkv, ones, 0 * ones, [], page, 0, 2, only_page=True)
    assert not y.any() and single(filled, ops.precision).all()
    y, none = ops.time_attention(qkv, ones, 0 * ones, [], page[:0], 0, 2)
    assert len(none) == 0
    own = reference.operand(qkv[:, 32:], ops.precision)  # alone: its own value
    assert relative_error(dense(y, 16, ops.precision), own) <= TOLERANCE[ops.precision].norm


@pytest.mark.parametrize(("rows", "cols", "count"), [(1, 8, 1), (11, 100, 25), (65, 33, 320)])
def test_condition(rows, cols, count, device, rng):
    ops = _testing.LatentOps(device)
    base, weight = rng.normal(size=(rows, cols)), rng.normal(size=(count, cols)) / 8
    actions = rng.uniform(-1, 1, count)
    got = dense(ops.condition(base, weight, actions), cols, ops.precision)
    want = reference.condition(base, weight, actions)
    assert relative_error(got, want) <= TOLERANCE[ops.precision].norm


def test_frames_in_pages(device, rng):
    ops = _testing.LatentOps(device)
    x = rng.normal(size=(5, 12)).astype(np.float32)
    actions = rng.normal(size=3).astype(np.float32)
    page = rng.integers(0, 256, 300, np.uint8)
    saved = ops.save_frame(x, actions, page, 40)
    assert np.array_equal(saved[40:292], np.concatenate([x.ravel(), actions]).view(np.uint8))
    assert np.array_equal(saved[:40], page[:40]) and np.array_equal(saved[292:], page[292:])
    rows, values = ops.load_frame(saved, 40, 5, 12, 3)
    assert np.array_equal(dense(rows, 12), x)
    assert np.array_equal(values.view(np.float32), actions)


@pytest.mark.parametrize("shape", [(2, 2, 1, 2), (6, 10, 3, 2), (4, 8, 16, 4), (3, 5, 7, 1)])
def test_squares(shape, device, rng):
    height, width, channels, patch = shape
    ops = _testing.LatentOps(device)
    grid = rng.normal(size=(height * width, channels)).astype(np.float32)
    tokens = dense(ops.group(grid, height, width, patch), channels * patch**2)
    assert np.array_equal(tokens, reference.group(grid, height, width, patch))
    back = dense(ops.ungroup(tokens, height, width, patch), channels, ops.precision)
    assert np.array_equal(back, reference.operand(grid, ops.precision))
