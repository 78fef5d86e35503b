# SPDX-License-Identifier: Apache-2.0
"""The runtime for real-time frame models: give it a pose, get a frame."""

from rtfm_rt._core import ArgumentError, DeviceError, Error, Frame, Memory

# isort: split
from rtfm_rt._core import ModelError, PoseError, PoseSlot, WorldError, __version__
from rtfm_rt.info import read_info
from rtfm_rt.pose import Intrinsics, Pose
from rtfm_rt.session import Model, Session, Ticket

__all__ = [
    "ArgumentError", "DeviceError", "Error", "Frame", "Intrinsics", "Memory", "Model", "ModelError",
    "Pose", "PoseError", "PoseSlot", "Session", "Ticket", "WorldError", "__version__", "read_info",
]  # fmt: skip
