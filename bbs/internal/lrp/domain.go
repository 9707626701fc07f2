package lrp

import (
	"math"
	"time"
)

// FreshForever is the FreshUntil of a domain that stays fresh until it is upserted again.
const FreshForever = math.MaxInt64

// Domain is a client's word that the desired state it holds for the domain is complete, and the crash
// policy of LRPs that have none of their own. It is immutable once it is stored.
type Domain struct {
	Name string
	// FreshUntil is in nanoseconds since the Unix epoch; 0 if the domain is only here for its policy.
	FreshUntil int64
	// DefaultCrashPolicy is nil if the domain has none. It outlives the freshness.
	DefaultCrashPolicy *CrashPolicy
	// Revision of the store that last changed the record. The store sets it, nothing here reads it.
	Revision uint64
}

// Fresh reports whether the client's word still holds. A nil domain is not fresh.
func (d *Domain) Fresh(now time.Time) bool { return d != nil && d.FreshUntil > now.UnixNano() }

// UpsertDomain makes a domain fresh for ttl, for ever if ttl is 0. A nil policy leaves that of before,
// which may be nil, alone.
func UpsertDomain(before *Domain, name string, ttl time.Duration, policy *CrashPolicy, now time.Time) (*Domain, DomainEvent) {
	after := &Domain{Name: name, FreshUntil: FreshForever, DefaultCrashPolicy: policy}
	if ttl > 0 {
		after.FreshUntil = now.Add(ttl).UnixNano()
	}
	if policy == nil && before != nil {
		after.DefaultCrashPolicy = before.DefaultCrashPolicy
	}
	return after, DomainEvent{Domain: after, Fresh: true}
}

// ExpireDomain ends the freshness of a domain whose time has passed. It returns the record to keep,
// nil if nothing is left of it, and whether anything changed; the event is to be told only then.
func ExpireDomain(before *Domain, now time.Time) (after *Domain, event DomainEvent, changed bool) {
	if before == nil || before.FreshUntil == 0 || before.Fresh(now) {
		return before, DomainEvent{}, false
	}
	lapsed := &Domain{Name: before.Name, DefaultCrashPolicy: before.DefaultCrashPolicy}
	event = DomainEvent{Domain: lapsed}
	if lapsed.DefaultCrashPolicy == nil {
		return nil, event, true
	}
	return lapsed, event, true
}
