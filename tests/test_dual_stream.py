# SPDX-License-Identifier: Apache-2.0
"""Efficient-LVSM: its converter, and the reference of `dual_stream` against the authors' code."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import rtfm_rt
from rtfm_rt.convert.common import Checkpoint, open_checkpoint
from rtfm_rt.convert.efficient_lvsm import RECIPE, RECIPE_512, build, matches
from rtfm_rt.reference import View
from rtfm_rt.reference.dual_stream import Config, DualStream, in_gauge, load, rays
from tools.parity import efficient_lvsm as parity

GOLDEN = Path(__file__).parent / "data" / "efficient_lvsm.npz"
TINY = Config(height=16, image_width=16, patch=4, width=32, layers=2, heads=2, head_dim=16, mlp=128)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def save(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    safetensors.torch.save_file(tensors, path)
    return path


def make(config: Config, tensors: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    return build([Checkpoint(Path("trained"), {}, tensors)], side=config.height)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-7), (torch.float32, 1e-5)])
def test_golden(dtype, limit):
    """The reference gives what the authors' code gave, a rollout past its window included.

    Their numbers come from float64 and are kept as float32: only float64 shows an epsilon.
    """
    golden, got = np.load(GOLDEN), parity.ours(parity.TINY, dtype)
    assert golden.keys() == got.keys() and len(golden["rollout"]) == 12 > parity.WINDOW
    for name, value in got.items():
        assert error(value, torch.tensor(golden[name])) < limit, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_converts(dtype, tmp_path):
    """The file that is written computes what the checkpoint's tensors do."""
    source = save(tmp_path / "trained.safetensors", parity.published(TINY))
    checkpoint = open_checkpoint(source)
    assert RECIPE.matches([checkpoint]) and RECIPE.licence == "CC-BY-NC-SA-4.0"
    manifest, state = build([checkpoint], side=16)
    big = getattr(torch, dtype)
    state = {name: t.to(big if t.ndim > 1 else torch.float32) for name, t in state.items()}
    metadata = {"rtfm": json.dumps(manifest)}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata)

    model, read = load(str(tmp_path / "model.safetensors"))
    assert read == manifest and model.config == TINY
    assert manifest["samplers"] == {"1": [[0, 0, 1, 0]]} and manifest["steps"] == 1
    plain = parity.reference(TINY, torch.float32)
    (image,), (view,) = parity.scene(TINY, 1)
    want = plain.write([plain.read(plain.tokens(image), view)], view)
    got = model.write([model.read(model.tokens(image), view)], view)
    assert error(got, want) < (1e-12 if dtype == "float32" else 2e-2)


def test_every_tensor_is_used_once_and_by_its_name():
    tensors = parity.published(TINY)
    manifest, state = make(TINY, tensors)
    assert len(state) == len(tensors) == 3 + 17 * TINY.layers
    assert {id(t) for t in state.values()} == {id(t) for t in tensors.values()}
    assert state["reader.in.weight"] is tensors["rgbp_tokenizer.1.weight"]
    kv, gain = "cross_attn.to_kv.weight", "cross_attn.k_norm.weight"
    assert state["reader.blocks.1.page_kv.weight"] is tensors[f"self_cross_blocks.1.{kv}"]
    assert state["reader.blocks.0.page_k_gain"] is tensors[f"self_cross_blocks.0.{gain}"]
    assert manifest["image"] == {"height": 16, "width": 16} and manifest["mlp"] == 128


def test_compiled_names_and_training_only_tensors():
    tensors = parity.published(TINY)
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}
    wrapped["_orig_mod.repa_projector.input.8.3.0.weight"] = torch.zeros(2, 2)
    wrapped["_orig_mod.repa_encoder.norm.weight"] = torch.zeros(2)
    wrapped["_orig_mod.loss_computer.perceptual_loss_module.vgg.features.0.bias"] = torch.zeros(2)
    assert matches([Checkpoint(Path("x"), {}, wrapped)])
    assert make(TINY, wrapped) == make(TINY, tensors)


