#!/usr/bin/env bash
# Builds the small web client into a folder: build.sh FOLDER [BASE_URL for a config.json]
set -euo pipefail
folder=$(mkdir -p "${1:?FOLDER}" && cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=../node.sh
. ../node.sh
exec "$node" --no-warnings build.mjs "$folder" ${2:+"$2"}
