# SPDX-License-Identifier: Apache-2.0
"""`python -m rtfm_rt` is the command `rtfm-rt`."""

import sys

from rtfm_rt.cli import main

sys.exit(main())
