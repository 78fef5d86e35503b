# SPDX-License-Identifier: Apache-2.0
"""What is in a model file."""

from __future__ import annotations

import os
from typing import Any

from rtfm_rt import _core
from rtfm_rt.session import model_path


def read_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks a model file; its manifest, tensors, parameters and bytes.

    path: a bundled name ("rooms") or a model file, as for `Model`. Raises ModelError.
    """
    return _core.read_info(model_path(path))