@pytest.mark.parametrize(
    "config",
    [
        Config(16, 16, 8, 24, 1, 3, 8, 40),
        Config(512, 512, 8, 64, 3, 2, 32, 64),
    ],
)
def test_other_sizes(config):
    manifest, state = make(config, parity.published(config))
    assert Config.from_manifest(manifest) == config
    DualStream(config).load_state_dict(state)


def test_image_size_of_the_recipes():
    for recipe, side in ((RECIPE, 256), (RECIPE_512, 512)):
        manifest, _ = recipe.build([Checkpoint(Path("x"), {}, parity.published(TINY))])
        assert manifest["image"] == {"height": side, "width": side}


BLOCK, TOKENIZER = "self_cross_blocks.1.", "rgbp_tokenizer.1.weight"


def half_compiled(tensors):
    tensors["_orig_mod.out"] = torch.zeros(1)


def drop(tensors):
    del tensors[BLOCK + "cross_attn.k_norm.weight"]


def half(tensors):
    for name in [name for name in tensors if name.startswith("input_self_attn_blocks")]:
        del tensors[name]


def biased(tensors):
    tensors[BLOCK + "cross_attn.fc.bias"] = torch.zeros(32)


def gap(tensors):
    tensors[BLOCK.replace("1", "7") + "mlp.mlp.0.weight"] = torch.zeros(2, 2)


def reshaped(tensors):
    tensors[BLOCK + "cross_attn.to_kv.weight"] = torch.zeros(65, 32)


def flat(tensors):
    tensors["image_token_decoder.1.weight"] = torch.zeros(48)


def poison(tensors):
    tensors[BLOCK + "mlp.mlp.2.weight"][3, 4] = math.nan


def integers(tensors):
    tensors[BLOCK + "mlp.mlp.2.weight"] = torch.zeros(32, 128, dtype=torch.int32)


def plain_attention(tensors):
    for name in [name for name in tensors if name.endswith("_norm.weight")]:
        del tensors[name]


def augmented_rays(tensors):
    tensors[TOKENIZER] = torch.zeros(32, 12 * 16)


def other_patch(tensors):
    tensors["image_token_decoder.1.weight"] = torch.zeros(3 * 5 * 5, 32)


def odd_heads(tensors):
    tensors["self_cross_blocks.0.cross_attn.k_norm.weight"] = torch.zeros(12)


def optimizer(tensors):
    for name in list(tensors):
        tensors[f"optimizer.state.{name}.exp_avg"] = torch.zeros(1)


def decoder_only(tensors):
    tensors.clear()
    tensors["transformer_blocks.0.attn.to_qkv.weight"] = torch.zeros(96, 32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (half_compiled, "unknown ['_orig_mod.out']"),
        (drop, "missing ['self_cross_blocks.1.cross_attn.k_norm.weight']"),
        (half, "missing ['input_self_attn_blocks.0.attn.fc.weight'"),
        (biased, "unknown ['self_cross_blocks.1.cross_attn.fc.bias']"),
        (gap, "unknown ['self_cross_blocks.7.mlp.mlp.0.weight']"),
        (reshaped, "to_kv.weight: expected shape [64, 32], got [65, 32]"),
        (flat, "image_token_decoder.1.weight: expected 2 axes, got shape (48,)"),
        (poison, "mlp.mlp.2.weight: expected finite"),
        (integers, "mlp.mlp.2.weight: expected finite floating-point"),
        (plain_attention, "the switch use_qk_norm: false is not supported"),
        (augmented_rays, "expected in_channels: 9"),
        (other_patch, "patch p that divides 16, got 75"),
        (odd_heads, "heads of 12 in a width of 32"),
        (optimizer, "unknown ['optimizer.state."),
        (decoder_only, "unknown ['transformer_blocks.0.attn.to_qkv.weight']"),
    ],
)
def test_refuses(damage, message):
    tensors = parity.published(TINY)
    damage(tensors)
    with pytest.raises(rtfm_rt.ModelError) as caught:
        make(TINY, tensors)
    assert message in str(caught.value)


def test_refuses_other_files():
    checkpoint = Checkpoint(Path("x"), {}, parity.published(TINY))
    assert not matches([Checkpoint(Path("x"), {}, {"transformer_blocks.0.w": torch.zeros(1)})])
    assert not matches([checkpoint, checkpoint])
    with pytest.raises(rtfm_rt.ModelError, match="one checkpoint, got 2"):
        build([checkpoint, checkpoint], side=16)


