// Command router proxies HTTP requests to the instances that emitters announce over NATS.
package main

import (
	"os"

	"diego.internal/servicekit/lifecycle"
)

func main() { os.Exit(lifecycle.Main("router", run)) }
