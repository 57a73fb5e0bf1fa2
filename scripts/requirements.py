"""Print what is needed to build projects, one requirement a line, for ``pip install -r``; ruvattn itself left out.

    python scripts/requirements.py pyproject.toml plugins/*/pyproject.toml
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

found = {}
for path in sys.argv[1:]:
    for requirement in tomllib.loads(Path(path).read_text(encoding="utf-8"))["build-system"]["requires"]:
        if re.split(r"[^A-Za-z0-9._-]", requirement)[0] != "ruvattn":
            found[requirement] = None
print("\n".join(found))
