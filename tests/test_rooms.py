# SPDX-License-Identifier: Apache-2.0
"""The maker of the bundled model: its renderer, its network and its trainer."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rtfm_rt
from rtfm_rt.reference import Config, View

if shutil.which("g++") is None:
    pytest.skip("tools/rooms compiles its renderer with g++", allow_module_level=True)

from tools.rooms import card, evaluate, scenes, sharpen, train
from tools.rooms.muon import orthogonal
from tools.rooms.network import Frames, initialise, projections

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    """A run sets their number for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def rooms() -> tuple[np.ndarray, np.ndarray]:
    """Seeds of three rooms and eight poses in each."""
    seeds = np.array([5, 6, 2**50], np.uint64)
    return seeds, scenes.sample_poses(seeds, 8)


def test_rendering_is_a_function_of_room_and_pose(rooms):
    seeds, poses = rooms
    pictures = scenes.render(seeds, poses, 24)
    np.testing.assert_array_equal(pictures, scenes.render(seeds, poses, 24, threads=3))
    alone = scenes.render(seeds[1:2], poses[1:2, 3:4], 24)
    np.testing.assert_array_equal(pictures[1, 3], alone[0, 0])
    elsewhere = scenes.render(seeds[:1], poses[1:2], 24)
    assert np.abs(pictures[1].astype(int) - elsewhere[0]).mean() > 10  # another room
    assert all(picture.std() > 10 for picture in pictures[:, 0])


def test_rooms_stay_those_of_the_data_set(rooms):
    """What the bundled model's first training and the held-out pictures were rendered with."""
    seeds, poses = rooms
    pose = [-0.993, 0.0, -0.1183, -0.0112, 0.9955, 0.0939, 0.1178, 0.0946, -0.9885]
    np.testing.assert_allclose(poses[0, 3], [*pose, 0.7107, -1.5, 1.3526], atol=2e-4)
    mean = scenes.render(seeds[:1], poses[:1], 64)[0, 3].mean((0, 1))
    np.testing.assert_allclose(mean, [145.22, 144.47, 144.02], atol=0.3)


def test_sizes_show_the_same_view(rooms):
    seeds, poses = rooms
    large = scenes.render(seeds, poses, 64).astype(float)
    small = scenes.render(seeds, poses, 32).astype(float)
    shrunk = large.reshape(3, 8, 32, 2, 32, 2, 3).mean((3, 5))
    assert np.abs(shrunk - small).mean() < 3


def test_poses_stand_in_the_room_and_look_level(rooms):
    seeds, poses = rooms
    pose = scenes.matrices(poses)
    axes = pose[..., :3, :3]
    np.testing.assert_allclose(
        axes.swapaxes(-1, -2) @ axes, np.eye(3) * np.ones((3, 8, 1, 1)), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(axes), 1, atol=1e-5)
    assert np.all(pose[..., 1, 3] == -1.5) and np.all(np.abs(axes[..., 1, 2]) < 0.4)
    for seed, row in zip(seeds, poses, strict=True):
        assert scenes.is_free(seed, row[0, 9], row[0, 11])
        assert not scenes.is_free(seed, 9.0, 0.0)
    np.testing.assert_allclose(scenes.stand(1.0, 2.0, 0.0)[6:], [0, 0, 1, 1, -1.5, 2], atol=1e-6)


def test_walks_come_back(rooms):
    for seed in rooms[0]:
        walk = scenes.there_and_back(seed, 40)
        assert walk.shape == (40, 12) and np.array_equal(walk, walk[::-1])
        assert np.array_equal(walk, scenes.there_and_back(seed, 40))
        assert all(scenes.is_free(seed, row[9], row[11]) for row in walk)
        assert 1 <= np.linalg.norm(walk[19, 9:] - walk[0, 9:]) <= 2
        assert np.linalg.norm(np.diff(walk[:, 9:], axis=0), axis=1).max() < 0.2


