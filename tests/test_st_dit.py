# SPDX-License-Identifier: Apache-2.0
"""The family `st_dit`: the converter of Oasis-500M, and its reference against the authors' code."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import rtfm_rt
from rtfm_rt.convert.common import Checkpoint, open_checkpoint
from rtfm_rt.convert.oasis import RECIPE, Sizes, build, ddim_table, dit_shapes, signal_levels
from rtfm_rt.convert.vit_codec import CodecSizes, codec_shapes
from rtfm_rt.reference.st_dit import Walk, load
from rtfm_rt.reference.vit_codec import from_patches, to_bytes, to_patches
from tools.parity import oasis as parity

FULL = Sizes(width=1024, layers=16, head_dim=64, mlp=4096, channels=16, patch=2, actions=25)
FULL_CODEC = CodecSizes(
    width=1024, mlp=4096, patch=20, channels=16, encoder_layers=6, decoder_layers=12
)
OPTIONS = {"image": parity.IMAGE, "codec_heads": parity.HEADS, "window": parity.WINDOW}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    """What the authors' code made of the same random numbers: tools/parity/oasis.py."""
    with np.load(Path(__file__).parent / "data" / "oasis.npz") as arrays:
        return {name: torch.tensor(array) for name, array in arrays.items()}


def test_sizes_of_the_published_files():
    dit, codec = dit_shapes(FULL), codec_shapes(FULL_CODEC)
    assert (len(dit), len(codec)) == (300, 228)
    assert round(sum(math.prod(shape) for shape in dit.values()) / 1e6, 1) == 607.9
    assert round(sum(math.prod(shape) for shape in codec.values()) / 1e6, 1) == 229.2


def test_codec(golden):
    model = parity.reference()
    assert parity.error(model.encode(golden["image"]), golden["latent"]) < 2e-6
    grid = from_patches(golden["latent"], parity.GRID[1], parity.SIZES.patch)
    assert torch.equal(to_patches(grid, parity.SIZES.patch), golden["latent"])
    assert parity.error(model.codec.decode(grid.flatten(0, 1)), golden["decoded"]) < 2e-6
    image = model.decode(golden["latent"])
    assert torch.equal(image, to_bytes(golden["decoded"])) and len(image.unique()) > 100


def test_one_pass(golden):
    model, pages = parity.reference(), []
    few = zip(golden["noise"][: parity.WINDOW], golden["actions"], strict=False)
    *past, (noisy, action) = few
    for frame in past:
        pages.append(model.read(*frame, pages))
    v = model.write(noisy, parity.TIME, action, pages)
    assert parity.error(v, golden["v"]) < 2e-6
    row = ddim_table(1000)[999 - parity.TIME]
    assert parity.error(model.sample(noisy, [row], action, pages), golden["stepped"]) < 2e-6
    # The oldest page counts, and so does the action.
    assert parity.error(model.write(noisy, parity.TIME, action, pages[1:]), v) > 1e-2
    assert parity.error(model.write(noisy, parity.TIME, 0 * action, pages), v) > 1e-2


def test_every_tensor_counts(golden):
    """Without any one of its tensors the model does something else, so parity is of all of them."""
    model = parity.reference()

    def outputs() -> torch.Tensor:
        (noise, clean), (action, before) = golden["noise"][:2], golden["actions"][1:3]
        page = model.read(clean, before, [])
        grid = from_patches(golden["latent"], parity.GRID[1], parity.SIZES.patch)
        parts = (
            model.write(noise, 99, action, [page]),
            model.encode(golden["image"]),
            model.codec.decode(grid.flatten(0, 1)),
        )
        return torch.cat([part.flatten() for part in parts])

    expected = outputs()
    for name, tensor in model.state_dict().items():
        kept = tensor.clone()
        tensor.zero_()
        assert parity.error(outputs(), expected) > 1e-3, name
        tensor.copy_(kept)
    assert torch.equal(outputs(), expected)


@pytest.mark.parametrize("slide", ["keep", "recompute"])
def test_rollout(slide, golden):
    """Twelve frames past the window, as the authors' own code with a band or a sliding triangle."""
    frames = parity.rollout(slide, golden)
    assert parity.error(frames, golden[slide]) < 2e-6
    other = golden["recompute" if slide == "keep" else "keep"]
    assert parity.error(frames[: parity.WINDOW], other[: parity.WINDOW]) < 2e-6
    late = parity.WINDOW + 1
    assert parity.error(frames[late:], other[late:]) > 1e-2


