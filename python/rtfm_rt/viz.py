# SPDX-License-Identifier: Apache-2.0
"""A walk as a recording for the Rerun viewer (extra `viz`: rerun-sdk; imported when used)."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import numpy as np

from rtfm_rt._core import Frame
from rtfm_rt.extras import missing
from rtfm_rt.files import Path, whole_file, writable
from rtfm_rt.session import Session

_AMBER = (255, 193, 94)


class Recording:
    """A .rrd file in the making; the file appears when the `with` block succeeds.

    Timeline `frame` counts the steps, 0 is before the first. `world/camera` is the camera
    (Transform3D, Pinhole) with its frame, `world/memory/ID` each remembered frame with its own
    camera, `world/context` lines from the camera to the frames attended to (`context:ids`),
    `support` and `latency_ms` are scalars.
    """

    def __init__(self, path: Path, session: Session) -> None:
        self._rr = _extra()
        self._path, self._session = path, session
        self._known: set[int] = set()
        self._step = 0

    def write(self, frame: Frame) -> None:
        """Logs the frame that the session has just made."""
        self._step += 1
        self._stream.set_time("frame", sequence=self._step)
        pose = frame.pose
        self._camera("world/camera", pose, frame.intrinsics, np.asarray(frame))
        self._remember()
        places = dict(zip(self._session.memory.ids, self._session.memory.poses, strict=True))
        here = pose[:3, 3]
        lines = [[here, places[id_][:3, 3]] for id_ in frame.context if id_ in places]
        rr = self._rr
        self._stream.log("world/context", rr.LineStrips3D(lines, colors=[_AMBER] * len(lines)))
        self._stream.log("context", rr.AnyValues(ids=frame.context))
        self._stream.log("support", rr.Scalars(frame.support))
        self._stream.log("latency_ms", rr.Scalars(frame.latency * 1e3))

    def _remember(self) -> None:
        """Logs what is new in memory and clears what was forgotten."""
        memory = self._session.memory
        ids = memory.ids
        for id_ in self._known.difference(ids):
            self._stream.log(f"world/memory/{id_}", self._rr.Clear(recursive=True))
        for id_, pose in zip(ids, memory.poses, strict=True):
            if id_ not in self._known:
                path = f"world/memory/{id_}"
                self._camera(path, pose, self._session.intrinsics, memory.image(id_))
        self._known = set(ids)

    def _camera(
        self,
        path: str,
        pose: np.ndarray,
        focal: tuple[float, float],
        image: np.ndarray,
    ) -> None:
        """focal: in units of image width and height; axes are ours and Rerun's default: RDF."""
        rr = self._rr
        height, width, _ = image.shape
        pinhole = rr.Pinhole(
            resolution=(width, height),
            focal_length=(focal[0] * width, focal[1] * height),
            camera_xyz=rr.ViewCoordinates.RDF,
            image_plane_distance=0.25,
        )
        self._stream.log(path, rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        self._stream.log(path, pinhole)
        self._stream.log(f"{path}/image", rr.Image(image))

    def __enter__(self) -> Recording:
        with contextlib.ExitStack() as entered:
            part = entered.enter_context(whole_file(self._path))
            self._stream = self._rr.RecordingStream("rtfm_rt")
            entered.callback(self._end)
            with writable(self._path, RuntimeError):
                self._stream.save(part)
            axes = self._rr.ViewCoordinates.RIGHT_HAND_Y_DOWN
            self._stream.log("world", axes, static=True)
            self._stream.set_time("frame", sequence=self._step)
            self._remember()
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.__exit__(*error)

    def _end(self) -> None:
        self._stream.flush()
        self._stream.disconnect()


def _extra() -> Any:
    try:
        return importlib.import_module("rerun")
    except ImportError as error:
        raise missing("rerun-sdk: expected for recordings", "viz", error) from None
