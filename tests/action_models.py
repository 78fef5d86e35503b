# SPDX-License-Identifier: Apache-2.0
"""Small model files that go by actions, every tensor random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch

from tools.parity import oasis, waypoint

KINDS = ("keep", "recompute", "causal")  # of st_dit: what becomes of pages; causal_dit
SMALL_CAUSAL: dict[str, Any] = waypoint.RECIPE | {
    "codec": {
        "latent": 4,
        "patch": 1,
        "encoder_width": 8,
        "encoder_strides": [2, 1, 1],
        "decoder_widths": [12, 8, 4, 6],
        "decoder_strides": [1, 1, 2],
    },
}
_WITH_KEYS = SMALL_CAUSAL | {
    "sizes": SMALL_CAUSAL["sizes"] | {"actions": 3 + 0x58},  # up to the key W
}


def write(path: Path, kind: str, **changes: Any) -> str:
    """Writes the model and returns its path; changes: of the manifest."""
    manifest, tensors = waypoint.build(_WITH_KEYS) if kind == "causal" else oasis.convert(kind)
    source = {"file": "random", "sha256": "0" * 64}
    manifest |= {"name": kind, "licence": "MIT", "source": source} | changes
    stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
    path.write_bytes(safetensors.torch.save(stored, {"rtfm": json.dumps(manifest)}))
    return str(path)
