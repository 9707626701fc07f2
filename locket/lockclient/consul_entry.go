package lockclient

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// entry is what a key in Consul holds: the claim, and what Consul itself has no place for. Who holds
// the key is never read from it but from the session that Consul keeps with it.
type entry struct {
	Type        string        `json:"type"`
	Owner       string        `json:"owner"`
	Value       string        `json:"value,omitempty"`
	TTL         time.Duration `json:"ttl_ns"`
	Incarnation int64         `json:"incarnation,omitempty"`
	AcquiredAt  time.Time     `json:"acquired_at"`
	// Token is the fencing token, or 0 if the entry has not been written since its acquisition: then
	// it is the index of that write, which the writer could not know.
	Token int64 `json:"token,omitempty"`
	// Released marks an entry that its holder gave up, unlike one whose session ended.
	Released bool `json:"released,omitempty"`
	// After says how the holder before this one ended, for watches that slept through it.
	After *ending `json:"after,omitempty"`
}

// ending is how a holder ended.
type ending struct {
	Owner string `json:"owner"`
	How   string `json:"how"` // one of the words below
}

// Words in entries. They are kept in Consul: never change them.
const (
	wordLock     = "lock"
	wordPresence = "presence"

	endReleased = "released"
	endExpired  = "expired"
	endReplaced = "replaced" // by a later incarnation
)

// record is an entry together with what Consul knows of its key.
type record struct {
	entry
	key     string // without the prefix of the store
	session string // "" if nobody holds the key
	index   uint64 // of the last change; 0 if there is no such key
	// readable is false for a value that none of us wrote.
	readable bool
}

func (r record) held() bool { return r.session != "" }

// decodeRecord reads a key. What cannot be read is somebody else's: it is held or not, and no more is
// known of it.
func decodeRecord(key string, pair *api.KVPair) record {
	if pair == nil {
		return record{key: key}
	}
	r := record{key: key, session: pair.Session, index: pair.ModifyIndex}
	e, err := decodeEntry(pair.Value)
	if err != nil {
		return r
	}
	if e.Token == 0 {
		e.Token = int64(pair.ModifyIndex) //nolint:gosec // counts the writes of a cluster
	}
	r.entry, r.readable = e, true
	return r
}

func decodeEntry(data []byte) (entry, error) {
	var e entry
	if err := json.Unmarshal(data, &e); err != nil {
		return entry{}, fmt.Errorf("reading an entry: %w", err)
	}
	if e.claimType() == 0 || e.Owner == "" || e.TTL <= 0 || e.Token < 0 {
		return entry{}, fmt.Errorf("reading an entry: %q of %q with ttl %v is no claim", e.Type, e.Owner, e.TTL)
	}
	return e, nil
}

// encode returns the value to store. An entry always can be written as JSON.
func (e entry) encode() ([]byte, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("writing an entry: %w", err)
	}
	return data, nil
}

func (e entry) claimType() Type {
	switch e.Type {
	case wordLock:
		return TypeLock
	case wordPresence:
		return TypePresence
	default:
		return 0
	}
}

func wordOf(t Type) string {
	if t == TypePresence {
		return wordPresence
	}
	return wordLock
}

// ended returns how the holder of r ended, given that somebody else may have the key now, or nil if r
// says nothing about that.
func (r record) ended() *ending {
	switch {
	case !r.readable:
		return nil
	case r.Released:
		return &ending{Owner: r.Owner, How: endReleased}
	case r.held() && r.claimType() == TypePresence:
		return &ending{Owner: r.Owner, How: endReplaced}
	default:
		return &ending{Owner: r.Owner, How: endExpired}
	}
}

func (r record) asHeld() Held {
	held := Held{
		Claim: Claim{
			Key: r.key, Owner: r.Owner, Type: r.claimType(), TTL: r.TTL, Incarnation: r.Incarnation,
		},
		Token: r.Token, AcquiredAt: r.AcquiredAt,
	}
	if r.Value != "" {
		held.Value = []byte(r.Value)
	}
	return held
}

// newEntry is what claim stores when it is granted at now.
func newEntry(claim Claim, now time.Time) entry {
	return entry{
		Type: wordOf(claim.Type), Owner: claim.Owner, Value: string(claim.Value), TTL: claim.TTL,
		Incarnation: claim.Incarnation, AcquiredAt: now.UTC().Truncate(time.Microsecond),
	}
}

// renewed is r as a renewal by claim leaves it: the acquisition stays, what it publishes is new.
func (r record) renewed(claim Claim) entry {
	e := r.entry
	e.Value, e.TTL = string(claim.Value), claim.TTL
	return e
}

// says reports whether storing e would change nothing.
func (r record) says(e entry) bool { return r.Value == e.Value && r.TTL == e.TTL }

// cleanKey reports whether a key survives the path of a URL.
func cleanKey(key string) bool {
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}
