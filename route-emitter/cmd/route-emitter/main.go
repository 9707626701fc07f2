// Command route-emitter tells routers over NATS which instances serve which routes.
package main

import (
	"os"

	"diego.internal/servicekit/lifecycle"
)

func main() { os.Exit(lifecycle.Main("route-emitter", run)) }
