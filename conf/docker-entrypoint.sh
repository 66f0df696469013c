#!/bin/sh
# What the container does, in the words of Synapse's image: `generate` makes a configuration from the environment and ends,
# `run` (the default) serves with it; anything else is run as a command. `hearth` itself reads SYNAPSE_SERVER_NAME and
# the other variables; here only the files are named and root is given up for UID:GID (991:991).
set -eu

data=${SYNAPSE_DATA_DIR:-/data}
config=${SYNAPSE_CONFIG_PATH:-${SYNAPSE_CONFIG_DIR:-/data}/homeserver.yaml}

case "${1:-run}" in
  generate)
    shift
    set -- hearth generate --open-private-ports "$@"
    ;;
  run | -*)
    [ "${1:-}" != run ] || shift
    # Synapse's workers are started as `run -m synapse.app.…`; here one process does it all.
    worker=${SYNAPSE_WORKER:-synapse.app.homeserver}
    if [ "${1:-}" = -m ]; then worker=${2:?"-m wants a module"}; shift 2; fi
    if [ "$worker" != synapse.app.homeserver ]; then
      echo "hearth has no workers: take $worker out of this deployment" >&2
      exit 2
    fi
    if [ ! -e "$config" ]; then
      echo "no configuration at $config: run this image with \`generate\` first, or set SYNAPSE_CONFIG_PATH" >&2
      exit 2
    fi
    set -- hearth serve -c "$config" "$@"
    ;;
  migrate_config)
    echo "migrate_config is not offered: run \`generate\` and carry the settings over" >&2
    exit 2
    ;;
  *)
    exec "$@"
    ;;
esac

uid=${UID:-991} gid=${GID:-991}
if [ "$(id -u)" = 0 ] && [ "$uid" != 0 ]; then
  # A fresh volume belongs to root, and so does what root put into it; one that was in use is left as it is.
  if [ "$(stat -c %u "$data")" = 0 ]; then chown -R "$uid:$gid" "$data"; fi
  exec setpriv --reuid="$uid" --regid="$gid" --clear-groups "$@"
fi
exec "$@"
