#!/usr/bin/env bash
# Install the wheels of dist/ into an empty environment, far from the checkout, and use them there. `make check-wheels` builds them first.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dist=$(cd "$scripts/../dist" && pwd)
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
cd "$away"

"${PYTHON:-python3}" -m venv venv
# All that `pip install "ruvattn[all]"` gives, with what is named ruvattn… from dist/ and from nowhere else.
for wheel in "$dist"/ruvattn_*.whl; do
    name=$(basename "$wheel")
    echo "${name%%-*} @ file://$wheel"
done > constraints.txt
venv/bin/pip install -qq --constraint constraints.txt "$(echo "$dist"/ruvattn-*.whl)[all]"

venv/bin/python - "$dist" <<'PY'
import importlib.util
import sys
from importlib import metadata, resources
from pathlib import Path

import ruvattn
from ruvattn import plugins
from ruvattn.build import DTYPES, ISAS

package = Path(str(resources.files("ruvattn")))
assert "venv" in package.parts, package
have = {path.relative_to(package).as_posix() for path in package.rglob("*")}
for name in ("py.typed", "kernels/vector.pxd", "kernels/tile.pyx", "data/embeddings.npz", "data/sentences.tsv"):
    assert name in have, f"the wheel lacks {name}"
for isa in ISAS:
    for dtype in DTYPES:
        for kernel in ("tile", "edge"):
            assert any(name.startswith(f"kernels/{kernel}_{isa}_{dtype}.") for name in have), f"the wheel lacks {kernel}_{isa}_{dtype}"

# The extra "all": each plugin but the example, which is for reading, and the libraries that need no torch.
made = {metadata.metadata(wheel.name.split("-")[0])["Name"] for wheel in Path(sys.argv[1]).glob("*.whl") if not wheel.name.startswith("ruvattn_example")}
loaded = {status.distribution for status in plugins.status() if status.loaded}
assert loaded == made - {"ruvattn"}, (loaded, made)
for library in ("matplotlib", "ml_dtypes", "safetensors"):
    assert importlib.util.find_spec(library), f"ruvattn[all] lacks {library}"
PY
venv/bin/pip install -qq --no-index --no-deps "$dist"/ruvattn_example-*.whl

if [ "$(uname)" = Linux ]; then
    for wheel in "$dist"/*.whl; do
        case $wheel in
        *-manylinux*.whl | *-musllinux*.whl | *-none-any.whl) ;;
        *) echo "$(basename "$wheel") runs on machines like this one only: make wheels repairs what it builds" >&2; exit 1 ;;
        esac
    done
    venv/bin/python "$scripts/check_threads.py" venv
fi
venv/bin/ruvattn info
venv/bin/ruvattn plugins
venv/bin/ruvattn demo
venv/bin/ruvattn test --suite variants
