package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// roundsVariable is how often each test brings its fault about, instead of the few times that suit
// every run of all tests.
const roundsVariable = "BBS_FAULT_ROUNDS"

// program is the bbs that is tested. It is global because all tests share one build.
var program string //nolint:gochecknoglobals // see above

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "bbs-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "making a folder:", err)
		os.Exit(1)
	}
	program = filepath.Join(folder, "bbs")
	code := 1
	if out, err := exec.CommandContext(context.Background(), "go", "build", "-o", program, "diego.internal/bbs/cmd/bbs").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the bbs: %v: %s\n", err, out)
	} else {
		code = m.Run()
	}
	if err := errors.Join(err, os.RemoveAll(folder)); err != nil {
		fmt.Fprintln(os.Stderr, "removing the bbs:", err)
		code = 1
	}
	os.Exit(code)
}

// rounds is how often a test brings its fault about.
func rounds(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv(roundsVariable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number of rounds", roundsVariable, text)
	}
	return n
}
