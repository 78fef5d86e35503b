# SPDX-License-Identifier: Apache-2.0
"""The exporter, and the PyTorch reference that it and the parity tests stand on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import rtfm_rt
from rtfm_rt import convert as exporter
from rtfm_rt import reference
from rtfm_rt.reference import Config, FrameDiT, View

BUNDLED = Path(rtfm_rt.__file__).parent / "models" / "rooms.safetensors"
METADATA = {"image": "16", "patch": "4", "width": "32", "layers": "2", "heads": "2", "trainer": "x"}
CONFIG = Config(height=16, image_width=16, patch=4, width=32, layers=2, heads=2, mlp=40)


def checkpoint() -> dict[str, torch.Tensor]:
    """A trainer's tensors with random numbers everywhere."""
    names = dict(exporter.NAMES)
    for block in range(CONFIG.layers):
        for theirs, ours in exporter.BLOCK_NAMES.items():
            names[f"blocks.{block}.{theirs}"] = f"blocks.{block}.{ours}"
    shapes = {name: value.shape for name, value in FrameDiT(CONFIG).state_dict().items()}
    g = torch.Generator().manual_seed(0)
    return {
        theirs: torch.randn(shapes[ours], generator=g) / math.sqrt(shapes[ours][-1])
        for theirs, ours in names.items()
    }


def save(path: Path, tensors: dict, metadata: dict = METADATA) -> Path:
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def run(source: Path, out: Path, **options) -> dict:
    return exporter.convert(source, out, name="tiny", licence="CC0-1.0", **options)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_roundtrip(dtype, tmp_path):
    tensors = checkpoint()
    out = tmp_path / "model.safetensors"
    info = run(save(tmp_path / "trained.safetensors", tensors), out, dtype=dtype)
    assert info == rtfm_rt.read_info(str(out))
    manifest = info["manifest"]
    assert (manifest["name"], manifest["licence"], manifest["mlp"]) == ("tiny", "CC0-1.0", 40)
    assert manifest["source"]["file"] == "trained.safetensors"
    assert manifest["samplers"]["2"] == [[1.0, 0.5, 0.5, 0.0], [0.5, 0.0, 1.0, 0.0]]
    assert manifest["camera"]["fx"] == pytest.approx(0.6516127)

    model, _ = reference.load(str(out))
    big = getattr(torch, dtype)
    state = model.state_dict()
    assert torch.equal(state["blocks.1.qkv.weight"], tensors["blocks.1.qkv.weight"].to(big).float())
    assert torch.equal(state["time.2.weight"], tensors["t2.weight"])
    assert torch.equal(state["final.modulation"], tensors["fm"])
    assert torch.equal(state["blocks.0.q_gain"], tensors["blocks.0.qg"])
    assert list(tmp_path.glob(".*")) == []


def test_deterministic(tmp_path):
    source = save(tmp_path / "trained.safetensors", checkpoint())
    run(source, tmp_path / "a")
    run(source, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_keeps_the_trainer_s_samplers(tmp_path):
    rows = [[1.0, 0.0, 1.0, 0.0], [0.1, 0.0, 1.0, 0.0]]
    metadata = {**METADATA, "samplers": json.dumps({"2": rows})}
    source = save(tmp_path / "trained.safetensors", checkpoint(), metadata)
    samplers = run(source, tmp_path / "model.safetensors")["manifest"]["samplers"]
    assert samplers["2"] == rows and samplers["1"] == [[1.0, 0.0, 1.0, 0.0]]


def drop(tensors, metadata):
    del tensors["blocks.1.kg"]


def add(tensors, metadata):
    tensors["blocks.2.kg"] = torch.zeros(16)


def reshape(tensors, metadata):
    tensors["t1.bias"] = torch.zeros(33)


def poison(tensors, metadata):
    tensors["out.bias"][3] = math.nan


def integers(tensors, metadata):
    tensors["out.bias"] = tensors["out.bias"].int()


def no_heads(tensors, metadata):
    del metadata["heads"]


def odd_heads(tensors, metadata):
    metadata["heads"] = "3"


def huge(tensors, metadata):
    metadata["layers"] = "9" * 5000


def broken_samplers(tensors, metadata):
    metadata["samplers"] = "[[1, 0"


def short_sampler(tensors, metadata):
    metadata["samplers"] = '{"2": [[1, 0, 1, 0]]}'


def surprise(tensors, metadata):
    metadata["prediction"] = "velocity"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, "missing ['blocks.1.kg']"),
        (add, "unknown ['blocks.2.kg']"),
        (reshape, "t1.bias: expected shape [32], got [33]"),
        (poison, "out.bias: expected finite"),
        (integers, "out.bias: expected finite floating-point"),
        (no_heads, "metadata 'heads'"),
        (odd_heads, "head dim"),
        (huge, "metadata 'layers'"),
        (broken_samplers, "metadata 'samplers'"),
        (short_sampler, "2 rows"),
        (surprise, "metadata 'prediction'"),
    ],
)
def test_refuses(damage, message, tmp_path):
    tensors, metadata = checkpoint(), dict(METADATA)
    damage(tensors, metadata)
    out = tmp_path / "model.safetensors"
    out.write_bytes(b"the file before")
    with pytest.raises(rtfm_rt.ModelError) as caught:
        run(save(tmp_path / "trained.safetensors", tensors, metadata), out)
    assert message in str(caught.value)
    assert out.read_bytes() == b"the file before"


