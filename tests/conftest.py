# SPDX-License-Identifier: Apache-2.0
"""What every test may ask for: a device, the inside of the runtime, and its own random numbers."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Arrays here are small: threads of NumPy and PyTorch would wait for each other, most of the time
# on a busy machine. Read by both when they are imported, here and in the processes of tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

import cases
from cuda_package import cuda_package  # noqa: F401

with contextlib.suppress(ModuleNotFoundError):  # what serves pages, which a GPU machine lacks
    from arcade import door, page, site  # noqa: F401  (fixtures)
with contextlib.suppress(ModuleNotFoundError):  # PyTorch
    from native_worlds import by_poses, maker, world_models  # noqa: F401

INSTALL = "pip install '.[test]' --config-settings=cmake.define.RTFM_TESTING=ON"
BUILT = importlib.util.find_spec("rtfm_rt._testing") is not None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        help="cpu (default): every CPU tier that runs here, amx in software where the CPU lacks or "
        "hides it, and cuda:emulated; or one device such as cpu:avx2 or cuda",
    )
    parser.addoption("--cublas", help="the path of a libcublasLt.so.13 for --device cuda")
    parser.addoption("--kills", type=int, default=20, help="how often a saving process is killed")
    parser.addoption("--flips", type=int, default=300, help="how many single bits are flipped")
    parser.addoption("--crashes", type=int, default=3, help="crashes after each disk operation")
    parser.addoption(
        "--screenshots", metavar="FOLDER", help="keep what the browser test photographs there"
    )


def pytest_report_header(config: pytest.Config) -> str:
    if not BUILT:
        return f"rtfm_rt._testing is missing, most tests need it: {INSTALL}"
    return "devices: " + ", ".join(devices(config.getoption("--device")))


def devices(name: str) -> list[str]:
    if name != "cpu" or not BUILT:
        return [name]
    from rtfm_rt import _testing

    exact = [tier for tier in _testing.tiers() if tier not in cases.INT8]
    return [f"cpu:{tier}" for tier in exact] + ["cuda:emulated"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        names = devices(metafunc.config.getoption("--device"))
        metafunc.parametrize("device", names, indirect=True)
    if "tier" in metafunc.fixturenames:  # of the CPU, whose steps allocate nothing
        names = devices(metafunc.config.getoption("--device"))
        metafunc.parametrize("tier", [name for name in names if name.startswith("cpu")])


@pytest.fixture(scope="session")
def testing(request: pytest.FixtureRequest) -> ModuleType:
    """The module rtfm_rt._testing."""
    if not BUILT:
        pytest.fail(f"rtfm_rt._testing is missing; install it with: {INSTALL}", pytrace=False)
    from rtfm_rt import _testing

    _testing.cuda_emulation().cublas = request.config.getoption("--cublas") or ""
    return _testing


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest, testing: ModuleType) -> str:
    """The name of a device that runs here, once for each of them."""
    import rtfm_rt

    name: str = request.param
    try:
        made = testing.Device(name, threads=1)
        if name.startswith("cuda") and request.config.getoption("--cublas"):
            assert made.cublas.startswith("cuBLASLt"), made.cublas
    except rtfm_rt.DeviceError as error:
        if name == "cuda":
            pytest.skip(str(error))
        raise
    return name


@pytest.fixture(scope="session")
def float8(request: pytest.FixtureRequest, testing: ModuleType) -> str:
    """The name of a device that computes in float8: the emulated one, unless --device names one."""
    import rtfm_rt

    name = devices(request.config.getoption("--device"))[-1]
    try:
        testing.Device(name, "float8")
    except rtfm_rt.DeviceError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture(scope="session")
def open_session(request: pytest.FixtureRequest, device: str) -> Callable[..., Any]:
    """rtfm_rt.Session on `device`, or what stands for it where the shipped module lacks the device.

    open_session(path, *, seed=0, threads=None, memory_budget=None, commit_below=None)
    """
    import rtfm_rt

    if device == "cuda:emulated":
        from emulated import Session

        return functools.partial(Session, device=device)
    if device == "cpu:amx":
        try:
            rtfm_rt.Model("rooms", device=device)
        except rtfm_rt.DeviceError as error:
            pytest.skip(str(error))
    if device.startswith("cuda"):
        library = request.config.getoption("--cublas") or ""
        return lambda path, **options: rtfm_rt.Session(
            rtfm_rt.Model(path, device, cublas=library), **options
        )
    return functools.partial(rtfm_rt.Session, device=device)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name only."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A tiny model file with random weights, and its PyTorch reference."""
    from models import TINY, write_model

    path = tmp_path_factory.mktemp("session") / "tiny.safetensors"
    return str(path), write_model(path, TINY, 3)


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """A picture of the tiny model's size: noise."""
    from models import TINY

    shape = (TINY.height, TINY.image_width, 3)
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


@pytest.fixture
def session(model: tuple[str, Any], picture: np.ndarray) -> Any:
    """A session of the tiny model that has observed the picture from the origin."""
    import rtfm_rt

    made = rtfm_rt.Session(model[0], device="cpu", threads=2, seed=11)
    made.observe(picture, np.eye(4))
    return made
