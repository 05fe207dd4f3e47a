"""``python -m surgvivqa``."""

import sys

from surgvivqa.cli import main

sys.exit(main())
