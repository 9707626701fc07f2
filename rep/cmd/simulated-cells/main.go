// Command simulated-cells hosts many cells without containers in one process: for runs at scale on one machine, and for
// trying out the control plane. Each cell has its own id, certificate, presence, listener and connections, and is the rep's
// own code on a simulated engine; log, metrics and debug listener are the process's.
//
// A cell that is evacuated comes back empty after a while, as if its machine had been rolled. To lose cells at once, kill a
// process that hosts them: state lives nowhere else.
package main

import (
	"os"

	"diego.internal/servicekit/lifecycle"
)

func main() { os.Exit(lifecycle.Main("simulated-cells", run)) }
