#!/bin/sh
# Runs a suite of benchmarks: tools/bench.sh SUITE, with SUITE one of those below or "all". Rows "name n value unit" go to
# standard output and nothing else does, so that it can be piped; what the build says goes to standard error. N is how many
# records the suites take that have a size.
set -eu
cd "$(dirname "$0")/.."

known="auction bbs cell"

# folder prints where the program of a suite is.
folder() {
	case $1 in
	auction) echo auctioneer/bench ;;
	bbs) echo bbs/bench ;;
	cell) echo executor/bench ;;
	*) return 1 ;;
	esac
}

# bench builds the program of a suite and runs it. It is built first, so that the compiler does not compete with what is measured.
bench() {
	program=$(mktemp)
	trap 'rm -f "$program"' EXIT
	go build -o "$program" "./$(folder "$1")" >&2
	case $1 in
	bbs) "$program" -n "${N:-5000}" ;;
	*) "$program" ;;
	esac
	rm -f "$program"
}

suite=${1:-all}
if [ "$suite" = all ]; then
	for suite in $known; do
		if [ -d "$(folder "$suite")" ]; then
			bench "$suite"
		fi
	done
elif ! folder "$suite" >/dev/null; then
	echo "bench: unknown suite \"$suite\"; there are: $known all" >&2
	exit 2
else
	bench "$suite"
fi
