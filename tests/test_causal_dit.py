# SPDX-License-Identifier: Apache-2.0
"""The family `causal_dit`: its reference, its codec, and the converter of Waypoint-1.5."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import rtfm_rt
from action_models import SMALL_CAUSAL as SMALL
from rtfm_rt.convert import waypoint
from rtfm_rt.convert.common import Checkpoint, open_checkpoint
from rtfm_rt.reference import causal_dit
from rtfm_rt.reference.causal_dit import CausalDiT, Config, Window
from rtfm_rt.reference.taehv import to_images
from tools.parity import waypoint as parity

GOLDEN = Path(__file__).parent / "data" / "waypoint.npz"
OPTIONS: dict[str, Any] = {
    "grid": SMALL["grid"],
    "window": Window(**SMALL["window"]),
    "head_dim": SMALL["head_dim"],
    "sigmas": SMALL["sigmas"],
}
HEADS_OF_64 = SMALL | {"sizes": SMALL["sizes"] | {"heads": 2, "kv_heads": 1, "head_dim": 64}}
SMALL_CHECKPOINTS = parity.published(SMALL)
BLOCK = "transformer.blocks.1."


@pytest.fixture(scope="module")
def model() -> CausalDiT:
    return parity.load(SMALL)


def checkpoints() -> list[Checkpoint]:
    """Small ones that a test may damage."""
    return copy.deepcopy(SMALL_CHECKPOINTS)


def in_release_style(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint of the trainer under the names and in the shapes of the release."""
    out = {}
    for name, x in tensors.items():
        if name == "unpatchify.weight":
            out[name] = x.T.reshape(x.shape[1], 4, 2, 2)
        elif name == "unpatchify.bias":
            out[name] = x.reshape(4, 4)[:, 0]
        elif "ctrl_mlpfusion.mlp.fc1" in name:
            out[name.replace("mlp.fc1", "fc1_x")], out[name.replace("mlp.fc1", "fc1_c")] = (
                part.contiguous() for part in x.chunk(2, 1)
            )
        elif "ctrl_mlpfusion.mlp.fc2" in name:
            out[name.replace("mlp.fc2", "fc2")] = x
        elif name.endswith("cond_head.bias_in"):
            for half in ("attn", "mlp"):
                out[name.replace("cond_head", f"{half}_cond_head")] = x
        elif ".cond_proj." in name:
            i = int(name.split(".")[-2])
            half, ours = ("attn", i) if i < 3 else ("mlp", i - 3)
            new = name.replace("cond_head", f"{half}_cond_head")
            out[new.replace(f"proj.{i}", f"proj.{ours}")] = x
        else:
            out[name.replace(".mlp.fc", ".dit_mlp.fc") if "blocks." in name else name] = x
    return out


def test_matches_the_authors():
    """Their code on the same random tensors: forward, sampling, a rollout past every window."""
    golden = np.load(GOLDEN)
    assert json.loads(str(golden["recipe"])) == json.loads(json.dumps(parity.RECIPE))
    network = parity.load()
    got = parity.thinned(parity.ours(network, parity.RECIPE, parity.inputs()))
    for name, x in got.items():
        assert parity.error(x, torch.tensor(golden[name])) < 1e-5, name

    # One frame more or less in sight, and it would not have matched.
    for change in ({"local_frames": 4}, {"global_frames": 8}, {"offset": 0}):
        window = network.config.window._replace(**change)
        other = CausalDiT(network.config._replace(window=window)).requires_grad_(False)
        other.load_state_dict(network.state_dict())
        tokens = parity.walk(other, parity.RECIPE, parity.inputs())["tokens"]
        assert parity.error(tokens, torch.tensor(golden["tokens"])) > 1e-3, change


