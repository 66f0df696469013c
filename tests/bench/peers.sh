#!/usr/bin/env bash
# What Hearth is measured and tested beside: Synapse, PostgreSQL 15 and the load tool, set up from the package
# registries, run on loopback from a throw-away directory, and stopped again.
#
#   peers.sh setup                          Synapse into a venv and the load tool, below $PEERS (default /opt/peers)
#   peers.sh run [--sqlite] [--bcrypt N] CMD...   PostgreSQL and Synapse around one command, which finds them in its
#                                           environment: SYNAPSE_URL SYNAPSE_SECRET SYNAPSE_PID SYNAPSE_DIR, PG* as below
#   peers.sh pg-start DIR                   a PostgreSQL cluster in DIR; its address goes to DIR/pg.env
#   peers.sh pg-stop DIR
#   peers.sh database DIR NAME              an empty database (C locale) in that cluster
#   peers.sh config DIR PORT DATABASE [BCRYPT]    homeserver.yaml, log config and key in DIR, for Synapse and Hearth alike;
#                                           DATABASE is `sqlite` or the name of a database of the cluster in $PG_DIR (or DIR)
#   peers.sh port                           a free loopback port
#
# PostgreSQL refuses root: as root its cluster is run by the account `postgres`. DIR must then be reachable for it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
SHARED=${HEARTH_SHARED:-$root/../shared}
PEERS=${PEERS:-/opt/peers}
SYNAPSE_VERSION=1.163.2
PG_BIN=${PG_BIN:-/usr/lib/postgresql/15/bin}

die() { echo "peers.sh: $*" >&2; exit 1; }

