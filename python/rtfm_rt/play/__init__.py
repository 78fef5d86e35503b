# SPDX-License-Identifier: Apache-2.0
"""FRAMEBOY: a page to walk a world in (extra `play`; imported when used)."""
