#!/usr/bin/env bash
# Gathers the wheels that a machine without a network lacks for this package, from pip's configured index.
#   tests/gpu/wheels.sh FREEZE FOLDER [--python 3.12] [--most 40] [--pin NAME==VERSION ...] [--also NAME ...]
# FREEZE: what `pip freeze` prints on that machine. FOLDER: of the wheels. --most: MiB of all of them together.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "${PYTHON:-python3}" "$here/wheels.py" "$@"
