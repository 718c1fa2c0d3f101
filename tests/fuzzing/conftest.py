"""The harnesses stand beside the tests, since they also run without them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