@pytest.mark.parametrize(("frames", "dilation"), [(16, 1), (128, 8), (6, 3), (4, 4)])
def test_visible_frames_are_those_of_a_ring(frames, dilation):
    ring: list[int | None] = [None] * (frames // dilation)
    window = Window(frames if dilation == 1 else 1, frames, dilation, 2, 1)
    for t in range(3 * frames + dilation):
        place = -(-t // dilation) % len(ring)
        kept = t % dilation == 0
        seen = [f for i, f in enumerate(ring) if f is not None and not (kept and i == place)]
        assert window.visible(0 if dilation == 1 else 1, t) == sorted(seen)
        if kept:
            ring[place] = t


def test_defaults_are_those_of_waypoint_1_5():
    seen = [set(waypoint.WINDOW.visible(layer, 200)) for layer in (0, 3)]
    assert seen == [set(range(185, 200)), set(range(80, 200, 8))]
    assert waypoint.WINDOW.visible(23, 201) == list(range(80, 201, 8))
    assert len({f for layer in range(24) for f in waypoint.WINDOW.visible(layer, 201)}) == 29


def test_a_frame_out_of_sight_has_no_influence(model):
    given, past, actions = parity.inputs(SMALL), [], torch.zeros(12, 9)
    for frame in range(9):
        past.append(model.read(given["noise"][frame], actions[frame], past))
    seen = {f for layer in range(4) for f in model.config.window.visible(layer, 9)}
    assert seen == {4, 6, 7, 8}
    v = model.write(given["noise"][9], 0.75, actions[9], past)
    for frame in range(9):
        changed = [*past[:frame], [(2 * k, -x) for k, x in past[frame]], *past[frame + 1 :]]
        same = torch.equal(model.write(given["noise"][9], 0.75, actions[9], changed), v)
        assert same == (frame not in seen)
    louder = model.write(given["noise"][9], 0.75, actions[9] + 1, past)
    assert parity.error(louder, v) > 1e-2


def test_codec_works_frame_by_frame(model):
    codec, given = model.codec, parity.inputs(SMALL)
    clip = given["images"][0, :2]
    latent = codec.encode(clip)
    assert latent.shape == (6, 8, 4) and clip.shape == (2, 48, 64, 3)
    assert not torch.allclose(codec.encode(clip.flip(0)), latent, atol=1e-3)  # their order counts

    shown, memory = codec.decode(latent, None)
    assert shown.shape == (2, 48, 64, 3)
    assert [m.shape[2] for m in memory] == [12] * 3 + [8] * 3 + [4] * 3
    by_hand, kept = codec.decode(latent, codec.empty(latent))
    assert parity.error(by_hand, shown) > 1e-2  # the first latent has been seen before it is shown
    for _ in range(codec.config.warmup):
        by_hand, kept = codec.decode(latent, kept)
    assert torch.equal(by_hand, shown)
    assert all(torch.equal(a, b) for a, b in zip(kept, memory, strict=True))
    tokens = model.tokens(latent)
    assert torch.equal(model.latent(tokens), latent)
    images, _ = model.decode(tokens, None)
    assert images.dtype == torch.uint8
    assert torch.equal(images, to_images(shown))
    assert torch.equal(model.encode(clip), tokens)


def test_both_styles_of_names_give_one_model():
    transformer, codec = checkpoints()
    tensors = dict(transformer.tensors)
    tensors["unpatchify.bias"] = tensors["unpatchify.bias"].reshape(4, 4)[:, :1].expand(4, 4)
    tensors["unpatchify.bias"] = tensors["unpatchify.bias"].flatten()
    released = in_release_style(tensors)
    assert released.keys() != tensors.keys() and released["unpatchify.weight"].shape[0] == 128
    one = waypoint.build([Checkpoint(Path("a"), {}, tensors), codec], **OPTIONS)
    two = waypoint.build([Checkpoint(Path("b"), {}, released), codec], **OPTIONS)
    assert one[0] == two[0] and one[1].keys() == two[1].keys()
    for name, x in one[1].items():
        assert torch.equal(x, two[1][name]), name

    # Each half of the release has a bias of its own.
    name = f"{BLOCK}attn_cond_head.bias_in"
    released[name] = released[name] + 1
    three = waypoint.build([Checkpoint(Path("b"), {}, released), codec], **OPTIONS)
    same = (three[1]["modulation"] == two[1]["modulation"]).flatten(3).all(3)
    assert same[:, 1].tolist() == [[False] * 3 + [True] * 3] * 4
    assert bool(same[:, [0, 2, 3]].all())


def test_a_model_file_of_other_sizes(tmp_path):
    """Other sizes, stored, and read back by the reference."""
    sizes = SMALL["sizes"] | {
        "width": 48,
        "heads": 3,
        "kv_heads": 1,
        "head_dim": 16,
        "layers": 3,
        "mlp": 40,
        "patch": 1,
        "control_layers": [1],
        "control_mlp": 24,
        "actions": 5,
        "noise_mlp": 32,
        "value_residual": False,
    }
    recipe = SMALL | {"sizes": sizes, "grid": (2, 5), "head_dim": 16, "sigmas": (1.0, 0.5, 0.0)}
    manifest, tensors = parity.build(recipe)
    assert manifest["image"] == {"height": 16, "width": 40} and manifest["images"] == 2
    assert manifest["samplers"] == {"2": [[1.0, 1.0, -0.5, 0.0], [0.5, 1.0, -0.5, 0.0]]}
    assert "value_mix" not in tensors and "blocks.1.fuse.c.weight" in tensors
    path = tmp_path / "model.safetensors"
    stored = {name: x.contiguous() for name, x in tensors.items()}
    safetensors.torch.save_file(stored, path, {"rtfm": json.dumps(manifest)})
    read, back = causal_dit.load(str(path), torch.float64)
    assert back == manifest and read.config == Config.from_manifest(manifest)
    x, action = torch.randn(10, 4, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    page = read.read(x, action, [])
    assert page[2][0].shape == page[2][1].shape == (1, 10, 16)
    assert read.sample(x, manifest["samplers"]["2"], action, [page]).shape == (10, 4)
    assert len({p.dtype for p in read.parameters()}) == 1


def test_actions_and_their_dead_reckoning():
    listed = waypoint.actions(259)
    assert [a["name"] for a in listed[:4]] == ["mouse_x", "mouse_y", "button.0", "button.1"]
    assert listed[-1]["name"] == "scroll" and len(listed) == 259
    moves = {a["name"]: a["move"] for a in listed if any(a["move"])}
    assert sorted(moves) == sorted(f"button.{ord(key)}" for key in "WASD")
    assert moves["button.87"][2] > 0 > moves["button.83"][2]
    assert moves["button.68"][0] > 0 > moves["button.65"][0]
    assert listed[0]["turn"][0] > 0 > listed[1]["turn"][1]  # down is positive in mouse_y


def test_recipe_knows_its_files():
    assert waypoint.WAYPOINT.matches(SMALL_CHECKPOINTS)
    assert not waypoint.WAYPOINT.matches(SMALL_CHECKPOINTS[::-1])
    assert not waypoint.WAYPOINT.matches(SMALL_CHECKPOINTS[:1])
    manifest, _ = waypoint.WAYPOINT_360P.build(parity.published(HEADS_OF_64))
    assert manifest["image"] == {"height": 128, "width": 256}
    manifest, _ = waypoint.WAYPOINT.build(parity.published(HEADS_OF_64))
    assert manifest["image"] == {"height": 256, "width": 512}


Damage = Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], object]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t, c: t.pop(f"{BLOCK}attn.q_proj.weight"), "missing"),
        (lambda t, c: t.update({"optimizer.step": torch.zeros(1)}), "unknown ['optimizer.step']"),
        (lambda t, c: t.update({f"{BLOCK}mlp.fc2.weight": torch.zeros(3)}), "shape [128, 256]"),
        (lambda t, c: t["patchify.weight"].fill_(math.nan), "patchify.weight: expected finite"),
        (lambda t, c: t.update({"patchify.weight": torch.zeros(3)}), "rank 4, got [3]"),
        (lambda t, c: t.clear(), "patchify.weight: expected a tensor of rank 4, got nothing"),
        (
            lambda t, c: t.update({"transformer.blocks.99.attn.v_lamb": torch.zeros(())}),
            "expected blocks 0, 1, 2",
        ),
        (
            lambda t, c: t.update({f"{BLOCK}prompt_cross_attn.q_proj.weight": torch.zeros(1)}),
            "without text prompts",
        ),
        (
            lambda t, c: t.update({"prompt_cfg.null_emb": torch.zeros(1)}),
            "without text prompts",
        ),
        (
            lambda t, c: t.update({f"{BLOCK}attn.gate_proj.weight": torch.zeros(4, 4)}),
            "without attention gates",
        ),
        (lambda t, c: c.pop("decoder.13.conv.weight"), "missing ['decoder.13.conv.weight']"),
        (lambda t, c: c.update({"decoder.0.weight": torch.zeros(1)}), "'super'"),
        (lambda t, c: c.update({"decoder.8.weight": torch.zeros(9, 12, 3, 3)}), "shape [8, 12"),
        (lambda t, c: c.update({"encoder.17.weight": torch.zeros(5, 8, 3, 3)}), "shape"),
        (lambda t, c: c["encoder.17.bias"].fill_(math.inf), "encoder.17.bias: expected finite"),
        (
            lambda t, c: c.update({"encoder.7.conv.weight": torch.zeros(8, 16, 1, 1)}),
            "as many frames into a latent",
        ),
    ],
)
def test_refuses(damage: Damage, message: str):
    transformer, codec = checkpoints()
    damage(transformer.tensors, codec.tensors)
    with pytest.raises(rtfm_rt.ModelError) as caught:
        waypoint.build([transformer, codec], **OPTIONS)
    assert message in str(caught.value)


