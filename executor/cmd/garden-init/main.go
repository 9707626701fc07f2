// Command garden-init is the first process of each container. It starts processes when the engine outside asks for them
// (package spawn), reaps what processes of the container leave behind, and ignores every signal that can be ignored, so that
// the container ends only when it is destroyed. It must be a static binary, because it runs in a root filesystem that may
// hold nothing else.
//
// With the argument launch it is what a new process is for the moment before it becomes its program. With the argument probe
// it tries what containers need of a user namespace, and says what was refused.
package main

import (
	"fmt"
	"os"
	"runtime"

	"diego.internal/executor/garden/containerd/spawn"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "probe":
			os.Exit(probe())
		case spawn.LaunchArgument:
			spawn.Launch()
		}
	}
	// Each thread counts against the limit of the container.
	runtime.GOMAXPROCS(1)
	if err := spawn.Serve(); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "garden-init:", err)
		os.Exit(1)
	}
}