def test_walk_is_bounded(golden):
    model = parity.reference("recompute")
    walk = Walk(model)
    for latent, action in zip(golden["noise"], golden["actions"], strict=True):
        walk.commit(latent, action)
    assert len(walk.pages) == len(walk.frames) == parity.WINDOW - 1
    fresh = Walk(model)
    for frame in walk.frames:
        fresh.commit(*frame)
    for page, other in zip(walk.pages, fresh.pages, strict=True):
        for got, expected in zip(page, other, strict=True):
            assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


@pytest.mark.parametrize("steps", [1, 4, 10, 20])
def test_sampler_ends_where_v_points(steps):
    """With the v of one clean latent and one noise at every level, the rows end at that latent."""
    g = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 100, generator=g, dtype=torch.float64)
    levels = signal_levels().double()
    table = ddim_table(steps)
    assert len(table) == steps and table[0][0] == 999
    assert [row[0] for row in ddim_table(10)] == [99.0 + 100 * i for i in range(9, -1, -1)]
    x = levels[999].sqrt() * clean + (1 - levels[999]).sqrt() * noise
    for t, a, b, c in table:
        level = levels[int(t)]
        x = a * x + b * (level.sqrt() * noise - (1 - level).sqrt() * clean)
        assert c == 0 and abs(a * a + b * b - 1) < 1e-12
    assert parity.error(x, clean) < 1e-12


def test_manifest():
    manifest, tensors = parity.convert()
    assert manifest["latent"] == {"height": 6, "width": 10, "channels": 3, "patch": 2}
    assert (manifest["heads"], manifest["mlp"], manifest["slide"]) == (2, 48, "keep")
    assert (manifest["codec"]["rope"], manifest["codec"]["head_dim"]) == (4, 16)
    assert manifest["retrieval"]["context"] == manifest["window"] - 1 == 4
    actions = {action["name"]: action for action in manifest["actions"]}
    assert len(actions) == 25 and list(actions)[11:17] == [
        "forward", "back", "left", "right", "cameraX", "cameraY",
    ]  # fmt: skip
    assert actions["forward"]["move"] == [0, 0, 0.2] and actions["left"]["move"] == [-0.2, 0, 0]
    assert actions["cameraX"]["turn"] == [0, -20] and actions["cameraY"]["turn"] == [20, 0]
    assert (actions["cameraX"]["min"], actions["jump"]["min"]) == (-1, 0)
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    assert json.loads(json.dumps(manifest)) == manifest
    assert RECIPE.licence == "MIT" and not {"name", "licence", "source"} & set(manifest)


def test_file(tmp_path, golden):
    """A model file gives the module that was converted."""
    manifest, tensors = parity.convert()
    path = tmp_path / "model.safetensors"
    stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(stored, path, {"rtfm": json.dumps(manifest)})
    model, read = load(str(path))
    assert read == manifest
    expected = parity.reference().encode(golden["image"])
    assert torch.equal(model.encode(golden["image"]), expected)


def test_other_size():
    """Sizes come from the tensors; what they do not say is an argument."""
    sizes = Sizes(width=48, layers=1, head_dim=8, mlp=20, channels=5, patch=1, actions=25)
    codec = CodecSizes(width=64, mlp=24, patch=8, channels=5, encoder_layers=2, decoder_layers=1)
    manifest, tensors = build(
        parity.checkpoints(sizes, codec), image=(16, 24), codec_heads=4, slide="recompute"
    )
    assert (manifest["heads"], manifest["layers"], manifest["window"]) == (6, 1, 32)
    assert sorted(manifest["samplers"]) == ["10", "20", "4"] and manifest["steps"] == 10
    assert tensors["rope.cos"].shape == (6, 4) and tensors["codec.rope.sin"].shape == (6, 4)
    assert tensors["blocks.0.modulation.weight"].shape == (12 * 48, 48)
    assert tensors["codec.decoder.out.weight"].shape == (192, 64)


def test_shared_frequencies():
    """A file holds each vector of frequencies under one of its names or more."""
    dit, codec = parity.checkpoints()
    _, expected = build([dit, codec], **OPTIONS)
    few = {
        name: tensor
        for name, tensor in dit.tensors.items()
        if not name.endswith("freqs") or name.startswith("blocks.1")
    }
    assert len(dit.tensors) - len(few) == 4
    _, got = build([dataclasses.replace(dit, tensors=few), codec], **OPTIONS)
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


