// Command locket serves locks and presences from Postgres. Any number of them is active at once.
package main

import (
	"os"

	"diego.internal/servicekit/lifecycle"
)

func main() { os.Exit(lifecycle.Main("locket", run)) }
