package schema

import "strconv"

// Action is what a BBS that holds the lock does about the schema.
type Action int

// The actions.
const (
	// Serve: the tables are as this program knows them.
	Serve Action = iota + 1
	// Up: bring them forward, then serve.
	Up
	// Down: bring them back to the version that the operator asked for, then stay passive.
	Down
	// StayPassive: they are as old as the operator asked for, and an older program will serve.
	StayPassive
	// RefuseNewer: they are of a later release. Write nothing and end.
	RefuseNewer
	// RefuseRollback: somebody has begun to bring them back to before this program. Write nothing and end.
	RefuseRollback
)

// String names an action for logs and tests.
func (a Action) String() string {
	names := [...]string{
		Serve: "serve", Up: "up", Down: "down", StayPassive: "stay-passive",
		RefuseNewer: "refuse-newer", RefuseRollback: "refuse-rollback",
	}
	if a < Serve || int(a) >= len(names) {
		return "action " + strconv.Itoa(int(a))
	}
	return names[a]
}

// Decide says what a program that was built for one version does with tables of another. rollBackTo is
// 0 unless the operator asks for an earlier version.
//
// A step and the number that it leads to are one transaction, so tables whose version is ours are
// intact even if somebody died on the way from there to a later one.
func Decide(v Versions, built, rollBackTo int64) Action {
	switch {
	case v.Current > built:
		return RefuseNewer
	case rollBackTo != 0 && v.Current > rollBackTo:
		return Down
	case rollBackTo != 0:
		return StayPassive
	case v.Current < built:
		return Up
	case v.Target < built:
		return RefuseRollback
	default:
		return Serve
	}
}
