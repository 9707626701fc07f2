#!/usr/bin/env bash
# Checks what must hold of the tree besides tests and lint: the contract, generated code, go.mod files.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
tools/buf.sh lint
tools/buf.sh breaking
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
tools/buf.sh generate "$tmp"
for file in $(cd "$tmp" && find . -name '*.pb.go'); do
	cmp -s "$tmp/$file" "proto/$file" || { echo "verify: proto/$file is not what the contract generates; run make generate" >&2; exit 1; }
done
for module in $(sed -n 's|^\t\./||p' go.work); do
	(cd "$module" && GOWORK=off go mod tidy -diff >/dev/null) || { echo "verify: $module/go.mod is not tidy; run make tidy" >&2; exit 1; }
	(cd "$module" && GOWORK=off go vet ./... >/dev/null) || { echo "verify: $module does not build by itself" >&2; exit 1; }
done
echo "verify: ok"
