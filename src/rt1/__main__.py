"""``python -m rt1``: the command line."""

from __future__ import annotations

import sys

from rt1.cli import main

sys.exit(main())