def test_mirrors_reflect(tmp_path):
    program = tmp_path / "mirror"
    source = ROOT / "tests" / "rooms_mirror.cc"
    subprocess.run(
        ["g++", "-std=c++20", "-O1", f"-I{ROOT}", str(source), "-o", program], check=True
    )
    subprocess.run([program], check=True)


def test_held_out_rooms_are_never_trained_on():
    drawn = [scenes.training_seeds(0, step, 1000) for step in range(20)]
    assert np.concatenate(drawn).max() < scenes.HELD_OUT <= scenes.held_out_seeds(100).min()
    assert len(np.unique(drawn)) == 20_000
    assert np.array_equal(drawn[3], scenes.training_seeds(0, 3, 1000))
    assert not np.array_equal(drawn[3], scenes.training_seeds(1, 3, 1000))


def test_the_package_knows_nothing_of_tools():
    for path in (ROOT / "python").rglob("*.py"):
        assert not re.search(r"^\s*(import|from)\s+tools\b", path.read_text(), re.MULTILINE), path


def test_network_computes_what_the_reference_computes(rooms):
    torch.manual_seed(0)
    model = Frames(Config(16, 16, 8, 64, 2, 2, 96)).requires_grad_(False)
    for value in model.parameters():
        value.normal_(std=0.2)
    seeds, poses = rooms
    tokens = model.tokens(torch.from_numpy(scenes.render(seeds, poses, 16)))
    noise, t = torch.randn(3, 2, 4, 192), torch.rand(3, 2)
    cameras = projections(torch.from_numpy(poses[:, :4]), scenes.FOCAL)
    got = model(tokens[:, :2], noise, t, cameras)
    views = [
        [View(torch.from_numpy(p), scenes.FOCAL, scenes.FOCAL) for p in row[:4]]
        for row in scenes.matrices(poses)
    ]
    for room in range(3):
        pages = [model.read(tokens[room, i]) for i in range(2)]
        for i in range(2):
            expected = model.write(
                noise[room, i], float(t[room, i]), pages, views[room][:2], views[room][2 + i]
            )
            torch.testing.assert_close(got[room, i], expected, rtol=1e-4, atol=1e-4)


