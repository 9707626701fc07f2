// Package lrp owns the rules of long-running processes: which change of an actual LRP is allowed,
// what becomes of it and which events tell of it; what creating, updating and removing a desired LRP
// does to its instances; when a crashed instance starts again; how instances leave a cell that is
// lost or emptied.
//
// All of it is functions of values. There is no clock, no I/O, no random number and no goroutine
// here: times and epochs are arguments, the store applies the outcome. The package does not decide
// when convergence acts (package converge) nor what happens after a commit (package effect).
package lrp