def test_refuses_half_a_download(tmp_path):
    path = save(tmp_path / "trained.safetensors", parity.published(TINY))
    content = path.read_bytes()
    for size in (5, 200, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(rtfm_rt.ModelError, match=r"expected a \.safetensors checkpoint"):
            open_checkpoint(path)


def test_the_published_pickle_is_refused_with_a_command_that_works(tmp_path):
    """The authors' trainer saves a pickle that holds the optimizer too."""
    tensors = parity.published(TINY)
    path = tmp_path / "efficient_lvsm_res256.pt"
    torch.save({"model": tensors, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, path)
    with pytest.raises(rtfm_rt.ModelError, match="pickle, which could run code") as caught:
        open_checkpoint(path)
    command = shlex.split(str(caught.value).split("convert it with: ")[1])
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=tmp_path)
    _, state = make(TINY, open_checkpoint(tmp_path / "checkpoint.safetensors").tensors)
    assert torch.equal(state["out.weight"], tensors["image_token_decoder.1.weight"])


def test_pages_are_exact_and_know_no_order():
    config = parity.TINY
    model = parity.reference(config, torch.float64)
    images, views = parity.scene(config, 4)
    seen = list(zip([model.tokens(image) for image in images[:3]], views[:3], strict=True))
    pages = [model.read(*frame) for frame in seen]
    frame = model.write(pages, views[3])
    assert torch.equal(frame, model.write([model.read(*again) for again in seen], views[3]))
    assert error(model.write(pages[::-1], views[3]), frame) < 1e-12
    for other in (model.write(pages[:2], views[3]), model.write(pages, views[2])):
        assert error(other, frame) > 1e-2


def test_without_pages_the_attention_to_them_adds_nothing():
    model = parity.reference(TINY, torch.float64)
    (image,), (view,) = parity.scene(TINY, 1)
    page = model.read(model.tokens(image), view)
    blank = [(k, torch.zeros_like(v)) for k, v in page]
    assert error(model.write([], view), model.write([blank], view)) < 1e-12


def test_tokens_and_image():
    model = DualStream(parity.TINY)
    image = parity.scene(parity.TINY, 1)[0][0]
    tokens = model.tokens(image)
    assert tokens.shape == (15, 48) and torch.equal(model.image(tokens), image)
    assert torch.equal(tokens[6, 15:18], image[5, 5] / 127.5 - 1)  # token (1, 1), pixel (1, 1)
    assert model.image(torch.tensor([[-3.0, 2.0, 0.01]]).repeat(15, 16)).unique().tolist() == [
        0,
        129,
        255,
    ]


def test_rays():
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # looks along x
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    field = rays(View(pose, 0.5, 2.0), 3, 4)
    assert field.shape == (3, 4, 6)
    through = np.array([(2.5 / 4 - 0.5) / 0.5, (0.5 / 3 - 0.5) / 2.0, 1.0])  # row 0, column 2
    x, y, z = through / np.linalg.norm(through)
    assert field[0, 2, 3:].tolist() == pytest.approx([z, y, -x])
    moment = np.cross([1, 2, 3], [z, y, -x])
    assert field[0, 2, :3].tolist() == pytest.approx(moment.tolist(), abs=1e-12)


def test_gauge_is_the_first_camera():
    _, views = parity.scene(TINY, 3)
    first, view, world = views
    inside = in_gauge(view, first, 0.5)
    moved = [v._replace(pose=world.pose @ v.pose) for v in (view, first)]
    again = in_gauge(*moved, 0.5)
    assert torch.allclose(inside.pose, again.pose, atol=1e-12)
    assert torch.allclose(in_gauge(first, first, 0.5).pose, torch.eye(4).double(), atol=1e-12)
    step = first.pose[:3, :3].T @ (view.pose - first.pose)[:3, 3]
    assert torch.allclose(inside.pose[:3, 3], 0.5 * step, atol=1e-12)
    assert (inside.fx, inside.fy) == (view.fx, view.fy)
