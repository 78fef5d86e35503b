# SPDX-License-Identifier: Apache-2.0
"""Every op of csrc/backend.h against its reference, on every device."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import cases
import reference
import rtfm_rt
from cases import Attend, assert_close
from emulated import CPU_NAMES


def identical(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return all(identical(x, y) for x, y in zip(a, b, strict=True))
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def precision(testing: ModuleType, device: str) -> str:
    return testing.Device(device, threads=1).precision


def run(testing: ModuleType, device: str, op: str, *args: Any, **kwargs: Any) -> Any:
    """The op's result, the same to the bit again and with any number of threads."""
    one = testing.Device(device, threads=1)
    got = getattr(one, op)(*args, **kwargs)
    assert identical(got, getattr(one, op)(*args, **kwargs)), "not repeatable"
    for threads in 2, 3:
        other = testing.Device(device, threads=threads)
        assert identical(got, getattr(other, op)(*args, **kwargs)), f"{threads} threads differ"
    return got


# ---- Against the reference.


@pytest.mark.parametrize("epilogue", cases.EPILOGUES)
@pytest.mark.parametrize("case", cases.MATMULS, ids=cases.name)
def test_matmul(testing, device, case, epilogue, rng):
    arguments = cases.matmul(case, epilogue, rng)
    got = run(testing, device, "matmul", **arguments)
    dtype = precision(testing, device)
    want = reference.matmul(**arguments, precision=dtype)
    assert_close(got, want, dtype if epilogue == "gelu" else "float32")


@pytest.mark.skipif("auto" in CPU_NAMES, reason="for a GPU")
@pytest.mark.parametrize("epilogue", cases.EPILOGUES)
@pytest.mark.parametrize("case", cases.LARGE_MATMULS, ids=cases.name)
def test_large_tiles(testing, case, epilogue, rng):
    """The tiles that smaller products leave alone on a GPU, in one piece and in several."""
    for dtype in "bfloat16", "float8":
        arguments = cases.matmul(case, epilogue, rng)
        got = testing.Device("cuda", dtype).matmul(**arguments)
        want = reference.matmul(**arguments, precision=dtype)
        assert_close(got, want, "bfloat16" if epilogue == "gelu" else "tensor")


@pytest.mark.parametrize("epilogue", cases.EPILOGUES)
@pytest.mark.parametrize("case", cases.MATMULS, ids=cases.name)
def test_narrow_weights_change_nothing(testing, device, case, epilogue, rng):
    """Weights that bfloat16 holds exactly give the same to the bit where they are kept so."""
    arguments = cases.matmul(case, epilogue, rng)
    arguments["w"] = reference.operand(arguments["w"], "bfloat16").astype(np.float32)
    want = testing.Device(device, threads=1).matmul(**arguments)
    assert identical(run(testing, device, "matmul", **arguments, narrow=True), want)


def test_gelu_saturates(testing, device):
    """Far out, gelu is 0 or x, on no account NaN."""
    x = np.array([[-1e20, -1e4, -20, -0.0, 0, 20, 1e4, 1e20, 3e38]], np.float32).T
    got = testing.Device(device, threads=1).matmul(x, np.ones((1, 1), np.float32), epilogue="gelu")
    want = reference.operand(np.maximum(x, 0), precision(testing, device))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("case", cases.NORMS, ids=cases.name)
def test_norm_modulate(testing, device, case, rng):
    arguments = cases.norm_modulate(case, rng)
    got = run(testing, device, "norm_modulate", **arguments)
    assert_close(got, reference.norm_modulate(**arguments), precision(testing, device))


@pytest.mark.parametrize("case", cases.ATTENDS, ids=cases.name)
def test_attend(testing, device, case, rng):
    arguments = cases.attend(case, rng)
    got = run(testing, device, "attend", **arguments)
    dtype = precision(testing, device)
    want = reference.attend(**arguments, precision=dtype)
    assert_close(got[0], want[0], "far" if case.metres > 1 and dtype == "float32" else dtype)
    assert_close(got[1], want[1], dtype)
    assert identical(got[2], want[2].astype(np.float32))  # values are only stored


@pytest.mark.parametrize("case", cases.SAMPLERS, ids=cases.name)
@pytest.mark.parametrize("row", [(0.5, 0.5, 0.0), (0.0, 0.0, 1.0), (0.3, -0.8, 1.7)], ids=str)
def test_sampler(testing, device, case, row, rng):
    x, x0 = cases.normal(rng, *case), cases.normal(rng, *case)
    key = dict(zip("abc", row, strict=True), seed=2**63 + 5, frame=2**40 + 3, step=2)
    got, copy = run(testing, device, "sampler", x, x0, **key)
    assert_close(got, reference.sampler(x, x0, **key), "float32")
    stored = reference.operand(got, precision(testing, device))
    assert np.array_equal(copy, stored)


