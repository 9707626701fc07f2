package command

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	locketv1 "diego.internal/proto/locket/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// overview is a platform in numbers.
type overview struct {
	Processes int `json:"processes"`
	Desired   int `json:"desired_instances"`
	// ByState counts ordinary records, ByPresence all of them.
	ByState    map[string]int `json:"instances_by_state"`
	ByPresence map[string]int `json:"records_by_presence"`
	Crashing   int            `json:"instances_that_crashed"`
	// ByPlacementError counts instances without a place.
	ByPlacementError map[string]int `json:"instances_by_placement_error"`
	TasksByState     map[string]int `json:"tasks_by_state"`
	TasksFailed      int            `json:"tasks_failed"`
	Domains          []domainLeft   `json:"domains"`
	Cells            int            `json:"cells"`
	CellsByZone      map[string]int `json:"cells_by_zone"`
	CellsByVersion   map[string]int `json:"cells_by_version"`
	// Capacity of all cells, and what their records reserve is not in it: only cells know that, see cells.
	MemoryMB int64            `json:"memory_mb"`
	Locks    []spec.Resource  `json:"locks,omitempty"`
	BBS      *convergenceInfo `json:"bbs,omitempty"`
	Notes    []string         `json:"notes,omitempty"`
}

// domainLeft is a domain that is fresh; for ever if it has no end.
type domainLeft struct {
	Domain     string `json:"domain"`
	FreshUntil int64  `json:"fresh_until,omitempty"`
}

// convergenceInfo is what the active BBS says of itself.
type convergenceInfo struct {
	Instance     string  `json:"instance"`
	Revision     uint64  `json:"revision"`
	Epoch        int64   `json:"epoch"`
	BrakeEngaged bool    `json:"brake_engaged"`
	LastRun      int64   `json:"last_convergence,omitempty"`
	Seconds      float64 `json:"last_convergence_seconds"`
}

func (a *app) summary() []*cobra.Command {
	command := &cobra.Command{
		Use: "summary", Short: "The platform in numbers: instances, tasks, domains, cells, locks, convergence", Args: exactly(),
		Example: "  cfdot summary\n  cfdot summary -o json | jq .instances_by_state\n  cfdot summary -o custom=RUNNING:.instances_by_state.RUNNING,CELLS:.cells",
	}
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
		o := &overview{
			ByState: map[string]int{}, ByPresence: map[string]int{}, ByPlacementError: map[string]int{}, TasksByState: map[string]int{},
			CellsByZone: map[string]int{}, CellsByVersion: map[string]int{}, Domains: []domainLeft{},
		}
		for _, count := range []func(context.Context, grpc.ClientConnInterface, *overview) error{a.countLRPs, a.countTasks, a.countDomainsAndCells} {
			if err := count(ctx, conn, o); err != nil {
				return err
			}
		}
		a.askStatus(ctx, conn, o)
		a.readLocks(ctx, o)
		if !a.flags.format.ForPeople() {
			return printOne(printer(a, output.Column[*overview]{Name: "CLUSTER", Cell: func(*overview) string { return a.flags.cluster() }}), o)
		}
		return a.showOverview(o)
	})
	return []*cobra.Command{command}
}

func (a *app) countLRPs(ctx context.Context, conn grpc.ClientConnInterface, o *overview) error {
	err := a.eachInfo(ctx, conn, &bbsv1.DesiredLRPFilter{}, func(info *workloadv1.SchedulingInfo) error {
		o.Processes++
		o.Desired += int(info.GetInstances())
		return nil
	})
	if err != nil {
		return err
	}
	return a.eachActual(ctx, conn, &bbsv1.ListActualLRPsRequest{}, func(l spec.ActualLRP) error {
		o.ByPresence[l.Presence]++
		if l.Presence != "ORDINARY" {
			return nil
		}
		o.ByState[l.State]++
		if l.CrashCount > 0 {
			o.Crashing++
		}
		if l.PlacementError != "" {
			o.ByPlacementError[l.PlacementError]++
		}
		return nil
	})
}

func (a *app) countTasks(ctx context.Context, conn grpc.ClientConnInterface, o *overview) error {
	return a.eachTask(ctx, conn, &bbsv1.ListTasksRequest{}, func(t spec.Task) error {
		o.TasksByState[t.State]++
		if t.Failed {
			o.TasksFailed++
		}
		return nil
	})
}

func (a *app) countDomainsAndCells(ctx context.Context, conn grpc.ClientConnInterface, o *overview) error {
	domains, err := bbsv1.NewDomainsClient(conn).ListDomains(ctx, &bbsv1.ListDomainsRequest{})
	if err != nil {
		return err
	}
	for _, d := range domains.GetDomains() {
		left := domainLeft{Domain: d.GetDomain()}
		if t := d.GetFreshUntil(); t != nil {
			left.FreshUntil = t.AsTime().UnixNano()
		}
		o.Domains = append(o.Domains, left)
	}
	cells, err := presentCells(ctx, conn)
	if err != nil {
		return err
	}
	for _, c := range cells {
		o.Cells++
		o.CellsByZone[c.GetPresence().GetZone()]++
		o.CellsByVersion[c.GetPresence().GetVersion()]++
		o.MemoryMB += int64(c.GetPresence().GetCapacity().GetMemoryMb())
	}
	return nil
}

