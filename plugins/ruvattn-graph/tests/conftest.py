"""Puts graph_oracle.py, which the tests of the variants share, where they can import it."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
