package command

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"diego.internal/cfdot/internal/checkup"
	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	locketv1 "diego.internal/proto/locket/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
)

func (a *app) doctor() []*cobra.Command {
	command := &cobra.Command{
		Use: "doctor", Short: "Check certificates, servers, clocks, releases, locks, domains and cells", Args: exactly(),
		Long: `Check all that can be checked with an operator's certificate, one line for each check with what to do about it.
Exit 0 if none failed; warnings are no failures. What cannot be asked because its address is missing is a warning.`,
		Example: "  cfdot doctor\n  cfdot doctor -o json | jq 'select(.status != \"ok\")'\n  cfdot doctor --timeout 3 || echo call somebody",
	}
	command.RunE = func(c *cobra.Command, _ []string) error {
		d := &diagnosis{app: a, versions: map[string]string{}}
		p := printer(a, a.resultColumns()...)
		err := printAll(p, func(show func(checkup.Result) error) error {
			for _, check := range []func(context.Context) []checkup.Result{d.ownCertificate, d.servers, d.bbsState, d.locks, d.cells, d.together} {
				for _, result := range check(c.Context()) {
					d.count(result)
					if err := show(result); err != nil {
						return err
					}
				}
				if c.Context().Err() != nil {
					return context.Cause(c.Context())
				}
			}
			return nil
		})
		if err == nil && d.failed > 0 {
			return found("%s failed", output.Count(d.failed, "check", "checks"))
		}
		return err
	}
	return []*cobra.Command{command, a.ping()}
}

func (a *app) resultColumns() []output.Column[checkup.Result] {
	return []output.Column[checkup.Result]{
		{Name: "CHECK", ID: true, Whole: true, Cell: func(r checkup.Result) string { return r.Check }},
		{Name: "STATUS", Cell: func(r checkup.Result) string { return string(r.Status) }, Mood: statusMood},
		{Name: "DETAIL", Whole: true, Cell: func(r checkup.Result) string { return joined("; ", r.Detail, r.Advice) }},
	}
}

func statusMood(status string) output.Mood {
	switch checkup.Status(status) {
	case checkup.OK:
		return output.Good
	case checkup.Warning:
		return output.Warning
	case checkup.Failed:
		return output.Bad
	default:
		return output.Plain
	}
}

// diagnosis collects what later checks need of earlier ones.
type diagnosis struct {
	*app
	failed int

	mu       sync.Mutex
	clocks   []checkup.Clock   // guarded by mu
	versions map[string]string // guarded by mu; by server
}

func (d *diagnosis) count(r checkup.Result) {
	if r.Status == checkup.Failed {
		d.failed++
	}
}

func (d *diagnosis) heard(server string, g greeting) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g.version != "" {
		d.versions[server] = g.version
	}
	if !g.clock.At.IsZero() {
		g.clock.Server = server
		d.clocks = append(d.clocks, g.clock)
	}
}

func (d *diagnosis) ownCertificate(context.Context) []checkup.Result {
	const check = "own certificate"
	source, err := d.flags.certificates()
	if err != nil {
		return []checkup.Result{{Check: check, Status: checkup.Failed, Detail: err.Error()}}
	}
	chain := source.ClientConfig(mtls.Peer{Role: mtls.RoleBBS})
	certificate, err := chain.GetClientCertificate(nil)
	if err != nil {
		return []checkup.Result{{Check: check, Status: checkup.Failed, Detail: err.Error()}}
	}
	leaf := certificate.Leaf
	if leaf == nil {
		if leaf, err = x509.ParseCertificate(certificate.Certificate[0]); err != nil {
			return []checkup.Result{{Check: check, Status: checkup.Failed, Detail: err.Error()}}
		}
	}
	return []checkup.Result{checkup.Certificate(check, leaf, mtls.RoleOperator, d.now)}
}

// kind of servers that the user names by address.
type serverKind struct {
	name, server, flag, list, role, health string
	// oneActive: of several only one serves, the others stand by.
	oneActive bool
}

func (f *flags) kinds() []serverKind {
	return []serverKind{
		{"bbs", serverBBS, "bbsURL", f.bbs, mtls.RoleBBS, "bbs.v1", true},
		{"locket", serverLocket, "locketAPILocation", f.locket, mtls.RoleLocket, "locket.v1", false},
		{"auctioneer", serverAuctioneer, "auctioneerLocation", f.auctioneer, mtls.RoleAuctioneer, "auctioneer.v1", true},
	}
}