func (a *app) askStatus(ctx context.Context, conn grpc.ClientConnInterface, o *overview) {
	s, err := bbsv1.NewMaintenanceClient(conn).GetStatus(ctx, &bbsv1.GetStatusRequest{})
	if err != nil {
		o.Notes = append(o.Notes, "convergence: "+message(err))
		return
	}
	o.BBS = &convergenceInfo{
		Instance: s.GetInstance(), Revision: s.GetRevision(), Epoch: s.GetEpoch(), BrakeEngaged: s.GetBrakeEngaged(), Seconds: s.GetLastConvergenceDuration().AsDuration().Seconds(),
	}
	if t := s.GetLastConvergence(); t != nil {
		o.BBS.LastRun = t.AsTime().UnixNano()
	}
}

func (a *app) readLocks(ctx context.Context, o *overview) {
	if a.flags.locket == "" {
		o.Notes = append(o.Notes, "locks: there is no locketAPILocation to ask")
		return
	}
	err := a.askLocket(ctx, func(ctx context.Context, locket locketv1.LocketClient) error {
		return a.eachHeld(ctx, locket, locketv1.ClaimType_CLAIM_TYPE_LOCK, func(r spec.Resource) error {
			o.Locks = append(o.Locks, r)
			return nil
		})
	})
	if err != nil {
		o.Notes = append(o.Notes, "locks: "+message(err))
	}
}

func (a *app) showOverview(o *overview) error {
	p := &page{app: a}
	running := o.ByState["RUNNING"]
	share := "all running"
	if running < o.Desired {
		share = output.Paint(a.color(), output.Warning, fmt.Sprintf("%d not running", o.Desired-running))
	}
	p.write("Instances  %d desired of %s, %d running: %s\n", o.Desired, output.Count(o.Processes, "process", "processes"), running, share)
	for _, line := range []struct{ name, text string }{
		{"", severalStates(o.ByState)},
		{"", extraPresences(o.ByPresence)},
		{"", crashing(o.Crashing)},
	} {
		if line.text != "" {
			p.write("%-9s  %s\n", line.name, line.text)
		}
	}
	for _, e := range byCount(o.ByPlacementError) {
		p.write("%-9s  %s\n", "", output.Paint(a.color(), output.Bad, fmt.Sprintf("%d without a place: %s", o.ByPlacementError[e], output.Printable(e))))
	}
	p.write("Tasks      %s\n", cmp.Or(joined("; ", counts(o.TasksByState), failedTasks(o.TasksFailed)), "none"))
	p.write("Domains    %s\n", a.domainsLine(o.Domains))
	p.write("Cells      %s with %s of memory; by zone: %s\n", output.Count(o.Cells, "cell", "cells"), output.Mebibytes(int32(min(o.MemoryMB, 1<<31-1))), cmp.Or(counts(o.CellsByZone), "none")) //nolint:gosec // bounded
	version := counts(o.CellsByVersion)
	if len(o.CellsByVersion) > 1 {
		version = output.Paint(a.color(), output.Warning, "several versions: "+version)
	}
	if o.Cells > 0 {
		p.write("%-9s  %s\n", "", version)
	}
	a.writeBBS(p, o)
	for _, note := range o.Notes {
		p.note("not known: %s", note)
	}
	return p.err
}

func (a *app) writeBBS(p *page, o *overview) {
	for i, lock := range o.Locks {
		name := ""
		if i == 0 {
			name = "Locks"
		}
		p.write("%-9s  %s held by %s for %s\n", name, lock.Key, lock.Owner, output.Age(lock.AcquiredAt, a.now))
	}
	if o.BBS == nil {
		return
	}
	p.write("BBS        %s, revision %d, epoch %d\n", o.BBS.Instance, o.BBS.Revision, o.BBS.Epoch)
	if o.BBS.LastRun != 0 {
		p.write("%-9s  last convergence %s ago, took %s\n", "", output.Age(o.BBS.LastRun, a.now), output.Latency(time.Duration(o.BBS.Seconds*float64(time.Second))))
	}
	if o.BBS.BrakeEngaged {
		p.write("%-9s  %s\n", "", output.Paint(a.color(), output.Bad, "the brake is on: too many cells vanished at once, lost instances are not replaced"))
	}
}

// counts as "3 RUNNING, 1 CRASHED", the most first.
func counts(by map[string]int) string {
	var parts []string
	for _, name := range byCount(by) {
		parts = append(parts, fmt.Sprintf("%d %s", by[name], cmp.Or(name, "unknown")))
	}
	return strings.Join(parts, ", ")
}

// severalStates leaves out what the line above says already.
func severalStates(by map[string]int) string {
	if len(by) < 2 {
		return ""
	}
	return counts(by)
}

// byCount are the names with the largest count first.
func byCount(by map[string]int) []string {
	names := slices.Sorted(maps.Keys(by))
	slices.SortStableFunc(names, func(x, y string) int { return cmp.Compare(by[y], by[x]) })
	return names
}

func extraPresences(by map[string]int) string {
	return joined(", ", some(by["SUSPECT"], "~suspect"), some(by["EVACUATING"], ">evacuating"))
}

func some(n int, name string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", n, name)
}

func crashing(n int) string {
	if n == 0 {
		return ""
	}
	return output.Count(n, "instance has", "instances have") + " crashed lately"
}

func failedTasks(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d failed", n)
}

func (a *app) domainsLine(domains []domainLeft) string {
	var parts []string
	for _, d := range domains {
		left := "for ever"
		if d.FreshUntil != 0 {
			left = output.Duration(time.Unix(0, d.FreshUntil).Sub(a.now))
		}
		parts = append(parts, fmt.Sprintf("%s (%s)", d.Domain, left))
	}
	if len(parts) == 0 {
		return output.Paint(a.color(), output.Warning, "none is fresh: nothing is stopped for being surplus")
	}
	return "fresh: " + strings.Join(parts, ", ")
}
