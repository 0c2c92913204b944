"""``python -m danlu`` is the command ``danlu``."""

import sys

from danlu.cli import main

sys.exit(main())