// servers greets each server by itself, standbys too.
func (d *diagnosis) servers(ctx context.Context) []checkup.Result {
	var out []checkup.Result
	for _, kind := range d.flags.kinds() {
		if kind.list == "" {
			out = append(out, checkup.Result{Check: kind.name, Status: checkup.Warning, Detail: "not asked: there is no " + kind.flag})
			continue
		}
		hosts, err := addresses(kind.flag, kind.list)
		if err != nil {
			out = append(out, checkup.Result{Check: kind.name, Status: checkup.Failed, Detail: err.Error()})
			continue
		}
		greetings := d.greetAll(ctx, kind, hosts)
		serving := 0
		for _, g := range greetings {
			if g.serving {
				serving++
			}
			out = append(out, d.judge(kind, g))
		}
		if kind.oneActive && serving != 1 {
			out = append(out, checkup.Result{
				Check: kind.name + " active", Status: checkup.Failed, Detail: fmt.Sprintf("%d of %d are active, not 1", serving, len(hosts)),
				Advice: "see who holds the lock: cfdot locks",
			})
		}
	}
	return out
}

func (d *diagnosis) judge(kind serverKind, g greeting) checkup.Result {
	check := kind.name + " " + g.address
	if g.err != nil {
		return checkup.Result{Check: check, Status: checkup.Failed, Detail: g.why, Advice: "see its log and whether the address is right"}
	}
	d.heard(check, g)
	r := checkup.Certificate(check, g.leaf, kind.role, d.now)
	state := "serving"
	switch {
	case !g.serving && kind.oneActive:
		state = "standby"
	case !g.serving:
		state = "not serving"
		r.Status, r.Advice = checkup.Failed, "see its log: its database may be gone"
	}
	certificate := r.Detail
	if r.Status == checkup.OK {
		certificate = "certificate " + checkup.Validity(g.leaf, d.now)
	}
	r.Detail = fmt.Sprintf("%s, answered in %s; %s", state, output.Latency(g.took), certificate)
	return r
}

// bbsState asks the active BBS how it is.
func (d *diagnosis) bbsState(ctx context.Context) []checkup.Result {
	if d.flags.bbs == "" {
		return nil
	}
	conn, err := d.flags.dialBBS()
	if err != nil {
		return []checkup.Result{{Check: "bbs state", Status: checkup.Failed, Detail: err.Error()}}
	}
	defer func() { _ = conn.Close() }() // nothing is pending
	status, err := bbsv1.NewMaintenanceClient(conn).GetStatus(ctx, &bbsv1.GetStatusRequest{})
	if err != nil {
		return []checkup.Result{{Check: "bbs state", Status: checkup.Failed, Detail: reason(err)}}
	}
	return slices.Concat(d.convergence(status), d.brake(status), d.stored(ctx), d.domains(ctx, conn), d.waiting(ctx, conn))
}

// stored asks each BBS, standbys too, about its tables and what they are sealed under; what is well is not told.
func (d *diagnosis) stored(ctx context.Context) []checkup.Result {
	hosts, err := addresses("bbsURL", d.flags.bbs)
	if err != nil {
		return nil // it was told
	}
	var out []checkup.Result
	for _, host := range hosts {
		conn, err := d.flags.dial("bbsURL", host, mtls.Peer{Role: mtls.RoleBBS}, "")
		if err != nil {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, min(d.flags.cellTime(), greetTime))
		status, err := bbsv1.NewMaintenanceClient(conn).GetStatus(asking, &bbsv1.GetStatusRequest{})
		cancel()
		_ = conn.Close() // nothing is pending
		if err == nil {  // that it does not answer was told, and a migrating one says so by the error
			out = append(out, troubles("bbs "+host, status)...)
		} else if fault.Reason(err) == "Migrating" {
			out = append(out, checkup.Result{Check: "bbs " + host, Status: checkup.Warning, Detail: message(err), Advice: "wait for it; its log has schema-step"})
		}
	}
	return out
}

// troubles are what a BBS says of itself that an operator should know.
func troubles(check string, s *bbsv1.GetStatusResponse) []checkup.Result {
	var out []checkup.Result
	add := func(status checkup.Status, advice, format string, args ...any) {
		out = append(out, checkup.Result{Check: check, Status: status, Detail: fmt.Sprintf(format, args...), Advice: advice})
	}
	if n := s.GetQuarantinedRecords(); n > 0 {
		add(checkup.Failed, "the table quarantine names them; repair the rows, then restart the standby and the active BBS", "%d records cannot be read", n)
	}
	if why := s.GetStandbyWaitsFor(); why != "" {
		add(checkup.Warning, "it cannot take over quickly", "standby waits for %s", why)
	}
	if schema := s.GetSchema(); schema.GetVersion() != 0 && schema.GetVersion() != schema.GetBuiltFor() {
		add(checkup.Warning, "finish the upgrade", "is built for schema %d, the tables have %d", schema.GetBuiltFor(), schema.GetVersion())
	}
	for _, label := range slices.Sorted(maps.Keys(s.GetKeys().GetUnreadable())) {
		add(checkup.Warning, "its log names each", "%d values under key %s cannot be opened", s.GetKeys().GetUnreadable()[label], label)
	}
	for _, label := range slices.Sorted(maps.Keys(s.GetKeys().GetLeft())) {
		if n := s.GetKeys().GetLeft()[label]; n > 0 {
			add(checkup.Warning, "do not remove that key yet", "%d values are still sealed under key %s", n, label)
		}
	}
	if labels := s.GetKeys().GetRemovableLabels(); len(labels) > 0 {
		add(checkup.OK, "", "keys that may be removed from the configuration: %s", strings.Join(labels, ", "))
	}
	return out
}

