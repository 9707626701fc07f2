#!/usr/bin/env bash
# Runs buf on the contract with validate.proto taken from its Go module, since there is no schema registry to ask.
# Usage: tools/buf.sh generate|lint|format|breaking [ARGUMENT…]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
bin=$root/bin/tools
export GOWORK=off GOFLAGS=-modfile=$root/tools/go.mod
mkdir -p "$bin"
for tool in github.com/bufbuild/buf/cmd/buf google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc; do
	[ "$bin/$(basename "$tool")" -nt "$root/tools/go.mod" ] || (cd "$root/tools" && go build -o "$bin/" "$tool")
done
export PATH=$bin:$PATH
validate=$(cd "$root/tools" && go list -m -f '{{.Dir}}' github.com/bufbuild/protovalidate)
[ -n "$validate" ] || validate=$(cd "$root/tools" && go mod download -json github.com/bufbuild/protovalidate | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')

# workspace DIR: puts the contract found in $1 and the validation rules into one buf workspace at $2.
workspace() {
	mkdir -p "$2/contract" "$2/validate"
	(cd "$1" && find . -name '*.proto' -exec cp --parents {} "$2/contract" \;)
	cp -r "$validate/proto/protovalidate/buf" "$2/validate/"
	chmod -R u+w "$2"
	sed -e 's|- path: \.|- path: contract\n  - path: validate|' "$root/proto/buf.yaml" >"$2/buf.yaml"
}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
workspace "$root/proto" "$tmp/now"
cd "$tmp/now"
case $1 in
generate)
	buf generate contract --template "$root/proto/buf.gen.yaml" -o "$tmp/out"
	cp -r "$tmp/out/." "${2:-$root/proto}/"
	;;
lint) buf lint contract ;;
format)
	buf format -w contract
	cp -r contract/. "$root/proto/"
	;;
breaking)
	# Against the newest released contract; before the first release against the commit that main started from.
	base=${2:-$(git -C "$root" describe --tags --abbrev=0 2>/dev/null || git -C "$root" log --diff-filter=A --format=%H -1 -- proto/buf.yaml)}
	mkdir "$tmp/tree" && git -C "$root" archive "$base" proto | tar -x -C "$tmp/tree"
	workspace "$tmp/tree/proto" "$tmp/before"
	buf breaking contract --against "$tmp/before/contract"
	;;
*) echo "buf.sh: unknown command $1" >&2 && exit 2 ;;
esac
