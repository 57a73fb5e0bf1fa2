#!/usr/bin/env bash
# Wheel and sdist of each project in dist/, as an index takes them: `scripts/make_wheels.sh . plugins/*`, with PYTHON of an environment that
# has ruvattn[wheels] and the core. The core's wheel is built from its sdist, so that what the sdist lacks is seen.
#
#   build ──► linux_x86_64 ──► scripts/repair_wheel.py ──► manylinux_…_x86_64, libgomp inside ──► dist/
#
# dist/ is replaced at the end: a build that fails leaves the wheels of the last one.
set -euo pipefail
python=${PYTHON:-python3}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -gt 0 ] || { echo "scripts/make_wheels.sh PROJECT…" >&2; exit 2; }
mkdir -p build
work=$(mktemp -d build/wheels.XXXXXX)  # on the file system of dist/
trap 'rm -rf "$work"' EXIT
mkdir "$work/built" "$work/dist"

for project in "$@"; do
    "$python" -m build --no-isolation --outdir "$work/built" "$project" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
done
for wheel in "$work"/built/*.whl; do
    "$python" scripts/repair_wheel.py "$wheel" "$work/dist"
done
mv "$work"/built/*.tar.gz "$work/dist"
rm -rf dist
mv "$work/dist" dist
ls -1 dist
