# SPDX-License-Identifier: Apache-2.0
"""Makes model files from checkpoints (extra `convert`)."""

from rtfm_rt.convert.frame_dit import BLOCK_NAMES, NAMES, convert, flow_table, make_manifest

__all__ = ["BLOCK_NAMES", "NAMES", "convert", "flow_table", "make_manifest"]
