#!/usr/bin/env bash
# The way of somebody who writes a plugin, in an empty environment far from the checkout: the wheels of dist/, `ruvattn new-plugin`, its tests, its
# variant in `ruvattn bench` and on a page of the dashboard; a compiled variant; then the plugins of examples/plugins. `make wheels` builds dist/.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dist=$(cd "${DIST:-$root/dist}" && pwd)
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
cd "$away"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -qq --find-links "$dist" "$dist"/*.whl 'ruvattn[bench,training]' pytest hypothesis
python=$away/venv/bin/python
# One build of what is compiled: the one that this machine would choose.
RUVATTN_BUILD_ISAS=$("$python" -c 'from ruvattn.isa import active_isa; print(active_isa())')
export RUVATTN_BUILD_ISAS

venv/bin/ruvattn new-plugin demo-x --cython
venv/bin/pip install -qq ./demo-x
(cd demo-x && "$python" -m pytest -q -p no:cacheprovider)
venv/bin/ruvattn plugins --json > plugins.json
venv/bin/ruvattn bench --attention-type demo-x --iterations 3 --no-scalar --json > bench.json
"$python" - <<'PY'
import json
from pathlib import Path

plugins = {plugin["distribution"]: plugin for plugin in json.loads(Path("plugins.json").read_text())["plugins"]}
assert plugins["demo-x"]["loaded"] and plugins["demo-x"]["error"] is None, plugins["demo-x"]
assert plugins["demo-x"]["provides"] == {"variant": ["demo-x"], "score": ["demo-x"]}, plugins["demo-x"]["provides"]
timed = json.loads(Path("bench.json").read_text())
assert (timed["attention_type"], timed["distribution"]) == ("demo-x", "demo-x"), timed
assert timed["seconds"] > 0 and timed["iterations"] == 3, timed
PY

# One benchmark of each class of the plugin, and the same of a variant that is built in; the rest differs by a name only.
"$python" "$root/asv_benchmarks/dashboard.py" --existing "$python" --plugin demo-x --quick --allow-dirty --no-serve --html "$away/html" \
    --bench '^demo_x\..*time_sequence' --bench '^variants\.Variant\.time_sequence\(.standard'
"$python" - <<'PY'
import json
import re
from pathlib import Path

pages = Path("html")
known = set(json.loads((pages / "index.json").read_text())["benchmarks"])
for name in ("demo_x.demo_x_variants.DemoX.time_sequence", "demo_x.demo_x_variants.DemoXScore.time_sequence", "variants.Variant.time_sequence"):
    assert name in known, f"the dashboard lacks {name}: {sorted(known)}"
beside = (pages / "variants.html").read_text()
for name in ("demo-x", "standard"):
    assert re.search(rf">\s*{name}\s*<", beside), f"variants.html lacks {name}"
for page in sorted(pages.rglob("*.html")):
    # All that a page loads, and all that it leads to but the home of asv, has to be beside it.
    for element, attributes in re.findall(r"<([a-z]\w*)\b([^>]*)>", page.read_text()):
        for address in re.findall(r"""\b(?:src|href|action)\s*=\s*["']([^"']*)""", attributes):
            if element == "a" and address == "https://github.com/airspeed-velocity/asv/":
                continue
            assert not re.match(r"([a-z]+:)?//", address), f"{page} leads to {address}"
            place = address.partition("#")[0].partition("?")[0]
            assert not place or place.startswith("data:") or (page.parent / place).exists(), f"{page} needs {address}, which isn't there"
for style in pages.rglob("*.css"):
    found = re.search(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"']*""", style.read_text())
    assert found is None, f"{style} loads {found[0]}"
print(f"{len(known)} benchmarks on the dashboard's pages, which need no network")
PY

# A class that is compiled, under the name that many plugins have; tests/test_new_plugin.py has all other kinds.
venv/bin/ruvattn new-plugin ruvattn-demo-y --kind variant --cython > written.txt
venv/bin/pip install -qq ./ruvattn-demo-y
(cd ruvattn-demo-y && "$python" -m pytest -q -p no:cacheprovider tests/test_ruvattn_demo_y.py)
venv/bin/ruvattn bench --attention-type demo-y --iterations 3 --no-scalar > bench.txt

for plugin in "$root"/examples/plugins/*/; do
    [ -e "$plugin/pyproject.toml" ] || continue  # the pattern itself, where there is none
    name=$(basename "$plugin")
    cp -r "$plugin" "$away/$name"  # so that nothing is built beside the sources
    venv/bin/pip install -qq "./$name"
    (cd "$name" && "$python" -m pytest -q -p no:cacheprovider)
done
venv/bin/ruvattn plugins
