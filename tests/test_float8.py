# SPDX-License-Identifier: Apache-2.0
"""Precision float8: weights and what meets them in e4m3, on the emulated device or on --device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cases
import reference
import rtfm_rt
from emulated import CPU_NAMES, Session
from models import turn


def codes(x: np.ndarray) -> np.ndarray:
    """PyTorch's e4m3 of values up to 448 in size."""
    return torch.from_numpy(x).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def test_rounding(testing, rng):
    """To nearest even as PyTorch does it, normal or not; it saturates, and keeps signs and NaN."""
    exact = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    ties = (exact[1:] + exact[:-1]) / 2
    near = [np.nextafter(ties, np.float32(way)) for way in (0, 1000)]
    some = np.exp2(rng.uniform(-12, 8.8, 10_000)).astype(np.float32)
    x = np.concatenate([exact, ties, *near, some])
    x = np.concatenate([x, -x])
    assert np.array_equal(testing.to_e4m3(x), codes(x))
    far = np.array([449, 463, 465, 1e9, np.inf, -465, -np.inf, np.nan], np.float32)
    assert testing.to_e4m3(far).tolist() == [126] * 5 + [254] * 2 + [127]


@pytest.mark.parametrize("epilogue", cases.EPILOGUES)
@pytest.mark.parametrize("case", cases.MATMULS, ids=cases.name)
def test_matmul(testing, float8, case, epilogue, rng):
    arguments = cases.matmul(case, epilogue, rng)
    device = testing.Device(float8, "float8")
    got = device.matmul(**arguments)
    assert np.array_equal(got, device.matmul(**arguments)), "not repeatable"
    want = reference.matmul(**arguments, precision="float8")
    exact = "float32" if float8 == "cuda:emulated" else "tensor"
    cases.assert_close(got, want, "bfloat16" if epilogue == "gelu" else exact)


@pytest.mark.parametrize(
    "case", [(64, 1280, 1280), (64, 512, 5120), (64, 192, 256)], ids=cases.name
)
def test_larger_layers(testing, float8, case, rng):
    """What the rounding alone costs; more than bfloat16, less than tensor-wide scales would."""
    arguments = cases.matmul(case, "store", rng) | {"bias": None}
    got = testing.Device(float8, "float8").matmul(**arguments)
    want = reference.matmul(**arguments)
    cases.assert_close(got, want, "float8")
    assert cases.errors(got, want).norm > 0.03


def test_scales(testing, float8, rng):
    """Every row of x and every output channel has a scale of its own: powers of two are exact."""
    arguments = cases.matmul((33, 70, 200), "store", rng) | {"bias": None}
    device = testing.Device(float8, "float8")
    plain = device.matmul(**arguments)
    a, b = (2.0 ** rng.integers(-20, 20, (m, 1)) for m in (33, 70))
    scaled = device.matmul(arguments["x"] * a, arguments["w"] * b)
    assert np.array_equal(scaled, plain * (a * b.T))


def test_rows_without_a_scale(testing, float8):
    """Nothing is divided by zero, and what the smallest scale cannot hold is not wrapped around."""
    device = testing.Device(float8, "float8")
    x = np.array([[1, 1, 1], [0, 0, 0], [2, 0, -1]], np.float32)
    w = np.array([[0, 0, 0], [1e-44, 0, 0], [9.3e-43, 0, 0], [1, 1, 1]], np.float32)
    y = device.matmul(x, w)
    np.testing.assert_allclose(y[:, 3], [3, 0, 1], rtol=1e-6)
    assert not y[:, :2].any() and not y[1].any()
    assert (y[[0, 2], 2] > 5e-43).all() and (y[:, 2] < 2e-42).all()


def test_session(model, picture, float8):
    """Recorded and replayed; another branch makes the same frames."""
    session = Session(model[0], device=float8, precision="float8", commit_below=2.0, seed=1)
    assert session.precision == "float8"
    other = Session(model[0], device=float8, precision="bfloat16", commit_below=2.0, seed=1)
    for one in session, other:
        one.observe(picture, turn(0))
        one.step(turn(9))
    branch, poses = session.fork(), [turn(20 + i) for i in range(3)]
    walk, again, wide = ([np.array(one.step(p)) for p in poses] for one in (session, branch, other))
    assert np.array_equal(walk, again) and not np.array_equal(walk, wide)


def test_auto_is_bfloat16(testing, float8):
    assert testing.Device(float8).precision == "bfloat16"
    assert testing.Device(float8, "float8").precision == "float8"


# ---- Refusals.


def test_refuses_float8_on_an_old_gpu(testing):
    emulation = testing.cuda_emulation()
    emulation.fp8 = False
    try:
        with pytest.raises(rtfm_rt.DeviceError, match=r"auto or bfloat16 .* 8\.9 .* got float8"):
            testing.Device("cuda:emulated", "float8")
        assert testing.Device("cuda:emulated").precision == "bfloat16"
    finally:
        emulation.fp8 = True


def test_refuses_float8_on_a_cpu(testing):
    for name in [*(f"cpu:{tier}" for tier in testing.tiers()), *CPU_NAMES]:
        with pytest.raises(rtfm_rt.DeviceError, match=r"with float8; this CPU .* wants a GPU"):
            testing.Device(name, "float8")
