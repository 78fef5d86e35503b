# SPDX-License-Identifier: Apache-2.0
"""What is said where an optional dependency is missing."""

from __future__ import annotations

from rtfm_rt._core import Error


def missing(what: str, extra: str, error: ImportError) -> Error:
    """To be raised when `what`, which the extra brings, could not be imported."""
    return Error(
        f"{what}, got: {error}; install the extra `{extra}`: pip install 'rtfm_rt[{extra}]', or "
        f"'.[{extra}]' in a clone of the repository"
    )