def test_updates_are_orthogonal():
    for shape in ((2, 8, 24), (2, 24, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.3


def arguments(out: Path, *more: str, command: Any = train) -> Any:
    """A run of a tiny model with one thread."""
    size = ["--size", "16", "--width", "64", "--layers", "1", "--rooms", "4", "--threads", "1"]
    return command.parse(["--out", str(out), "--device", "cpu", *size, *more])


def tiny_model(path: Path) -> Path:
    """The weights of a model that has learnt a little."""
    trainer = train.run(arguments(path, "--steps", "40", "--no-evaluate"))
    card.save_weights(trainer.model, path / "tiny.safetensors", trainer.samplers)
    return path / "tiny.safetensors"


def test_training_learns_and_exports(tmp_path, capsys):
    trainer = train.run(arguments(tmp_path, "--steps", "100"))
    losses = [entry["loss"] for entry in trainer.log if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    assert len(capsys.readouterr().out.splitlines()) == len(trainer.log)
    files = ("weights.safetensors", "rooms.safetensors", "README.md")
    assert len({(tmp_path / name).stat().st_mode for name in files}) == 1
    session = rtfm_rt.Session(str(tmp_path / "rooms.safetensors"), device="cpu", threads=1)
    session.observe(np.zeros((16, 16, 3), np.uint8), np.eye(4))
    assert np.asarray(session.step(np.eye(4))).shape == (16, 16, 3)
    card = (tmp_path / "README.md").read_text()
    assert "100 steps" in card and "random weights" in card and re.search(r"\d+\.\d\d dB", card)
    # the weights it leaves begin another run, and so does the model file
    for name in ("weights.safetensors", "rooms.safetensors"):
        again = train.open_model(tmp_path / name)
        for key, value in trainer.averaged().state_dict().items():
            torch.testing.assert_close(again.state_dict()[key], value, rtol=0.01, atol=1e-6)


def test_a_run_without_a_step_leaves_no_model(tmp_path):
    with pytest.raises(SystemExit, match=r"one step at least, got none in 1e-09 hours"):
        train.run(arguments(tmp_path, "--hours", "1e-9", "--no-evaluate"))
    assert not list(tmp_path.glob("*.safetensors")) and not (tmp_path / "README.md").exists()
    for option in ("--hours", "--steps"):
        with pytest.raises(SystemExit):
            arguments(tmp_path, option, "0")


@pytest.mark.parametrize("sharpens", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, sharpens):
    def run(name: str) -> train.Trainer:
        options = ["--steps", "6", "--no-evaluate"]
        if not sharpens:
            return train.run(arguments(tmp_path / name, *options))
        options += ["--init", str(init)]
        return train.run(arguments(tmp_path / name, *options, command=sharpen), sharpen.Sharpener)

    init = tiny_model(tmp_path / "init") if sharpens else None
    whole = run("whole")

    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    real = train.make_batch

    def interrupted(args: Any, step: int) -> train.Batch:
        if step == 4:
            raise KeyboardInterrupt
        return real(args, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "make_batch", interrupted)
        run("cut")
    resumed = run("cut")
    assert resumed.step == whole.step == 6 and resumed.targets == whole.targets
    for one, other in (
        (whole.model.state_dict(), resumed.model.state_dict()),
        (whole.average, resumed.average),
    ):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not list(tmp_path.rglob("*.tmp"))


def test_sharpening_teaches_the_second_step(tmp_path):
    init = tiny_model(tmp_path / "init")
    args = arguments(tmp_path, "--steps", "60", "--init", str(init), command=sharpen)
    before, trainer = train.open_model(init), train.run(args, sharpen.Sharpener)
    batch = train.make_batch(args, 1000)
    tokens, cameras = before.tokens(batch.images), projections(batch.poses, scenes.FOCAL)
    context = tokens[:, :1]
    noise, *draws = torch.randn(3, *tokens[:, 1:].shape, generator=torch.Generator().manual_seed(0))
    _, target = trainer._teach(context, noise, cameras, draws)

    def error(model: Frames) -> float:
        got = evaluate.sample(model, context, noise, cameras, sharpen.TABLE)
        return float((got - target).square().mean())

    assert error(trainer.averaged()) < 0.7 * error(before)
    manifest = rtfm_rt.read_info(str(tmp_path / "rooms.safetensors"))["manifest"]
    assert manifest["samplers"]["2"] == sharpen.TABLE
    assert "tools.rooms.sharpen" in (tmp_path / "README.md").read_text()
    with pytest.raises(SystemExit):
        sharpen.parse(["--out", str(tmp_path)])


def test_first_model_predicts_nothing_and_is_scored():
    model = Frames(Config(16, 16, 8, 64, 1, 1, 64))
    initialise(model)
    figures = evaluate.evaluate(model.requires_grad_(False), train.Trainer.samplers, rooms=2)
    assert {cell["sharpness"] for cell in figures.values()} == {0.0}
    assert len({cell["psnr"] for cell in figures.values()}) == 1
    assert evaluate.table(figures).count("dB") == 9


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_gpu_renderer_compiles(tmp_path):
    command = scenes.compile_command("render.cu", tmp_path / "render.so")
    command[command.index("-arch=native")] = "-arch=sm_90"  # a machine without a GPU has no native
    subprocess.run(command, check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device answers")
def test_gpu_renders_the_same_and_trains(rooms, tmp_path):
    seeds, poses = rooms
    pictures = scenes.render(seeds, poses, 64).astype(int)
    difference = np.abs(scenes.render_on_gpu(seeds, poses, 64).cpu().numpy() - pictures)
    assert np.mean(difference > 2) < 1e-3  # edges may fall on the other side
    trainer = train.run(arguments(tmp_path, "--steps", "100", "--device", "cuda"))
    losses = [entry["loss"] for entry in trainer.log if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
