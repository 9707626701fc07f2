// Command rep is the agent of one cell: it takes work from the auctioneer, runs it in containers, and tells the BBS the truth
// about them. With -clean it removes everything that the cell owns on this machine instead.
package main

import (
	"os"

	"diego.internal/servicekit/lifecycle"
)

func main() { os.Exit(lifecycle.Main("rep", run)) }
