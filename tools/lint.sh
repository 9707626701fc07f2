#!/usr/bin/env bash
# Runs golangci-lint over every module of the workspace; with `fmt` it formats instead.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
lint=$root/bin/tools/golangci-lint
mkdir -p "$root/bin/tools"
[ "$lint" -nt "$root/tools/lint/go.mod" ] || (cd "$root/tools/lint" && GOWORK=off go build -o "$lint" github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
cd "$root"
modules=$(sed -n 's|^\t\./||p' go.work)
if [ "${1:-run}" = fmt ]; then
	exec "$lint" fmt $modules
fi
# One module at a time keeps the memory of the linter small.
status=0
for module in $modules; do
	"$lint" run "./$module/..." || status=1
done
exit $status
