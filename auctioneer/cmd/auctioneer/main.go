// Auctioneer decides which cell runs which instance or task. Of all auctioneers one is
// active, the holder of the lock; the others wait for it.
package main

import (
	"os"

	"diego.internal/servicekit/lifecycle"
)

func main() { os.Exit(lifecycle.Main("auctioneer", run)) }
