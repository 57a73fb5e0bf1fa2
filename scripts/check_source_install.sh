#!/usr/bin/env bash
# `pip install .`, then `pip install ./plugins/…`, as a user would: nothing prepared, no flags. Builds in copies, away from the checkout, and one
# instruction set only: the wheels have all.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
git -C "$root" ls-files -z | (cd "$root" && xargs -0 cp --parents -t "$away")
cd "$away"
export RUVATTN_BUILD_ISAS=scalar

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -qq .
for plugin in plugins/*/pyproject.toml; do
    venv/bin/pip install -qq "./$(dirname "$plugin")"
done
cd venv
bin/ruvattn plugins
bin/python -W error - <<'PY'
import numpy as np
import ruvattn
from ruvattn import plugins

statuses = plugins.status()
assert statuses and all(status.loaded for status in statuses), statuses
q = np.ones((2, 3), dtype=np.float32)
assert np.allclose(ruvattn.attention(q, q, q, score="rbf-compiled"), 1)
PY
