// Package faults proves that the BBS loses nothing: real bbs processes on a real Postgres, under a load
// of many clients, are killed, paused, and have their database taken away or replaced, and then every
// write that was acknowledged must be there, none twice, those without an answer wholly or not at all,
// and watchers must have seen every change once and in order.
//
// All of it is tests. They drive the binary through the ordinary client, and use no package of the BBS.
package faults
