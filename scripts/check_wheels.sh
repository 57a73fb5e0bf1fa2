#!/usr/bin/env bash
# Install the wheels of dist/ into an empty environment, far from the checkout, and use them there. `make check-wheels` builds them first.
set -euo pipefail
dist=$(cd "$(dirname "${BASH_SOURCE[0]}")/../dist" && pwd)
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
cd "$away"

"${PYTHON:-python3}" -m venv venv
# The two extras: the demo draws with matplotlib, the conformance suite tries bfloat16 where there is ml_dtypes.
venv/bin/pip install -qq --find-links "$dist" "$dist"/*.whl 'ruvattn[demo,bfloat16]'

venv/bin/python - <<'PY'
from importlib import resources
from pathlib import Path

import ruvattn

package = Path(str(resources.files("ruvattn")))
assert "venv" in package.parts, package
have = {path.relative_to(package).as_posix() for path in package.rglob("*")}
for name in ("py.typed", "kernels/vector.pxd", "kernels/tile.pyx", "data/embeddings.npz", "data/sentences.tsv"):
    assert name in have, f"the wheel lacks {name}"
from ruvattn.build import DTYPES, ISAS

for isa in ISAS:
    for dtype in DTYPES:
        for kernel in ("tile", "edge"):
            assert any(name.startswith(f"kernels/{kernel}_{isa}_{dtype}.") for name in have), f"the wheel lacks {kernel}_{isa}_{dtype}"
PY
venv/bin/ruvattn info
venv/bin/ruvattn plugins
venv/bin/ruvattn demo
venv/bin/ruvattn test --suite variants
