package lease

import "testing"

func TestRequestMayReplace(t *testing.T) {
	t.Parallel()
	const cell1, cell2 = "spiffe://d/cell/cell-1", "spiffe://d/cell/cell-2"
	lock := Held{Key: "bbs", Type: TypeLock, Owner: "bbs-1", Holder: "spiffe://d/bbs", Incarnation: 1}
	presence := Held{Key: "cell-1", Type: TypePresence, Owner: "run-5", Holder: cell1, Incarnation: 5}
	tests := map[string]struct {
		req  Request
		held Held
		want bool
	}{
		"the owner of a lock renews it":                     {Request{Type: TypeLock, Owner: "bbs-1"}, lock, true},
		"another owner does not get a lock":                 {Request{Type: TypeLock, Owner: "bbs-2"}, lock, false},
		"a lock is not taken over by a later run":           {Request{Type: TypeLock, Owner: "bbs-2", Holder: lock.Holder, Incarnation: 2}, lock, false},
		"an owner cannot turn a lock into a presence":       {Request{Type: TypePresence, Owner: "bbs-1"}, lock, false},
		"the owner of a presence renews it":                 {Request{Type: TypePresence, Owner: "run-5", Holder: cell1, Incarnation: 5}, presence, true},
		"a later run of the same identity takes over":       {Request{Type: TypePresence, Owner: "run-6", Holder: cell1, Incarnation: 6}, presence, true},
		"an equal incarnation does not take over":           {Request{Type: TypePresence, Owner: "run-6", Holder: cell1, Incarnation: 5}, presence, false},
		"an earlier run does not take over":                 {Request{Type: TypePresence, Owner: "run-4", Holder: cell1, Incarnation: 4}, presence, false},
		"incarnation 0 takes over nothing":                  {Request{Type: TypePresence, Owner: "run-6", Holder: cell1}, Held{Type: TypePresence, Owner: "run-5", Holder: cell1}, false},
		"another identity does not take over, however late": {Request{Type: TypePresence, Owner: "run-9", Holder: cell2, Incarnation: 9}, presence, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tc.req.MayReplace(tc.held); got != tc.want {
				t.Errorf("MayReplace(%+v): got %v, want %v", tc.req, got, tc.want)
			}
		})
	}
}