@pytest.mark.parametrize("new_format", [True, False])
def test_refuses_pickles(new_format, tmp_path):
    path = tmp_path / "trained.pt"
    torch.save({"net": checkpoint()}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(rtfm_rt.ModelError, match=r"pickle.*convert it with: python -c"):
        run(path, tmp_path / "model.safetensors")
    with pytest.raises(rtfm_rt.ModelError, match="pickle; convert it with rtfm-rt convert"):
        rtfm_rt.read_info(str(path))


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "int4"},
        {"steps": 3},
        {"name": ""},
        {"fx": 0.0},
        {"fx": math.nan},
        {"retrieval": {"context": 0}},
        {"retrieval": {"unknown": 1}},
    ],
)
def test_refuses_options(options, tmp_path):
    source = save(tmp_path / "trained.safetensors", checkpoint())
    arguments = {"name": "tiny", "licence": "CC0-1.0", **options}
    with pytest.raises(rtfm_rt.ModelError):
        exporter.convert(source, tmp_path / "model.safetensors", **arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["trained.safetensors"]


def test_refuses_what_is_no_checkpoint(tmp_path):
    for content in (b"", b"{}", b"\x02" + bytes(7) + b"[]", b"x" * 100):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(rtfm_rt.ModelError):
            run(tmp_path / "bad", tmp_path / "model.safetensors")
    with pytest.raises(rtfm_rt.ModelError, match="readable"):
        run(tmp_path / "absent", tmp_path / "model.safetensors")


def random_view(g: torch.Generator, fx: float, fy: float, far: float = 1.0) -> View:
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation * torch.linalg.det(rotation)
    pose[:3, 3] = torch.randn(3, generator=g, dtype=torch.float64) * far
    return View(pose, fx, fy)


def random_model(config: Config) -> FrameDiT:
    g = torch.Generator().manual_seed(1)
    model = FrameDiT(config).double().requires_grad_(False)
    for value in model.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=g) / math.sqrt(value.shape[-1]))
    return model


def test_reference_depends_on_relative_poses_only():
    """Moving the whole world, or listing the pages in another order, changes nothing."""
    config = Config(12, 20, 4, 24, 2, 3, 32, world_scale=0.7)
    model, g = random_model(config), torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (3, 12, 20, 3), generator=g, dtype=torch.uint8)
    tokens = model.tokens(images)
    assert tokens.shape == (3, 15, 48) and torch.equal(model.image(tokens), images)
    assert torch.equal(tokens[0, 6, :3], images[0, 4, 4].double() / 127.5 - 1)

    pages = [model.read(x) for x in tokens]
    views = [random_view(g, 0.6 + 0.1 * i, 0.9) for i in range(3)]
    query, world = random_view(g, 0.7, 1.1), random_view(g, 1, 1, far=100.0).pose
    noise = torch.randn(15, 48, generator=g, dtype=torch.float64)
    x0 = model.write(noise, 0.4, pages, views, query)
    moved = [v._replace(pose=world @ v.pose) for v in (*views, query)]
    again = model.write(noise, 0.4, pages[::-1], moved[:3][::-1], moved[3])
    assert torch.allclose(x0, again, rtol=0, atol=1e-9 * float(x0.abs().max()))
    assert not torch.allclose(x0, model.write(noise, 0.4, pages, views, views[0]), atol=1e-3)
    # The read pass is the write pass of a clean frame that sees nothing else, up to the output.
    page = model.read(noise)
    other = model.write(noise, 0.0, [page], [query], query)
    assert torch.allclose(other, model.write(noise, 0.0, [], [], views[1]), atol=1e-9)


def test_golden():
    """The bundled model (bf16 weights) against the trainer's own code (fp32 weights)."""
    golden = np.load(Path(__file__).parent / "data" / "golden.npz")
    model, manifest = reference.load(str(BUNDLED))
    camera = manifest["camera"]
    views = [View(torch.tensor(p).double(), camera["fx"], camera["fy"]) for p in golden["poses"]]
    query = View(torch.tensor(golden["query_pose"]).double(), camera["fx"], camera["fy"])
    noise = torch.tensor(golden["noise"])
    pages = [model.read(x) for x in model.tokens(torch.tensor(golden["images"]))]

    def close(got: torch.Tensor, name: str) -> bool:
        expected = torch.tensor(golden[name])
        return float((got - expected).norm() / expected.norm()) < 5e-3

    assert close(pages[0][0][0][:2], "page0_layer0_k")
    assert close(pages[0][7][1][:2], "page0_layer7_v")
    assert close(model.write(noise, float(golden["t"]), pages, views, query), "x0_at_t")
    table = manifest["samplers"][str(int(golden["steps"]))]
    sampled = model.sample(noise, table, pages, views, query)
    assert close(sampled, "sampled_tokens")
    assert np.abs(model.image(sampled).numpy().astype(int) - golden["frame"]).max() <= 2
    assert np.array_equal(model.image(torch.tensor(golden["sampled_tokens"])), golden["frame"])


def test_bundled_model():
    info = rtfm_rt.read_info(str(BUNDLED))
    manifest = info["manifest"]
    assert (manifest["name"], manifest["licence"]) == ("rooms", "Apache-2.0")
    assert json.dumps(sorted(map(int, manifest["samplers"]))) == "[1, 2, 4]"