// stale is how long ago the last convergence may be; it runs every 30 s.
const stale = 2 * time.Minute

func (d *diagnosis) convergence(s *bbsv1.GetStatusResponse) []checkup.Result {
	r := checkup.Result{Check: "convergence", Status: checkup.OK}
	last := s.GetLastConvergence()
	if last == nil {
		r.Status, r.Detail = checkup.Warning, "has not run since this BBS became active"
		return []checkup.Result{r}
	}
	ago := time.Since(last.AsTime())
	r.Detail = fmt.Sprintf("%s ago, took %s", output.Duration(ago), output.Latency(s.GetLastConvergenceDuration().AsDuration()))
	if ago > stale {
		r.Status, r.Advice = checkup.Failed, "see the log of the active BBS"
	}
	return []checkup.Result{r}
}

func (d *diagnosis) brake(s *bbsv1.GetStatusResponse) []checkup.Result {
	if !s.GetBrakeEngaged() {
		return nil
	}
	return []checkup.Result{{
		Check: "brake", Status: checkup.Failed, Detail: "on: too many cells vanished at once, so lost instances are not replaced",
		Advice: "find out why cells are not present (network, locket)",
	}}
}

func (d *diagnosis) domains(ctx context.Context, conn grpc.ClientConnInterface) []checkup.Result {
	r := checkup.Result{Check: "domains", Status: checkup.OK}
	answer, err := bbsv1.NewDomainsClient(conn).ListDomains(ctx, &bbsv1.ListDomainsRequest{})
	if err != nil {
		r.Status, r.Detail = checkup.Failed, reason(err)
		return []checkup.Result{r}
	}
	fresh := map[string]bool{}
	var names, ending []string
	for _, domain := range answer.GetDomains() {
		name := domain.GetDomain()
		fresh[name] = true
		names = append(names, name)
		if until := domain.GetFreshUntil(); until != nil && until.AsTime().Sub(d.now) < checkup.MinTTL {
			ending = append(ending, name)
		}
	}
	stale := map[string]bool{}
	err = d.eachInfo(ctx, conn, &bbsv1.DesiredLRPFilter{}, func(info *workloadv1.SchedulingInfo) error {
		if !fresh[info.GetDomain()] {
			stale[info.GetDomain()] = true
		}
		return nil
	})
	r.Detail = "fresh: " + checkup.List(names)
	switch {
	case err != nil:
		r.Status, r.Detail = checkup.Failed, reason(err)
	case len(stale) > 0:
		r.Status, r.Detail = checkup.Failed, "not fresh, although LRPs are desired in it: "+checkup.List(keys(stale))
		r.Advice = "see whether its owner synchronises; until then surplus instances are left alone"
	case len(ending) > 0:
		r.Status, r.Detail, r.Advice = checkup.Warning, fmt.Sprintf("less than %v left: %s", checkup.MinTTL, checkup.List(ending)), "see whether its owner synchronises"
	case len(names) == 0:
		r.Detail = "none is fresh, and nothing is desired"
	}
	return []checkup.Result{r}
}

func keys(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for key := range set {
		out = append(out, key)
	}
	return out
}

// waiting looks for instances that should run and do not.
func (d *diagnosis) waiting(ctx context.Context, conn grpc.ClientConnInterface) []checkup.Result {
	r := checkup.Result{Check: "instances", Status: checkup.OK}
	records, unplaced, crashed, suspect := 0, 0, 0, 0
	err := d.eachActual(ctx, conn, &bbsv1.ListActualLRPsRequest{}, func(l spec.ActualLRP) error {
		records++
		switch {
		case l.PlacementError != "":
			unplaced++
		case l.State == "CRASHED":
			crashed++
		case l.Presence == "SUSPECT":
			suspect++
		}
		return nil
	})
	r.Detail = output.Count(records, "record", "records")
	if err != nil {
		r.Status, r.Detail = checkup.Failed, reason(err)
	} else if unplaced+crashed+suspect > 0 {
		r.Status, r.Detail = checkup.Warning, joined(", ", some(unplaced, "without a place"), some(crashed, "down after a crash"), some(suspect, "on lost cells"))
		r.Advice = "cfdot diff lists them"
	}
	return []checkup.Result{r}
}

