// BBS keeps what users want to run and what runs, and drives the one towards the other. Of all BBSs
// one is active, the holder of the lock; the others follow its log.
package main

import (
	"os"

	"diego.internal/servicekit/lifecycle"
)

func main() { os.Exit(lifecycle.Main("bbs", run)) }
