# SPDX-License-Identifier: Apache-2.0
"""`python -m rtfm_rt` is the command `rtfm-rt`."""

from rtfm_rt.cli import run

run()
