#!/usr/bin/env bash
# Two people and their devices talk through matrix-js-sdk and its Rust crypto: see story.mjs for the steps.
#
#   run.sh BASE_URL SHARED_SECRET
#
# HTTPS with a private authority: give its certificate in NODE_EXTRA_CA_CERTS. The end of the SDK's own log is shown when
# a step fails; all of it goes to the file named by SDK_LOG. Exit code 1: a step failed; 3: npm is missing.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=../node.sh
. ../node.sh
exec "$node" --no-warnings story.mjs "$1" "$2"
