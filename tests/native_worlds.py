# SPDX-License-Identifier: Apache-2.0
"""Sessions with the world files of C++ beside those of Python, given the same frames and moves."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import action_models
import rtfm_rt
from models import turn, write_model
from rtfm_rt import world as worlds
from rtfm_rt.reference import Config

DEEP = Config(height=16, image_width=24, patch=8, width=64, layers=8, heads=2, mlp=64)
SEED = 2**64 - 3  # more than a signed integer holds
SETTINGS = {"seed": SEED, "memory_budget": 200_000, "commit_below": 1.1}
KINDS = ("poses", *action_models.KINDS)
OPTIONS = (*worlds.OPTIONS, *worlds.GIVEN_OPTIONS)


@pytest.fixture(scope="session")
def world_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The model files of KINDS."""
    folder = tmp_path_factory.mktemp("native")
    paths = {kind: str(folder / f"{kind}.safetensors") for kind in KINDS}
    write_model(folder / "poses.safetensors", DEEP, 9)
    for kind in action_models.KINDS:
        action_models.write(Path(paths[kind]), kind)
    return paths


class Maker:
    """Sessions of one model; native is rtfm_rt._testing.WorldSession."""

    def __init__(self, kind: str, path: str, native: Any) -> None:
        self.kind, self.path, self.native = kind, path, native
        self.model = rtfm_rt.Model(path, "cpu:portable")

    def start(self, native: bool, frames: int) -> Any:
        made_with = SETTINGS if self.kind == "poses" else {"seed": SEED}
        if native:
            session = self.native(self.path, **made_with)
        else:
            session = rtfm_rt.Session(self.model, threads=1, **made_with)
        self.observe(session, 1)
        self.walk(session, 0, frames)
        return session

    def observe(self, session: Any, seed: int) -> None:
        image = self.model.manifest["image"]
        rng = np.random.default_rng(seed)
        picture = rng.integers(0, 256, (image["height"], image["width"], 3), np.uint8)
        session.observe(picture, *([turn(seed)] if self.kind == "poses" else []))

    def load(self, path: Path, native: bool) -> Any:
        if native:
            return self.native.load(str(path), self.path)
        return rtfm_rt.Session.load(path, self.model, threads=1)

    def moves(self, start: int, count: int) -> list[np.ndarray]:
        """Poses, or the values of actions."""
        rng = np.random.default_rng(start)
        if self.kind == "poses":
            return [turn(rng.uniform(0, 360), rng.uniform(-3, 3)) for _ in range(count)]
        spans = [(a["min"], a["max"]) for a in self.model.manifest["actions"]]
        values = [[rng.uniform(*span) for span in spans] for _ in range(count)]
        return list(np.array(values, np.float32))

    def walk(self, session: Any, start: int, count: int) -> list[bytes]:
        """All images and the pose of each step."""
        frames = []
        for where in self.moves(start, count):
            if self.kind == "poses":
                frames.append(session.step(where))
            elif isinstance(session, self.native):
                frames.append(session.act(where))
            else:
                frames.append(session.step(action=where))
        return [
            frame if isinstance(frame, bytes) else frame.images.tobytes() + frame.pose.tobytes()
            for frame in frames
        ]


@pytest.fixture(params=KINDS)
def maker(
    request: pytest.FixtureRequest, world_models: dict[str, str], testing: ModuleType
) -> Maker:
    return Maker(request.param, world_models[request.param], testing.WorldSession)


@pytest.fixture
def by_poses(world_models: dict[str, str], testing: ModuleType) -> Maker:
    return Maker("poses", world_models["poses"], testing.WorldSession)


def as_native(path: Path) -> tuple[Any, ...]:
    """What Python reads of a file, as read_world returns it."""
    world, images, saved, options = worlds.load(path)
    numbers = [
        np.concatenate([*pose.reshape(1, 16), k])
        for pose, k in zip(world["poses"], world["intrinsics"], strict=True)
    ]
    numbers += [world[key].ravel() for key in ("last_pose", "origin") if world[key] is not None]
    lists = (world[key].tolist() for key in ("ids", "by_use", "with_page"))
    return (
        world["next_id"],
        *lists,
        b"".join(n.tobytes() for n in numbers),
        world["page_dtype"] or "",
        world["pages"],
        images.tobytes(),
        *images.shape[1:3],
        *saved[:2],
        set(saved.revisions),
        *(options.get(key) for key in OPTIONS),
    )
