# SPDX-License-Identifier: Apache-2.0
"""What the runtime must compute: each family as a plain PyTorch module, written for reading."""

from rtfm_rt.reference.frame_dit import (
    EPS,
    TIME_FEATURES,
    Block,
    Config,
    FrameDiT,
    Page,
    View,
    attend,
    lift,
    load,
    projection,
    rms,
    rope,
    rope_angles,
)

__all__ = [
    "EPS",
    "TIME_FEATURES",
    "Block",
    "Config",
    "FrameDiT",
    "Page",
    "View",
    "attend",
    "lift",
    "load",
    "projection",
    "rms",
    "rope",
    "rope_angles",
]
