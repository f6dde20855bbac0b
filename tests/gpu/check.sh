#!/usr/bin/env bash
# Everything there is to measure on one GPU, in at most nine minutes. The figures are $OUT/gpu.json.
#   tests/gpu/check.sh [--wheels FOLDER] [--rehearse] [--only PART ...]
# --wheels: packages that this machine lacks, as tests/gpu/wheels.sh gathered them; they are installed into a temporary folder.
# --rehearse: on this CPU with small networks, the same code and the same keys. The checkout stays as it is.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${OUT:-}
wheels=
rest=()
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=$2; shift 2 ;;
        *) rest+=("$1"); shift ;;
    esac
done
if [ -z "$out" ]; then
    echo "error: the variable OUT names the folder of gpu.json, found none" >&2
    echo "fix: OUT=/tmp/gpu $0" >&2
    exit 2
fi
python=${PYTHON:-python3}
path=$root:$root/tests:$root/tests/support
if [ -n "$wheels" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" "$wheels"/*.whl
    path=$work/site:$path
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$work" # nothing that runs writes into the checkout
limit=$((535 - SECONDS))
PYTHONPATH=$path PYTHONDONTWRITEBYTECODE=1 "$python" -m gpu.check --out "$out" --seconds "$limit" "${rest[@]}"