@pytest.mark.parametrize("case", cases.PATCHES, ids=cases.name)
def test_patches(testing, device, case, rng):
    height, width, patch = case
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    got = run(testing, device, "patchify", image, patch)
    dtype = precision(testing, device)
    assert_close(got, reference.operand(reference.patchify(image, patch), dtype), "float32")
    assert identical(run(testing, device, "unpatchify", got, *case), image)

    tokens = cases.normal(rng, *got.shape, scale=1.2)
    pixels = run(testing, device, "unpatchify", tokens, *case)
    assert np.abs(pixels - reference.unpatchify(tokens, *case)).max() <= 0.5 + 1e-4


def test_unpatchify_takes_anything(testing, device):
    """Ties go to even, what is outside of [-1, 1] to its ends, and NaN to black."""
    pixels = np.array([0.5, 1.5, 2.5, -7, 300, 255, np.inf, -np.inf, np.nan, 127.5, 254.5, 0])
    tokens = (pixels / 127.5 - 1).astype(np.float32).reshape(1, 12)
    tokens[0, :3] = -1 + np.array([0.5, 1.5, 2.5]) / 127.5
    image = testing.Device(device).unpatchify(tokens, 2, 2, 2).reshape(-1)
    assert image.tolist()[3:] == [0, 255, 255, 255, 0, 0, 128, 254, 0]


# ---- What must not leak.


@pytest.mark.parametrize("epilogue", cases.EPILOGUES)
@pytest.mark.parametrize("case", [(33, 31, 33), (64, 48, 100)], ids=cases.name)
@pytest.mark.parametrize("poison", [np.nan, np.inf, 3e38])
def test_rows_of_a_matmul_are_apart(testing, device, case, epilogue, poison, rng):
    arguments = cases.matmul(case, epilogue, rng)
    one = testing.Device(device, threads=1)
    clean = one.matmul(**arguments)
    for row in 0, 17, case[0] - 1:
        x = arguments["x"].copy()
        x[row] = poison
        others = np.arange(len(x)) != row
        assert identical(one.matmul(**{**arguments, "x": x})[others], clean[others])


@pytest.mark.parametrize("case", [Attend(33, 3, 24, 1), Attend(60, 2, 40, 2)], ids=cases.name)
def test_queries_and_heads_are_apart(testing, device, case, rng):
    arguments = cases.attend(case, rng)
    one = testing.Device(device, threads=1)
    clean = one.attend(**arguments)[0].reshape(case.tokens, case.heads, case.dim)
    for part, head, token in itertools.product(range(3), range(case.heads), (0, case.tokens - 1)):
        poisoned = arguments["qkv"].copy().reshape(case.tokens, 3, case.heads, case.dim)
        poisoned[token, part, head, 5] = np.nan
        y = one.attend(**{**arguments, "qkv": poisoned.reshape(case.tokens, -1)})[0]
        y = y.reshape(clean.shape)
        others = np.arange(case.heads) != head
        assert identical(y[:, others], clean[:, others])
        if part == 0:  # a query is read by its own token only
            rest = np.arange(case.tokens) != token
            assert identical(y[rest], clean[rest])


