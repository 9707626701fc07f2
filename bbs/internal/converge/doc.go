// Package converge owns the comparison of what is desired with what is: which records to create,
// stop, restart, give up or promote, which tasks to fail, demote or delete, what to offer to the
// auctioneer again, and which cells count as lost.
//
// It is functions of values: a snapshot in, a plan out; no clock, no I/O, no goroutine. A plan names
// what looked wrong. Whoever carries it out does not apply the plan but asks View.Converge and
// View.ConvergeTask again with the records as they are then, inside the transaction: the same rules
// decide once more, so that nothing is done to a record that has moved on. The loops around it are in
// package effect.
package converge