def test_refuses_a_codec_of_other_latents():
    transformer, _ = checkpoints()
    _, codec = parity.published(SMALL | {"codec": SMALL["codec"] | {"latent": 6}})
    with pytest.raises(rtfm_rt.ModelError, match=r"4 latent channels .* got 6"):
        waypoint.build([transformer, codec], **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 24}, "heads of 24"),
        ({"head_dim": 64}, "heads of 64"),
        ({"grid": (1, 8)}, "grid"),
        ({"window": Window(3, 7, 2, 2, 1)}, "window"),
        ({"window": Window(3, 8, 2, 2, 2)}, "window"),
        ({"sigmas": (1.0, 0.5)}, "sigmas"),
        ({"sigmas": (0.5, 1.0, 0.0)}, "sigmas"),
        ({"sigmas": (0.0,)}, "sigmas"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str):
    sizes = SMALL["sizes"] | {"kv_heads": 3}  # 96 rows: heads of 64 do not fit
    recipe = SMALL | {"sizes": sizes} if options == {"head_dim": 64} else SMALL
    with pytest.raises(rtfm_rt.ModelError, match=message):
        waypoint.build(parity.published(recipe), **{**OPTIONS, **options})


def test_refuses_half_a_file(tmp_path):
    transformer, _ = checkpoints()
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({k: v.clone() for k, v in transformer.tensors.items()}, path)
    assert open_checkpoint(path).tensors.keys() == transformer.tensors.keys()
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(rtfm_rt.ModelError, match=r"expected a \.safetensors checkpoint"):
        open_checkpoint(path)
    torch.save(transformer.tensors, path)
    with pytest.raises(rtfm_rt.ModelError, match="pickle"):
        open_checkpoint(path)
