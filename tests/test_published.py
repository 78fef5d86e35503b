# SPDX-License-Identifier: Apache-2.0
"""From published files to a session, by the command of users; random numbers in small sizes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import rtfm_rt
from rtfm_rt import cli
from rtfm_rt.convert import RECIPES, convert_published, efficient_lvsm, oasis, published, waypoint
from rtfm_rt.convert.common import Checkpoint
from rtfm_rt.reference.causal_dit import Window
from rtfm_rt.reference.dual_stream import Config
from tools.parity import efficient_lvsm as lvsm_parity
from tools.parity import oasis as oasis_parity
from tools.parity import waypoint as waypoint_parity

LVSM = Config(32, 32, 8, 64, 2, 2, 32, 128, 1e-5, 1e-5)


def random_files(recipe: str) -> Sequence[Checkpoint]:
    """What its authors would publish of a very small model."""
    if recipe == "oasis":
        return oasis_parity.checkpoints()
    if recipe == "waypoint":
        return waypoint_parity.published()
    return [Checkpoint(Path("efficient_lvsm.safetensors"), {}, lvsm_parity.published(LVSM))]


@pytest.fixture
def small(monkeypatch):
    """The recipes, told the sizes that are not in the files."""
    options = {"image": oasis_parity.IMAGE, "codec_heads": oasis_parity.HEADS, "window": 3}
    random = waypoint_parity.RECIPE
    builds = {
        "oasis": partial(oasis.build, **options),
        "waypoint": partial(
            waypoint.build,
            grid=random["grid"],
            window=Window(**random["window"]),
            head_dim=random["head_dim"],
            sigmas=random["sigmas"],
        ),
        "efficient-lvsm": partial(efficient_lvsm.build, side=LVSM.height),
    }
    for name, build in builds.items():
        monkeypatch.setitem(RECIPES, name, dataclasses.replace(RECIPES[name], build=build))


def save(folder: Path, recipe: str) -> list[Path]:
    paths = []
    for checkpoint in random_files(recipe):
        paths.append(folder / checkpoint.path.name)
        tensors = {name: t.contiguous().clone() for name, t in checkpoint.tensors.items()}
        safetensors.torch.save_file(tensors, paths[-1])
    return paths


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("recipe", ["oasis", "waypoint", "efficient-lvsm"])
def test_from_files_to_frames(recipe, dtype, small, tmp_path, capsys):
    files = [str(path) for path in save(tmp_path, recipe)]
    out = tmp_path / "made.safetensors"
    assert cli.main(["convert", *files, str(out), "--name", "tiny", "--dtype", dtype]) == 0
    shown = capsys.readouterr().out
    licence = RECIPES[recipe].licence
    assert licence in shown and "tiny" in shown
    info = rtfm_rt.read_info(str(out))
    assert info["manifest"]["family"] == RECIPES[recipe].family
    assert info["manifest"]["licence"] == licence
    assert info["manifest"]["source"]["file"] == " + ".join(Path(file).name for file in files)
    Path(tmp_path / "plain").touch()
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode

    assert cli.main(["info", str(out), "--check", "--device", "cpu"]) == 0
    session = rtfm_rt.Session(str(out), device="cpu", threads=2)
    exact = session.precision == "float32"
    off = re.search(r"off by (.*) of 255", capsys.readouterr().out)
    assert off and float(off[1]) <= (0.1 if exact else 0.4)

    image = np.random.default_rng(0).integers(0, 256, (*session.image_size, 3), np.uint8)
    if session.actions:
        session.observe(image)
        name = next(iter(session.actions))
        frames = [session.step(action={name: session.actions[name][1]}) for _ in range(3)]
    else:
        session.observe(image, np.eye(4))
        frames = [session.step(np.eye(4))]
    assert all(np.asarray(frame).std() > 1 for frame in frames)
    assert frames[0].images.shape == (info["manifest"].get("images", 1), *image.shape)


@pytest.mark.parametrize("recipe", ["oasis", "waypoint", "efficient-lvsm"])
def test_refuses(recipe, small, tmp_path):
    files = save(tmp_path, recipe)
    out = tmp_path / "made.safetensors"
    out.write_bytes(b"the file before")

    def refused(match: str | None, *paths: Path, **options: str) -> None:
        with pytest.raises(rtfm_rt.ModelError, match=match):
            convert_published(paths, out, **options)
        assert out.read_bytes() == b"the file before"
        assert not [*tmp_path.glob(".*"), *tmp_path.glob("*.part")]

    whole = files[0].read_bytes()
    files[0].write_bytes(whole[: len(whole) // 2])
    refused("expected a .safetensors checkpoint", *files)
    files[0].write_bytes(whole)

    pickle = tmp_path / "model.pt"
    torch.save({"model": {"a": torch.zeros(1)}}, pickle)
    refused("pickle, which could run code", pickle, *files[1:])
    optimizer = tmp_path / "optimizer.safetensors"
    safetensors.torch.save_file({"exp_avg.0": torch.zeros(2)}, optimizer)
    refused("expected the tensors of a known checkpoint", optimizer, *files[1:])
    refused(None, optimizer, *files[1:], recipe=recipe)
    refused(None, *files, *files)
    others = {"oasis": "efficient-lvsm", "waypoint": "oasis", "efficient-lvsm": "waypoint"}
    refused(None, *files, recipe=others[recipe])
    refused("family: expected one of oasis, .* got 'gpt'", *files, recipe="gpt")


def test_another_frame_is_noticed(small, tmp_path, capsys):
    """The weights of another checkpoint under the golden frame of this one."""
    out = tmp_path / "model.safetensors"
    convert_published(save(tmp_path, "efficient-lvsm"), out)
    with safetensors.safe_open(out, "pt") as file:
        manifest = json.loads(file.metadata()["rtfm"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["out.weight"] = tensors["out.weight"].flip(0).contiguous()
    safetensors.torch.save_file(tensors, out, {"rtfm": json.dumps(manifest)})
    assert cli.main(["info", str(out), "--check", "--device", "cpu"]) == 2
    assert "expected the frame that its converter made" in capsys.readouterr().err
    del manifest["golden"]
    safetensors.torch.save_file(tensors, out, {"rtfm": json.dumps(manifest)})
    assert cli.main(["info", str(out), "--check"]) == 2
    assert "nothing to check it against; rtfm-rt convert writes" in capsys.readouterr().err
    manifest["golden"] = [0.0] * 47
    safetensors.torch.save_file(tensors, out, {"rtfm": json.dumps(manifest)})
    with pytest.raises(rtfm_rt.ModelError, match=r"golden: expected 48 numbers in 0\.\.255"):
        rtfm_rt.read_info(str(out))


def test_recipes_do_not_overlap(small):
    for name in "oasis", "waypoint", "efficient-lvsm":
        assert published.find(random_files(name)) is RECIPES[name]


def test_the_list_names_sizes_and_licences(capsys):
    assert cli.main(["convert", "--list"]) == 0
    shown = capsys.readouterr().out
    for recipe in RECIPES.values():
        assert recipe.name in shown and recipe.licence in shown and recipe.parameters in shown


@pytest.mark.parametrize(
    "arguments", [[], ["one.safetensors"], ["a", "b", "--family", "frame_dit"], ["a", "b"]]
)
def test_the_command_refuses(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["convert", *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--licence", "--steps", "--fov", "--aspect"])
def test_the_command_takes_no_option_that_it_ignores(option, tmp_path, capsys):
    out = tmp_path / "made.safetensors"
    assert cli.main(["convert", "a", str(out), "--family", "oasis", option, "2"]) == 2
    assert f"expected {option} with --family frame_dit only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [(["--aspect", "2"], "--aspect with --fov"), (["--fov", "300"], "0 < degrees < 180")],
)
def test_the_command_checks_the_camera(options, text, tmp_path, capsys):
    native = ["a", str(tmp_path / "out"), "--name", "n", "--licence", "MIT"]
    assert cli.main(["convert", *native, *options]) == 2
    assert text in capsys.readouterr().err


def test_a_checkpoint_is_not_written_over(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (file,) = save(tmp_path, "efficient-lvsm")
    before = file.read_bytes()
    Path("link").symlink_to(file)
    for options in ([], ["--name", "n", "--licence", "MIT"]):
        assert cli.main(["convert", file.name, "link", *options]) == 2
        assert "link: expected a file to write, got one that is read" in capsys.readouterr().err
    assert file.read_bytes() == before
