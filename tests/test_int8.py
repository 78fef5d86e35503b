# SPDX-License-Identifier: Apache-2.0
"""Precision int8: weights and what meets them in eight bits, on CPUs with AMX, VNNI or SDOT."""

from __future__ import annotations

import math
import re
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import ArrayLike

import cases
import reference
import rtfm_rt
from emulated import Session
from models import turn


def device_of(testing: ModuleType, tier: str) -> str:
    if tier not in testing.tiers():
        pytest.skip(f"no tier {tier} here")
    return f"cpu:{tier}"


@pytest.fixture(scope="module", params=cases.INT8)
def int8(request, testing) -> str:
    return device_of(testing, request.param)


@pytest.fixture(scope="module", params=["vnni", "avx_vnni"])
def vnni(request, testing) -> str:
    """A device whose attention is in int8 as well."""
    return device_of(testing, request.param)


def stored(x: ArrayLike, device: str) -> reference.Floats:
    """x as an operand of the device."""
    return reference.operand(x, "bfloat16" if device == "cpu:amx_int8" else "float32")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("epilogue", cases.EPILOGUES)
@pytest.mark.parametrize("case", cases.MATMULS, ids=cases.name)
def test_matmul(testing, int8, case, epilogue, threads, rng):
    """Beside the same roundings: sums are exact, so that only a tie can fall otherwise."""
    arguments = cases.matmul(case, epilogue, rng)
    arguments["x"] = stored(arguments["x"], int8)
    device = testing.Device(int8, threads=threads)
    got = device.matmul(**arguments)
    assert np.array_equal(got, device.matmul(**arguments)), "not repeatable"
    want = reference.matmul(**arguments, precision="int8")
    cases.assert_close(got, stored(want, int8) if epilogue == "gelu" else want, "tensor")


@pytest.mark.parametrize("epilogue", ["gelu_erf", "signed_sigmoid", "ungated"])
def test_other_epilogues(testing, int8, epilogue, rng):
    x, w = stored(cases.normal(rng, 33, 70), int8), cases.normal(rng, 40, 70, scale=0.12)
    y0 = cases.normal(rng, 33, 40)
    r = reference.matmul(x, w, precision="int8")
    want = {
        "gelu_erf": stored(r / 2 * (1 + np.vectorize(math.erf)(r / 2**0.5)), int8),
        "signed_sigmoid": np.tanh(r / 2),
        "ungated": y0 + r,
    }
    cases.assert_close(testing.epilogue(int8, epilogue, x, w, y0), want[epilogue], "tensor")


@pytest.mark.parametrize("poison", [np.nan, np.inf, 3e38])
def test_rows_are_apart(testing, int8, poison, rng):
    arguments = cases.matmul((33, 31, 70), "store", rng)
    device = testing.Device(int8)
    clean = device.matmul(**arguments)
    for row in 0, 17, 32:
        x = arguments["x"].copy()
        x[row] = poison
        others = np.arange(len(x)) != row
        assert np.array_equal(device.matmul(**arguments | {"x": x})[others], clean[others])


@pytest.mark.parametrize("case", [(64, 1280, 1280), (64, 512, 5120)], ids=cases.name)
def test_larger_layers(testing, int8, case, rng):
    """What the rounding alone costs."""
    arguments = cases.matmul(case, "store", rng) | {"bias": None}
    arguments["x"] = stored(arguments["x"], int8)
    error = cases.errors(testing.Device(int8).matmul(**arguments), reference.matmul(**arguments))
    assert 0.005 < error.norm < 0.015


def test_scales(testing, int8, rng):
    """Every row of x and every output channel has a scale of its own: powers of two are exact."""
    arguments = cases.matmul((33, 70, 200), "store", rng) | {"bias": None}
    device = testing.Device(int8)
    plain = device.matmul(**arguments)
    a, b = (2.0 ** rng.integers(-20, 20, (m, 1)) for m in (33, 70))
    scaled = device.matmul(arguments["x"] * a, arguments["w"] * b)
    np.testing.assert_allclose(scaled, plain * (a * b.T), rtol=1e-5)


@pytest.mark.parametrize("weight", [2, -2])
def test_extremes(testing, int8, weight):
    """The largest sums do not overflow; rows and channels of zeros have no scale."""
    k = 65536
    x, w = np.full((2, k), 3, np.float32), np.full((2, k), weight, np.float32)
    x[1], w[1] = 0, 0
    y = testing.Device(int8).matmul(x, w)
    np.testing.assert_allclose(y, [[3 * weight * k, 0], [0, 0]], rtol=1e-5)


def test_tiers_agree(testing, rng):
    """Sums are exact and scaled alike: to the bit, where x is exact in bfloat16."""
    arguments = cases.matmul((33, 70, 1000), "store", rng)
    arguments["x"] = stored(arguments["x"], "cpu:amx_int8")
    tiers = [tier for tier in testing.tiers() if tier in cases.INT8]
    if len(tiers) < 2:
        pytest.skip("no two tiers in int8 here")
    one, *others = (testing.Device(f"cpu:{tier}").matmul(**arguments) for tier in tiers)
    for other in others:
        assert np.array_equal(one, other)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", [c for c in cases.ATTENDS if c.metres == 1], ids=cases.name)