def drop(dit, codec):
    del dit["blocks.1.t_mlp.fc2.bias"]


def add(dit, codec):
    dit["optimizer.state.0.exp_avg"] = torch.zeros(3)


def extra_block(dit, codec):
    dit["blocks.2.s_attn.to_out.bias"] = torch.zeros(32)


def memory_model(dit, codec):
    dit["blocks.0.r_attn.to_qkv.weight"] = torch.zeros(96, 32)


def codec_drop(dit, codec):
    del codec["decoder.1.norm2.weight"]


def reshape(dit, codec):
    dit["final_layer.linear.bias"] = torch.zeros(13)


def not_variational(dit, codec):
    codec["quant_conv.weight"] = codec["quant_conv.weight"][:3].clone()


def no_freqs(dit, codec):
    for name in [name for name in dit if name.endswith("s_attn.rotary_emb.freqs")]:
        del dit[name]
    del dit["spatial_rotary_emb.freqs"]


def other_freqs(dit, codec):
    dit["blocks.1.t_attn.rotary_emb.freqs"] += 1


def fewer_actions(dit, codec):
    dit["external_cond.weight"] = dit["external_cond.weight"][:, :4].clone()


def other_channels(dit, codec):
    codec["post_quant_conv.weight"] = torch.zeros(32, 4)
    codec["quant_conv.weight"], codec["quant_conv.bias"] = torch.zeros(8, 32), torch.zeros(8)


def poison(dit, codec):
    dit["t_embedder.mlp.0.bias"][2] = math.nan


def integers(dit, codec):
    codec["predictor.bias"] = codec["predictor.bias"].int()


def no_embedder(dit, codec):
    del dit["x_embedder.proj.weight"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, "missing ['blocks.1.t_mlp.fc2.bias']"),
        (add, "unknown ['optimizer.state.0.exp_avg']"),
        (extra_block, "missing ['blocks.2."),
        (memory_model, "unknown ['blocks.0.r_attn.to_qkv.weight']"),
        (codec_drop, "vit-l-20.safetensors: expected exactly the tensors"),
        (reshape, "final_layer.linear.bias: expected shape [12], got [13]"),
        (not_variational, "quant_conv.weight: expected shape [6, 32], got [3, 32]"),
        (no_freqs, "spatial_rotary_emb"),
        (other_freqs, "blocks.1.t_attn.rotary_emb.freqs: expected one vector for all blocks"),
        (fewer_actions, "expected a model of 25 actions, got 4"),
        (other_channels, "expected latents of the transformer's 3 channels, got 4"),
        (poison, "t_embedder.mlp.0.bias: expected finite"),
        (integers, "predictor.bias: expected finite floating-point"),
        (no_embedder, "'x_embedder.proj.weight' is missing"),
    ],
)
def test_refuses(damage, message):
    dit, codec = parity.checkpoints()
    damage(dit.tensors, codec.tensors)
    with pytest.raises(rtfm_rt.ModelError) as caught:
        build([dit, codec], **OPTIONS)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": (24, 36)}, "multiples of 8 pixels, got 24 x 36"),
        ({"codec_heads": 3}, "expected 3 heads"),
        ({"window": 1}, "window: expected at least 2"),
        ({"slide": "drop"}, "slide: expected 'keep' or 'recompute'"),
    ],
)
def test_refuses_options(options, message):
    with pytest.raises(rtfm_rt.ModelError) as caught:
        parity.convert(**options)
    assert message in str(caught.value)


def test_files_are_told_apart(tmp_path):
    dit, codec = parity.checkpoints()
    assert RECIPE.matches([dit, codec])
    for others in ([codec, dit], [dit], [dit, codec, codec]):
        assert not RECIPE.matches(others)
    assert not RECIPE.matches([Checkpoint(Path("x"), {}, {"qkv.weight": torch.zeros(1)}), codec])

    path = tmp_path / "oasis500m.safetensors"
    safetensors.torch.save_file(dit.tensors, path)
    opened = open_checkpoint(path)
    assert RECIPE.matches([opened, codec]) and build([opened, codec], **OPTIONS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(rtfm_rt.ModelError, match=r"expected a \.safetensors checkpoint"):
        open_checkpoint(path)
    torch.save(dit.tensors, tmp_path / "oasis500m.pt")
    with pytest.raises(rtfm_rt.ModelError, match="got a pickle"):
        open_checkpoint(tmp_path / "oasis500m.pt")