// locks looks who holds what.
func (d *diagnosis) locks(ctx context.Context) []checkup.Result {
	if d.flags.locket == "" {
		return nil
	}
	var out []checkup.Result
	began := time.Now()
	err := d.askLocket(ctx, func(ctx context.Context, locket locketv1.LocketClient) error {
		return d.eachHeld(ctx, locket, locketv1.ClaimType_CLAIM_TYPE_LOCK, func(r spec.Resource) error {
			result := checkup.Result{
				Check: "lock " + r.Key, Status: checkup.OK, Detail: fmt.Sprintf("held by %s for %s", r.Owner, output.Age(r.AcquiredAt, d.now)),
			}
			if age := d.now.Sub(time.Unix(0, r.AcquiredAt)); age < time.Minute {
				result.Status, result.Advice = checkup.Warning, "it changed hands a moment ago: cfdot events, and the log of the holder"
			}
			out = append(out, result)
			return nil
		})
	})
	if err != nil {
		return append(out, checkup.Result{Check: "locks", Status: checkup.Failed, Detail: reason(err)})
	}
	database := checkup.Result{Check: "database of locket", Status: checkup.OK, Detail: fmt.Sprintf("read within %s, connection included", output.Latency(time.Since(began)))}
	if time.Since(began) > time.Second {
		database.Status, database.Advice = checkup.Warning, "presences live for seconds: see the load of the database"
	}
	return append(out, database)
}

// cells greets the rep of each cell, and says one line for all that are well.
func (d *diagnosis) cells(ctx context.Context) []checkup.Result {
	if d.flags.bbs == "" {
		return nil
	}
	conn, err := d.flags.dialBBS()
	if err != nil {
		return nil // it was told
	}
	defer func() { _ = conn.Close() }() // nothing is pending
	cells, err := presentCells(ctx, conn)
	if err != nil {
		return []checkup.Result{{Check: "cells", Status: checkup.Failed, Detail: reason(err)}}
	}
	bad := make([]*checkup.Result, len(cells))
	var group errgroup.Group
	group.SetLimit(cellsAtOnce)
	for i, cell := range cells {
		group.Go(func() error {
			bad[i] = d.oneCell(ctx, cell)
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
	var out []checkup.Result
	for _, r := range bad {
		if r != nil {
			out = append(out, *r)
		}
	}
	all := checkup.Result{Check: "cells", Status: checkup.OK, Detail: fmt.Sprintf("%d of %d are well", len(cells)-len(out), len(cells))}
	if len(cells) == 0 {
		all.Status, all.Detail, all.Advice = checkup.Failed, "none is present", "see whether reps run and reach locket: cfdot presences"
	}
	return append(out, all)
}

// oneCell returns what is wrong with a cell, or nil.
func (d *diagnosis) oneCell(ctx context.Context, cell *bbsv1.Cell) *checkup.Result {
	id := cell.GetPresence().GetCellId()
	check := "cell " + id
	g := d.greet(ctx, serverKind{role: mtls.RoleCell, flag: "rep_url of cell " + id}, id, cell.GetPresence().GetRepAddress())
	if g.err != nil {
		return &checkup.Result{Check: check, Status: checkup.Failed, Detail: g.why, Advice: "it is present, but its rep at " + g.address + " does not answer us"}
	}
	if g.version == "" {
		g.version = cell.GetPresence().GetVersion()
	}
	d.heard(check, g)
	state, err := d.askCell(ctx, cell)
	switch {
	case err != nil:
		return &checkup.Result{Check: check, Status: checkup.Failed, Detail: reason(err)}
	case state.GetEvacuating():
		return &checkup.Result{Check: check, Status: checkup.Warning, Detail: "evacuating", Advice: "cfdot evacuation " + id}
	case !state.GetHealthy():
		return &checkup.Result{Check: check, Status: checkup.Failed, Detail: "takes no work: " + state.GetReason(), Advice: "see the log of its rep and its container engine"}
	case len(state.GetRestrictions()) > 0:
		return &checkup.Result{Check: check, Status: checkup.Warning, Detail: "restricted: " + strings.Join(state.GetRestrictions(), "; ")}
	}
	if r := checkup.Certificate(check, g.leaf, mtls.RoleCell, d.now); r.Status != checkup.OK {
		return &r
	}
	return nil
}

// together judges what takes all servers to judge.
func (d *diagnosis) together(context.Context) []checkup.Result {
	d.mu.Lock()
	defer d.mu.Unlock()
	return []checkup.Result{checkup.Clocks(d.clocks), checkup.Versions(d.versions)}
}

// reason is why a server could not be asked, in one line.
func reason(err error) string {
	if text := message(err); fault.Code(err) != codes.DeadlineExceeded || strings.Contains(text, "connection error") {
		return text
	}
	return "no answer in time"
}
