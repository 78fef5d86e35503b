# SPDX-License-Identifier: Apache-2.0
"""Makes model files from checkpoints (extra `convert`)."""

from rtfm_rt.convert.frame_dit import BLOCK_NAMES, NAMES, convert, flow_table, make_manifest
from rtfm_rt.convert.published import RECIPES, convert_published

__all__ = [
    "BLOCK_NAMES",
    "NAMES",
    "RECIPES",
    "convert",
    "convert_published",
    "flow_table",
    "make_manifest",
]
