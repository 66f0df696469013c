#!/usr/bin/env bash
# Alice and Bob, each in a Chromium of their own, with a small web client on the browser build of matrix-js-sdk: sign in,
# make an encrypted room, invite, write both ways, send a picture, reload the page, sign out. See flow.mjs.
#
#   run.sh BASE_URL SHARED_SECRET             the app comes from a throw-away static server (another origin: tests CORS)
#   run.sh BASE_URL SHARED_SECRET APP_URL     the app comes from the server under test, which serves the folder made by
#                                             `build.sh FOLDER` and writes its config.json itself
#
# HTTPS with a private authority: its certificate in $CA_FILE; Chromium then trusts it as an administrator's (constraints on
# names included), and Node too. Wants certutil (Debian: libnss3-tools).
# Chromium: $CHROMIUM, or `chromium` on the PATH. Extra flags for it in $BROWSER_ARGS (say --host-resolver-rules=…).
# Screenshots go to $SCREENSHOTS (default: the run's temporary folder, kept only on failure).
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=../node.sh
. ../node.sh
CHROMIUM=${CHROMIUM:-$(command -v chromium || true)}
[ -n "$CHROMIUM" ] || { echo "chromium is needed" >&2; exit 3; }
export CHROMIUM
work=$(mktemp -d /tmp/browser.XXXXXX)
trap 'rc=$?; [ $rc = 0 ] && rm -rf "$work" || echo "kept $work" >&2' EXIT
if [ -n "${CA_FILE:-}" ]; then
  command -v certutil >/dev/null || { echo "certutil is needed for CA_FILE" >&2; exit 3; }
  export HOME=$work/home NODE_EXTRA_CA_CERTS=$CA_FILE
  mkdir -p "$HOME/.pki/nssdb"
  certutil -d "sql:$HOME/.pki/nssdb" -N --empty-password
  certutil -d "sql:$HOME/.pki/nssdb" -A -n private-authority -t C,, -i "$CA_FILE"
fi
export SCREENSHOTS=${SCREENSHOTS:-$work}
if [ -z "${3:-}" ]; then "$node" --no-warnings build.mjs "$work/app" "$1"; fi
"$node" --no-warnings flow.mjs "$1" "$2" "${3:-$work/app}"