as_postgres() {
  if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

setup() {
  mkdir -p "$PEERS"
  if ! "$PEERS/synapse/bin/python" -c "import synapse, psycopg2; assert synapse.__version__.startswith('$SYNAPSE_VERSION')" 2>/dev/null; then
    python3 -m venv --clear "$PEERS/synapse"
    # The binary build of psycopg2 stands in for the one of the `postgres` extra, which wants libpq's headers.
    "$PEERS/synapse/bin/pip" install -q --disable-pip-version-check "matrix-synapse==$SYNAPSE_VERSION" psycopg2-binary
  fi
  if [ ! -x "$PEERS/load" ] || [ -n "$(find "$SHARED/tools/load" -name '*.go' -newer "$PEERS/load" 2>/dev/null)" ]; then
    [ -d "$SHARED/tools/load" ] || die "no $SHARED/tools/load (set HEARTH_SHARED)"
    command -v go >/dev/null || die "the load tool needs Go"
    (cd "$SHARED/tools/load" && go build -buildvcs=false -o "$PEERS/load" .)
  fi
}

pg_start() {
  local dir=$1 port password
  [ -x "$PG_BIN/initdb" ] || die "no PostgreSQL 15 in $PG_BIN (apt-get install postgresql-15)"
  mkdir -p "$dir/pg-socket"
  chmod 755 "$dir"
  port=$(free_port)
  password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
  printf '%s' "$password" > "$dir/pg-password"
  if [ "$(id -u)" = 0 ]; then
    mkdir -p "$dir/pg" && chown postgres "$dir/pg" "$dir/pg-socket" "$dir/pg-password"
  fi
  as_postgres "$PG_BIN/initdb" -D "$dir/pg" -U postgres --locale=C --encoding=UTF8 --auth-local=trust \
    --auth-host=scram-sha-256 --pwfile="$dir/pg-password" >"$dir/initdb.log" 2>&1 || die "initdb failed: $(tail -n 3 "$dir/initdb.log")"
  as_postgres "$PG_BIN/pg_ctl" -D "$dir/pg" -l "$dir/pg/server.log" -w -t 60 -s start -o "-c listen_addresses=127.0.0.1 \
    -c port=$port -c unix_socket_directories=$dir/pg-socket -c shared_buffers=512MB -c fsync=on -c synchronous_commit=on \
    -c max_connections=100" || die "PostgreSQL does not start: $(tail -n 3 "$dir/pg/server.log")"
  cat > "$dir/pg.env" <<ENV
export PGHOST=127.0.0.1 PGPORT=$port PGUSER=postgres PGPASSWORD=$password
export PG_SOCKET=$dir/pg-socket PG_PID=$(head -n 1 "$dir/pg/postmaster.pid")
ENV
}

pg_stop() {
  [ -f "$1/pg/postmaster.pid" ] || return 0
  as_postgres "$PG_BIN/pg_ctl" -D "$1/pg" -m fast -w -t 60 -s stop
}

database() {
  # shellcheck disable=SC1091
  (. "$1/pg.env" && "$PG_BIN/psql" -q -v ON_ERROR_STOP=1 -d postgres \
    -c "SET client_min_messages = warning" -c "DROP DATABASE IF EXISTS $2" -c "CREATE DATABASE $2 TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
}

# One file for both servers. Limits on rates are raised, because it is the cost of the work that is measured.
config() {
  local dir=$1 port=$2 db=$3 bcrypt=${4:-12}
  mkdir -p "$dir"
  local limit='{ per_second: 100000, burst_count: 100000 }'
  if [ ! -f "$dir/signing.key" ]; then
    python3 -c 'import os,base64; print("ed25519 a_test", base64.b64encode(os.urandom(32)).decode().rstrip("="))' > "$dir/signing.key"
  fi
  {
    cat <<YAML
server_name: "hs.test"
public_baseurl: "http://127.0.0.1:$port/"
pid_file: "$dir/homeserver.pid"
listeners:
  - port: $port
    bind_addresses: ["127.0.0.1"]
    tls: false
    type: http
    resources:
      - names: [client, federation, openid]
        compress: false
YAML
    if [ "$db" = sqlite ]; then
      printf 'database:\n  name: sqlite3\n  args:\n    database: "%s/homeserver.db"\n' "$dir"
    else
      (
        # shellcheck disable=SC1091
        . "${PG_DIR:-$dir}/pg.env"
        cat <<YAML
database:
  name: psycopg2
  args:
    user: $PGUSER
    password: "$PGPASSWORD"
    database: $db
    host: $PGHOST
    port: $PGPORT
    cp_min: 5
    cp_max: 10
YAML
      )
    fi
    cat <<YAML
log_config: "$dir/log.yaml"
media_store_path: "$dir/media_store"
signing_key_path: "$dir/signing.key"
registration_shared_secret: "registration-secret"
macaroon_secret_key: "macaroon-secret"
form_secret: "form-secret"
report_stats: false
trusted_key_servers: []
suppress_key_server_warning: true
enable_registration: false
bcrypt_rounds: $bcrypt
max_upload_size: 50M
url_preview_enabled: false
rc_message: $limit
rc_registration: $limit
rc_login:
  address: $limit
  account: $limit
  failed_attempts: $limit
rc_joins:
  local: $limit
  remote: $limit
rc_joins_per_room: $limit
rc_invites:
  per_room: $limit
  per_user: $limit
  per_issuer: $limit
rc_room_creation: $limit
rc_admin_redaction: $limit
rc_key_requests: $limit
rc_media_create: $limit
rc_presence:
  per_user: $limit
rc_reports: $limit
YAML
  } > "$dir/homeserver.yaml"
  cat > "$dir/log.yaml" <<'YAML'
version: 1
formatters:
  plain:
    format: '%(asctime)s %(levelname)s %(name)s %(message)s'
handlers:
  console:
    class: logging.StreamHandler
    formatter: plain
root:
  level: WARNING
  handlers: [console]
disable_existing_loggers: false
YAML
}

wait_for() { # URL PID: until it answers, its process ends, or a minute is over
  for _ in $(seq 1 300); do
    kill -0 "$2" 2>/dev/null || return 1
    if python3 - "$1" <<'PY' 2>/dev/null
import sys, urllib.request
urllib.request.urlopen(sys.argv[1] + "/_matrix/client/versions", timeout=2).read()
PY
    then return 0; fi
    sleep 0.2
  done
  return 1
}

run_dir=
cleanup() {
  [ -n "$run_dir" ] || return 0
  if [ -n "${SYNAPSE_PID:-}" ]; then
    kill -TERM "$SYNAPSE_PID" 2>/dev/null || true
    for _ in $(seq 1 50); do kill -0 "$SYNAPSE_PID" 2>/dev/null || break; sleep 0.2; done
    kill -KILL "$SYNAPSE_PID" 2>/dev/null || true
  fi
  pg_stop "$run_dir" || true
  if [ -n "${PEERS_KEEP:-}" ]; then echo "peers.sh: kept $run_dir" >&2; else rm -rf "$run_dir"; fi
}

run() {
  local bcrypt=4 engine=pg
  while :; do
    case ${1:-} in
      --bcrypt) bcrypt=$2; shift 2 ;;
      --sqlite) engine=sqlite; shift ;;
      *) break ;;
    esac
  done
  [ $# -gt 0 ] || die "run: give a command"
  setup
  run_dir=$(mktemp -d /tmp/peers.XXXXXX)
  trap cleanup EXIT
  trap 'exit 130' INT TERM
  local port db=sqlite
  pg_start "$run_dir"
  # shellcheck disable=SC1091
  . "$run_dir/pg.env"
  if [ $engine = pg ]; then database "$run_dir" synapse; db=synapse; fi
  port=$(free_port)
  config "$run_dir" "$port" "$db" "$bcrypt"
  (cd "$run_dir" && exec "$PEERS/synapse/bin/python" -m synapse.app.homeserver -c homeserver.yaml) >"$run_dir/synapse.log" 2>&1 &
  export SYNAPSE_PID=$! SYNAPSE_URL=http://127.0.0.1:$port SYNAPSE_SECRET=registration-secret SYNAPSE_DIR=$run_dir
  export SYNAPSE_SERVER_NAME=hs.test
  wait_for "$SYNAPSE_URL" "$SYNAPSE_PID" || die "Synapse does not answer: $(tail -n 5 "$run_dir/synapse.log")"
  local rc=0
  "$@" || rc=$?
  return $rc
}

case ${1:-} in
  setup) setup ;;
  run) shift; run "$@" ;;
  pg-start) pg_start "${2:?DIR}" ;;
  pg-stop) pg_stop "${2:?DIR}" ;;
  database) database "${2:?DIR}" "${3:?NAME}" ;;
  config) shift; config "$@" ;;
  port) free_port ;;
  *) sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
