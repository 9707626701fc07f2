// Package checkup judges what doctor found out: certificates, clocks, releases. It is pure; asking is for the commands.
package checkup

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"diego.internal/servicekit/mtls"
)

// Status of a check.
type Status string

// The states. A warning is no failure.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failed  Status = "failed"
)

// Result of one check.
type Result struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	// Advice says what to do about it.
	Advice string `json:"advice,omitempty"`
}

const (
	// soon is when an operator should hear of a certificate that expires.
	soon = 30 * 24 * time.Hour
	// maxSkew is what clocks may differ; mtls and leases bear more, but sorted logs do not.
	maxSkew = 2 * time.Second
	// MinTTL is what a domain should still have when somebody synchronises it again and again.
	MinTTL = 30 * time.Second
)

// Certificate judges how long a certificate is valid, and that it names its holder.
func Certificate(check string, leaf *x509.Certificate, role string, now time.Time) Result {
	id, err := mtls.IdentityOf(leaf)
	left := leaf.NotAfter.Sub(now)
	r := Result{Check: check, Status: OK, Detail: fmt.Sprintf("%s, %s", id, Validity(leaf, now))}
	switch {
	case err != nil:
		r.Status, r.Detail, r.Advice = Failed, "names nobody: "+err.Error(), "issue one with a SPIFFE URI among its alternative names"
	case role != "" && id.Role != role:
		r.Status, r.Detail, r.Advice = Failed, fmt.Sprintf("%s is not of the role %s", id, role), "use a certificate of the role "+role
	case now.Before(leaf.NotBefore):
		r.Status, r.Detail, r.Advice = Failed, fmt.Sprintf("%s is not valid before %s", id, leaf.NotBefore.UTC().Format(time.RFC3339)), "check the clock of this machine"
	case left <= 0:
		r.Status, r.Detail, r.Advice = Failed, fmt.Sprintf("%s expired on %s", id, leaf.NotAfter.UTC().Format(time.RFC3339)), "renew it now; processes read new files by themselves"
	case left < soon:
		r.Status, r.Advice = Warning, "renew it; processes read new files by themselves"
	}
	return r
}

// Validity says how long a certificate is valid.
func Validity(leaf *x509.Certificate, now time.Time) string {
	return fmt.Sprintf("valid until %s (%s)", leaf.NotAfter.UTC().Format(time.DateOnly), days(leaf.NotAfter.Sub(now)))
}

func days(left time.Duration) string {
	if left < 48*time.Hour {
		return fmt.Sprintf("%d hours left", int(left.Hours()))
	}
	return fmt.Sprintf("%d days left", int(left.Hours())/24)
}

// Clock is what a server's clock showed when it was asked between two moments of ours.
type Clock struct {
	Server      string
	At          time.Time
	Asked, Told time.Time
}

// Skew is how far the server's clock is off at least: the time of the answer is not known better than the time that asking took.
func (c Clock) Skew() time.Duration {
	switch {
	case c.At.Before(c.Asked):
		return c.At.Sub(c.Asked)
	case c.At.After(c.Told):
		return c.At.Sub(c.Told)
	default:
		return 0
	}
}

// Clocks judges all of them together. If all are off alike it is ours that is wrong.
func Clocks(clocks []Clock) Result {
	r := Result{Check: "clocks", Status: OK}
	if len(clocks) == 0 {
		r.Status, r.Detail = Warning, "no server told its time"
		return r
	}
	var off []string
	worst := time.Duration(0)
	for _, c := range clocks {
		skew := c.Skew()
		worst = max(worst, skew.Abs())
		if skew.Abs() > maxSkew {
			off = append(off, fmt.Sprintf("%s %+.1fs", c.Server, skew.Seconds()))
		}
	}
	r.Detail = fmt.Sprintf("%d servers agree with this machine within %s", len(clocks), max(worst, time.Millisecond).Round(time.Millisecond))
	if len(off) > 0 {
		slices.Sort(off)
		r.Status, r.Detail, r.Advice = Failed, "differ from this machine: "+strings.Join(off, ", "), "check NTP there"
		if len(off) == len(clocks) {
			r.Advice = "check NTP here: all differ"
		}
	}
	return r
}

// Versions judges which releases run, by server. Several are usual only while an upgrade runs.
func Versions(byServer map[string]string) Result {
	servers := map[string][]string{}
	for server, version := range byServer {
		servers[version] = append(servers[version], server)
	}
	r := Result{Check: "versions", Status: OK}
	if len(servers) == 0 {
		r.Status, r.Detail = Warning, "no server told its release"
		return r
	}
	var parts []string
	for _, version := range slices.Sorted(maps.Keys(servers)) {
		parts = append(parts, fmt.Sprintf("%s on %s", version, list(servers[version])))
	}
	r.Detail = strings.Join(parts, "; ")
	if len(servers) > 1 {
		r.Status, r.Advice = Warning, "finish the upgrade: database, locket and bbs, auctioneers, cells last"
	} else {
		r.Detail = fmt.Sprintf("%s on all %d servers", slices.Collect(maps.Keys(servers))[0], len(byServer))
	}
	return r
}

// list names a few and counts the rest.
func list(names []string) string {
	slices.Sort(names)
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

// List names a few and counts the rest.
func List(names []string) string { return list(slices.Clone(names)) }
