#!/usr/bin/env bash
# Builds the Consul server that tests of the lock client run against, once, and prints where it is. It is the last version
# under the Mozilla Public License, in a module of its own (tools/consul), and no part of the product.
# The first build compiles some 1,500 packages: about six minutes of processor time, and 500 MB of modules to download.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
binary=$root/bin/tools/consul
mkdir -p "$root/bin/tools"

# Several packages of tests may want it at once: one builds, the others wait.
exec 9>"$binary.lock"
flock 9
if [ ! -x "$binary" ] || [ "$root/tools/consul/go.mod" -nt "$binary" ]; then
	echo "consul-server: building Consul, which takes some minutes the first time" >&2
	(cd "$root/tools/consul" && GOWORK=off GOFLAGS='-mod=readonly -buildvcs=false' nice -n 19 \
		go build -ldflags '-s -w' -o "$binary.new" github.com/hashicorp/consul) >&2
	touch "$binary.new" # newer than go.mod, whatever the cache says
	mv "$binary.new" "$binary"
fi
echo "$binary"