def test_attend(testing, vnni, case, threads, rng):
    """Beside the same roundings of queries, keys and values; what is remembered stays float32."""
    arguments = cases.attend(case, rng)
    device = testing.Device(vnni, threads=threads)
    y, k, v = device.attend(**arguments)
    assert np.array_equal(y, device.attend(**arguments)[0]), "not repeatable"
    want = reference.attend(**arguments, precision="int8")
    cases.assert_close(y, want[0], "tensor")
    for got, exact in zip((k, v), want[1:], strict=True):
        cases.assert_close(got, exact, "float32")


@pytest.mark.parametrize("case", [cases.Attend(300, 2, 64, 4), cases.Attend(256, 2, 128, 2)])
def test_what_attention_costs(testing, vnni, case, rng):
    arguments = cases.attend(case, rng)
    y = testing.Device(vnni).attend(**arguments)[0]
    assert 0.005 < cases.errors(y, reference.attend(**arguments)[0]).norm < 0.025


@pytest.mark.parametrize("gain", [0.0, 1e3, 1e5])
def test_scores_of_any_size(testing, vnni, gain, rng):
    """No scores at all (the mean of the values), and scores of ±1e11 (one value)."""
    case = cases.Attend(60, 2, 24, 0)
    arguments = cases.attend(case, rng)
    arguments["q_gain"] = arguments["k_gain"] = np.full(case.dim, gain, np.float32)
    y = testing.Device(vnni).attend(**arguments)[0]
    cases.assert_close(y, reference.attend(**arguments, precision="int8")[0], "tensor")


def test_many_faint_keys_beside_a_strong_one(testing, vnni):
    """They make a third of the result together, each with 1/1000 of the strong one's weight."""
    tokens, dim = 512, 8
    k = np.full((tokens, dim), -1, np.float32)
    k[100] = 1
    gain = np.full(dim, (np.log(1000) / 2 / dim**0.5) ** 0.5, np.float32)
    v = np.ones((tokens, dim), np.float32)
    v[100] = -2
    arguments = {
        "qkv": np.concatenate([np.ones((tokens, dim)), k, v], axis=1).astype(np.float32),
        "q_gain": gain,
        "k_gain": gain,
        "cos": np.ones((tokens, dim // 4), np.float32),
        "sin": np.zeros((tokens, dim // 4), np.float32),
        "heads": 1,
        "eps": 1e-6,
        "pages": [],
    }
    want = reference.attend(**arguments)[0]
    assert -1.1 < want[0, 0] < -0.9
    np.testing.assert_allclose(testing.Device(vnni).attend(**arguments)[0], want, atol=0.02)


@pytest.mark.parametrize("case", [cases.Attend(33, 4, 40, 2), cases.Attend(64, 1, 256, 9)])
@pytest.mark.parametrize("name", ["amx_int8", "sdot"])
def test_others_attend_as_without_int8(testing, name, case, rng):
    arguments = cases.attend(case, rng)
    got = testing.Device(device_of(testing, name)).attend(**arguments)
    exact = testing.Device(f"cpu:{cases.INT8[name]}").attend(**arguments)
    for one, other in zip(got, exact, strict=True):
        assert np.array_equal(one, other)


def test_session(model, picture, int8):
    """Other frames than in float32, though not very; a branch makes the same."""
    options = {"commit_below": 2.0, "seed": 1, "threads": 2}
    session = Session(model[0], device=int8, **options)
    assert session.precision == "int8"
    other = Session(model[0], device="cpu:portable", **options)
    for one in session, other:
        one.observe(picture, turn(0))
        one.step(turn(9))
    branch, poses = session.fork(), [turn(20 + i) for i in range(3)]
    walk, again, exact = (
        [np.array(one.step(p)) for p in poses] for one in (session, branch, other)
    )
    assert np.array_equal(walk, again)
    difference = np.abs(np.subtract(walk, exact, dtype=float))
    assert 0 < difference.mean() < 4


def test_only_when_asked_for(testing):
    assert testing.Device("cpu").precision != "int8"
    assert testing.Device("auto").precision != "int8"


def test_one_can_be_forced(testing, int8):
    forced = testing.Device(int8)
    assert (forced.name, forced.precision) == (int8, "int8")
    first = next(tier for tier in testing.tiers() if tier in cases.INT8)
    assert testing.Device("cpu", "int8").name == f"cpu:{first}"


@pytest.mark.parametrize("name", cases.INT8)
def test_shipped(model, name):
    """A tier that the CPU has, or what it lacks; nothing that is emulated."""
    try:
        session = rtfm_rt.Session(model[0], device=f"cpu:{name}", precision="int8")
    except rtfm_rt.DeviceError as error:
        assert re.search(f"no tier '{name}' .* want .* AVX-VNNI and, on aarch64, SDOT", str(error))
    else:
        assert (session.precision, session.device) == ("int8", f"cpu:{name}")


def test_refuses_other_tiers(testing):
    for name in [f"cpu:{tier}" for tier in testing.tiers() if tier not in cases.INT8]:
        with pytest.raises(rtfm_rt.DeviceError, match=r"with int8; this CPU .* avx_vnni and sdot"):
            testing.Device(name, "int8")
    with pytest.raises(rtfm_rt.DeviceError, match="got int8"):
        testing.Device("cuda:emulated", "int8")
