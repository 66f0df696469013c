#!/usr/bin/env bash
# crash.py on a database made for it: a fresh SQLite file, or a fresh database of a private PostgreSQL cluster.
#
#   crash.sh BINARY sqlite|postgres [arguments of crash.py, say --rounds 50 --seed 7]
#
# All of it lives in a throw-away folder, kept when a fault was found.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
binary=$1 engine=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers=$here/../bench/peers.sh
dir=$(mktemp -d /tmp/crash.XXXXXX)
finish() {
  rc=$?
  "$peers" pg-stop "$dir" || true
  if [ $rc = 0 ]; then rm -rf "$dir"; else echo "kept $dir" >&2; fi
}
trap finish EXIT
case $engine in
  sqlite) database=sqlite ;;
  postgres)
    database=crash
    "$peers" pg-start "$dir"
    "$peers" database "$dir" "$database"
    ;;
  *) echo "sqlite or postgres, not $engine" >&2; exit 2 ;;
esac
"$peers" config "$dir" "$("$peers" port)" "$database" 4
python3 "$here/crash.py" "$binary" "$dir/homeserver.yaml" --log "$dir/server.log" "$@"
