#!/usr/bin/env bash
# Is every endpoint of the homeserver's core there? Calls the rows of checklists/endpoints.tsv that belong to it, by the
# tool endpoint-coverage, on a running throw-away server; exit code 1 when one is missing, answers 5xx or no Matrix error.
#
#   endpoint_coverage.sh BASE_URL SHARED_SECRET [more arguments of the tool, say --all or --insecure]
#
# The checklists and the tool are no part of the repository: they are looked for in $HEARTH_SHARED (default: ../shared
# beside it), and without them this fails; tests/it/clients.rs asks before it calls. The server's name is asked of the server, or taken from $SERVER_NAME.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
base=${1%/} secret=$2
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
shared=${HEARTH_SHARED:-$root/../shared}
tool=$shared/tools/endpoint-coverage
if [ ! -f "$tool" ]; then
  echo "endpoint coverage: no $tool" >&2
  exit 3
fi

# The core by area, module and path. What is left out here belongs to later capabilities: presence, openid, relations,
# spaces, search, pushers, knocking, room upgrades and summaries, refresh tokens, third-party ids, federation.
rows=$(mktemp /tmp/endpoints.XXXXXX.tsv)
trap 'rm -f "$rows"' EXIT
awk -F'\t' '
  function column(name,   i) { for (i in header) if (header[i] == name) return i }
  NR == 1 { split($0, header, FS); area = column("area"); module = column("module"); path = column("path")
            kind = column("kind"); side = column("side"); print; next }
  $side != "serve" || $kind !~ /^(spec|spec-prose|synapse)$/ { next }
  $area == "client-server" && $module ~ /^(account data|capabilities|devices|discovery|events|key backup|keys|keys \(cross-signing\)|login|membership|profile|push|receipts|registration|room directory|rooms|state|sync|old sync|to-device|typing|account)$/ \
    && $path ~ /\/(v[13]|versions)(\/|$)/ \
    && $path !~ /knock|refresh|get_token|timestamp_to_event|upgrade|room_summary|pushers|notifications|requestToken|fallback\/web|aliases$|account\/(3pid|deactivate|password)|_matrix\/static|appservice/ { print; next }
  $area == "media" && $path !~ /federation|media\/v1\/create|upload\// { print; next }
  $path ~ /^\/_matrix\/key\/v2\/server$|^\/_matrix\/federation\/v1\/version$|^\/_synapse\/admin\/v1\/register$|^\/_matrix\/client\/versions$/ { print }
' "$shared/checklists/endpoints.tsv" > "$rows"

name=${SERVER_NAME:-$(python3 - "$base" <<'PY'
import json, ssl, sys, urllib.request
insecure = ssl._create_unverified_context() if sys.argv[1].startswith("https:") else None
print(json.load(urllib.request.urlopen(sys.argv[1] + "/_matrix/key/v2/server", timeout=10, context=insecure))["server_name"])
PY
)}
python3 "$tool" --base "$base" --server-name "$name" --shared-secret "$secret" --tsv "$rows" --fail-on missing,5xx,bad,error "$@"