@pytest.mark.parametrize("tokens", [1, 6, 31, 33, 60, 64, 77, 129])
@pytest.mark.parametrize("dim", [8, 40, 64])
def test_padding_is_no_key(testing, device, tokens, dim, rng):
    """All true scores are about -20: a padded key, which scores 0, would take the whole weight."""
    heads, row = 2, np.tile(rng.standard_normal(dim), 4)
    v = cases.normal(rng, tokens, heads * dim)
    k = np.tile(-row[: heads * dim], (tokens, 1))
    gain = np.full(dim, (20 / dim**0.5) ** 0.5, np.float32)
    page = np.tile((-row[:dim] / np.sqrt(np.mean(row**2))) * gain, (heads, tokens, 1))
    arguments = {
        "qkv": np.concatenate([-k, k, v], axis=1).astype(np.float32),
        "q_gain": gain,
        "k_gain": gain,
        "cos": np.ones((tokens, dim // 4), np.float32),
        "sin": np.zeros((tokens, dim // 4), np.float32),
        "heads": heads,
        "eps": 1e-6,
        "pages": [(page, cases.normal(rng, heads, tokens, dim), np.eye(4))] * 2,
    }
    got = testing.Device(device, threads=1).attend(**arguments)[0]
    dtype = precision(testing, device)
    assert_close(got, reference.attend(**arguments, precision=dtype)[0], dtype)


@pytest.mark.parametrize("gain", [0.0, 1e3, 1e5])
def test_scores_of_any_size(testing, device, gain, rng):
    """No scores at all (the mean of the values), and scores of ±1e11 (one value)."""
    case = Attend(60, 2, 24, 0)
    arguments = cases.attend(case, rng)
    arguments["q_gain"] = arguments["k_gain"] = np.full(case.dim, gain, np.float32)
    got = testing.Device(device, threads=1).attend(**arguments)[0]
    dtype = precision(testing, device)
    want = reference.attend(**arguments, precision=dtype)[0]
    assert_close(got, want, "far" if gain > 0 and dtype == "float32" else dtype)


# ---- Noise.


def noise(testing: ModuleType, device: str, seed: int, frame: int, step: int, n: int) -> Any:
    zero = np.zeros((n // 1024, 1024), np.float32)
    key = {"seed": seed, "frame": frame, "step": step}
    return testing.Device(device).sampler(zero, zero, a=0, b=0, c=1, **key)[0].reshape(-1)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000" * 4, "00000000" * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff" * 4, "ffffffff" * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a8885a308d313198a2e03707344",
            "a4093822299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_reference_is_philox(counter, key, words):
    """The known answers of the authors' own distribution (Random123)."""
    counter, key = (np.frombuffer(bytes.fromhex(text), ">u4").tolist() for text in (counter, key))
    assert " ".join(f"{word:08x}" for word in reference.philox(counter, tuple(key))) == words


KEYS = [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 2**32, 0), (0, 0, 1)]
KEYS += [(2**64 - 1, 2**63 - 1, 2**32 - 1)]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_noise_is_the_same_everywhere(testing, device, key):
    got = noise(testing, device, *key, 2**16)
    want = reference.normal(*key, 2**16)
    assert np.abs(got - want).max() <= cases.NOISE_TOLERANCE


def test_noise_is_normal(testing, device):
    n = 2**20
    x = noise(testing, device, 7, 11, 1, n).astype(np.float64)
    for power, mean, variance in (1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96):
        assert abs(np.mean(x**power) - mean) < 5 * (variance / n) ** 0.5, power
    for limit, share in (1, 0.3173105), (2, 0.0455003), (3, 0.0026998), (4, 6.334e-5):
        assert abs(np.mean(np.abs(x) > limit) - share) < 5 * (share / n) ** 0.5, limit
    assert 4.5 < np.abs(x).max() < 6
    for lag in 1, 2, 3, 4, 1024:
        assert abs(np.mean(x[lag:] * x[:-lag])) < 5 / n**0.5, lag


def test_noise_differs_by_key(testing, device):
    n = 2**16
    draws = [noise(testing, device, *key, n) for key in KEYS]
    for a, b in itertools.combinations(draws, 2):
        assert abs(np.mean(a * b)) < 5 / n**0.5


# ---- Devices.


def test_names(testing, device):
    backend = testing.Device(device)
    assert backend.name == ("cuda:0" if device == "cuda" else device)
    dtype = backend.precision
    assert dtype == ("bfloat16" if cases.rounds(device) else "float32")
    assert testing.Device(device, dtype).name == backend.name


def test_the_best_tier_is_taken(testing):
    best = testing.tiers()[0]
    for name in CPU_NAMES:
        assert testing.Device(name).name == f"cpu:{best}"
        exact = (t for t in testing.tiers() if t not in (*cases.BFLOAT16, *cases.INT8))
        assert testing.Device(name, "float32").name == f"cpu:{next(exact)}"
    assert [tier for tier in testing.tiers() if tier not in cases.INT8][-1] == "portable"


@pytest.mark.parametrize("threads", [0, 1, 2, 256])
def test_threads(testing, device, threads):
    x, w = np.ones((3, 5), np.float32), np.ones((7, 5), np.float32)
    assert np.all(testing.Device(device, threads=threads).matmul(x, w) == 5)


@pytest.mark.parametrize("threads", [-1, 257])
def test_refuses_threads(testing, threads):
    with pytest.raises(rtfm_rt.DeviceError, match=f"expected 1 to 256, or 0 .* got {threads}"):
        testing.Device("cpu", threads=threads)


@pytest.mark.parametrize(
    "name", ["", "gpu", "cpu:", "cpu:sse2", "cpu:AVX2", "CPU", "auto:1", "cpu "]
)
def test_refuses_devices(testing, name):
    with pytest.raises(rtfm_rt.DeviceError, match=f"{name}'"):
        testing.Device(name)


@pytest.mark.parametrize("name", ["", "float16", "fp32", "Float32"])
def test_refuses_precisions(testing, name):
    with pytest.raises(rtfm_rt.DeviceError, match=f"float8 or int8, got '{name}'"):
        testing.Device("cpu", name)


@pytest.mark.parametrize("name", ["cpu:portable", "cpu:avx2", "cpu:avx512"])
def test_refuses_bfloat16_of_other_tiers(testing, name):
    with pytest.raises(
        rtfm_rt.DeviceError, match="bfloat16 is what amx and avx512_bf16 compute in"
    ):
        testing.Device(name, "bfloat16")


@pytest.mark.parametrize("other", ["SIGILL", "SIGTRAP"])
def test_emulator_leaves_other_signals_alone(testing, other):
    """What is none of AMX still ends the process, and an illegal instruction is reported."""
    if "amx" not in testing.tiers():
        pytest.skip("no amx tier here")
    script = (
        "import os, signal, numpy as np; from rtfm_rt import _testing\n"
        "one = np.ones((2, 2), np.float32)\n"
        "print(_testing.Device('cpu:amx', threads=2).matmul(one, one).tolist(), flush=True)\n"
        f"os.kill(os.getpid(), signal.{other})\n"
    )
    command = [sys.executable, "-X", "faulthandler", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.Signals[other]
    assert done.stdout.strip() == "[[2.0, 2.0], [2.0, 2.0]]"
    assert ("Illegal instruction" in done.stderr) == (other == "SIGILL")
