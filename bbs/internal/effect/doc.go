// Package effect owns what must happen after a commit: auctions for what waits for a cell, orders to
// cells (stop an instance, give it other routes or tags, cancel a task), completion callbacks, and
// the convergence that finds whatever fell through.
//
// Everything here is driven by state, not by the call that changed it. A commit only says which
// records may need something (Effects.Committed, which never blocks); the loop concerned reads the
// record when it gets to it and does what that calls for, at once, with back-off when the other side
// fails, and anew after a restart because Run begins with a look at everything.
//
// The package does not decide what is right (packages lrp, task and converge), and it does not write
// to the database but through the Store that it is given.
package effect
