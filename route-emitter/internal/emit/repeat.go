package emit

import "diego.internal/route-emitter/internal/routetable"

// repeats remembers unregistrations to send again: a router that missed one would send traffic to a dead address until
// its own threshold, or for ever if the address speaks TLS. Not safe for concurrent use.
type repeats struct {
	times   int // how often each is repeated
	pending map[routetable.Key]*repeat
}

type repeat struct {
	message routetable.Message
	left    int
}

func newRepeats(times int) *repeats {
	return &repeats{times: times, pending: map[routetable.Key]*repeat{}}
}

// note takes up the unregistrations of a change and drops those that its registrations contradict.
func (r *repeats) note(c routetable.Changes) {
	for _, m := range c.Unregister {
		if r.times > 0 {
			r.pending[m.Key] = &repeat{m, r.times}
		}
	}
	for _, m := range c.Register {
		delete(r.pending, m.Key)
	}
}

// due returns what is to be sent again now, and forgets what was sent often enough.
func (r *repeats) due() []routetable.Message {
	out := make([]routetable.Message, 0, len(r.pending))
	for k, p := range r.pending {
		out = append(out, p.message)
		if p.left--; p.left <= 0 {
			delete(r.pending, k)
		}
	}
	return out
}
