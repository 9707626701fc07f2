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
	"google.golang.org/grpc/codes"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	"diego.internal/cfdot/internal/story"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/fault"
)

// describe gathers all that is known of one thing on one page. What some server did not tell is named, and does not keep the rest
// from being shown.
func (a *app) describe() []*cobra.Command {
	parent := &cobra.Command{
		Use: "describe", Short: "All that is known of one process, task or cell, on one page", Args: exactly("lrp, task or cell"),
		Example: "  cfdot describe lrp my-app\n  cfdot describe task my-task\n  cfdot describe cell cell-1",
	}
	parent.RunE = func(_ *cobra.Command, args []string) error {
		return usage("describe lrp, task or cell, not %q", args[0])
	}
	children := []*cobra.Command{a.describeLRP(), a.describeTask(), a.describeCell()}
	parent.AddCommand(children...)
	return []*cobra.Command{parent}
}

// refused is a placement that failed, with what the auctioneer says of it.
type refused struct {
	Index         int32            `json:"index"`
	Error         string           `json:"placement_error"`
	CellsByReason map[string]int32 `json:"cells_by_reason,omitempty"`
}

// lrpPage is all that is known of one process.
type lrpPage struct {
	Desired    *spec.DesiredLRP `json:"desired"`
	Fresh      bool             `json:"domain_fresh"`
	Instances  []spec.ActualLRP `json:"instances"`
	Placements []refused        `json:"placements"`
	pastPage
}

// pastPage is what a page says of the past.
type pastPage struct {
	Events        []eventLine `json:"events"`
	CompleteSince int64       `json:"events_complete_since,omitempty"`
	// Notes say what could not be found out.
	Notes []string `json:"notes,omitempty"`

	lines    []story.Line
	complete time.Time
}

// eventLine is a sentence with its times in nanoseconds since 1970, like all times in documents.
type eventLine struct {
	story.Line
	First int64 `json:"first"`
	Last  int64 `json:"last"`
}

// readPast fills in what happened; that it could not be read is a note.
func (p *pastPage) readPast(ctx context.Context, a *app, conn grpc.ClientConnInterface, request *bbsv1.WatchRequest, since time.Duration) {
	lines, complete, _, err := a.pastLines(ctx, conn, request, since)
	if err != nil {
		p.Notes = append(p.Notes, "events: "+message(err))
		return
	}
	p.lines, p.complete, p.CompleteSince, p.Events = lines, complete, complete.UnixNano(), []eventLine{}
	for _, line := range lines {
		p.Events = append(p.Events, eventLine{Line: line, First: line.First.UnixNano(), Last: line.At.UnixNano()})
	}
}

// mostShown events are on a page; the command events shows all.
const mostShown = 25

func (p *pastPage) show(page *page, since time.Duration, more string) {
	if p.Events != nil {
		lines, left := p.lines, 0
		if len(lines) > mostShown {
			left = len(lines) - mostShown
			lines = lines[left:]
		}
		reach := min(since, page.now.Sub(p.complete))
		page.title("Events of the last %s", output.Duration(reach+time.Second/2))
		table(page, page.storyColumns(), lines)
		if left > 0 {
			page.note("%d earlier ones: cfdot events %s --since %s", left, more, since)
		}
	}
	for i, note := range p.Notes {
		if i == 0 {
			page.write("\n")
		}
		page.note("not known: %s", note)
	}
}

// described is a command that describes one thing: it reads a page, and prints it as a document or shows it to people.
func described[P any](a *app, command *cobra.Command, name string,
	read func(ctx context.Context, conn grpc.ClientConnInterface, id string, since time.Duration) (P, error),
	show func(id string, page *P, since time.Duration) error,
) *cobra.Command {
	var since time.Duration
	command.Flags().DurationVar(&since, "since", usualHistory, "how far back to tell what happened")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		page, err := read(ctx, conn, args[0], since)
		if err != nil {
			return err
		}
		if !a.flags.format.ForPeople() {
			return printOne(printer(a, output.Column[P]{Name: name, Cell: func(P) string { return args[0] }}), page)
		}
		return show(args[0], &page, since)
	})
	return command
}

func (a *app) describeLRP() *cobra.Command {
	return described(a, &cobra.Command{
		Use: "lrp PROCESS_GUID", Short: "A process: what is wanted, each instance, why it has no place, routes and what happened", Args: exactly("PROCESS_GUID"),
		Example: "  cfdot describe lrp my-app\n  cfdot describe lrp my-app --since 24h\n  cfdot describe lrp my-app -o json | jq .placements",
	}, "PROCESS", a.lrpPage, a.showLRP)
}

func (a *app) lrpPage(ctx context.Context, conn grpc.ClientConnInterface, guid string, since time.Duration) (lrpPage, error) {
	out := lrpPage{Instances: []spec.ActualLRP{}, Placements: []refused{}}
	answer, err := bbsv1.NewDesiredLRPsClient(conn).GetDesiredLRP(ctx, &bbsv1.GetDesiredLRPRequest{ProcessGuid: guid})
	switch {
	case err == nil:
		desired := spec.DesiredLRPOf(answer.GetDesiredLrp())
		out.Desired = &desired
	case fault.Code(err) != codes.NotFound:
		return out, err
	}
	missing := err
	err = a.eachActual(ctx, conn, &bbsv1.ListActualLRPsRequest{ProcessGuids: []string{guid}}, func(l spec.ActualLRP) error {
		out.Instances = append(out.Instances, l)
		return nil
	})
	if err != nil {
		return out, err
	}
	out.readPast(ctx, a, conn, &bbsv1.WatchRequest{ProcessGuids: []string{guid}}, since)
	if out.Desired == nil && len(out.Instances) == 0 && len(out.Events) == 0 {
		return out, missing
	}
	if out.Fresh, err = a.isFresh(ctx, conn, out.domain()); err != nil {
		out.Notes = append(out.Notes, "domain: "+message(err))
	}
	a.explain(ctx, guid, &out)
	return out, nil
}

func (l *lrpPage) domain() string {
	switch {
	case l.Desired != nil:
		return l.Desired.Domain
	case len(l.Instances) > 0:
		return l.Instances[0].Domain
	default:
		return ""
	}
}

func (a *app) isFresh(ctx context.Context, conn grpc.ClientConnInterface, domain string) (bool, error) {
	answer, err := bbsv1.NewDomainsClient(conn).ListDomains(ctx, &bbsv1.ListDomainsRequest{})
	return slices.ContainsFunc(answer.GetDomains(), func(d *bbsv1.Domain) bool { return d.GetDomain() == domain }), err
}

// mostExplained instances without a place are asked about; the others have the same reasons more often than not.
const mostExplained = 5

// explain asks the auctioneer about instances without a place.
func (a *app) explain(ctx context.Context, guid string, lrp *lrpPage) {
	var waiting []spec.ActualLRP
	for _, l := range lrp.Instances {
		if l.PlacementError != "" {
			waiting = append(waiting, l)
			lrp.Placements = append(lrp.Placements, refused{Index: l.Index, Error: l.PlacementError})
		}
	}
	if len(waiting) == 0 {
		return
	}
	if a.flags.auctioneer == "" {
		lrp.Notes = append(lrp.Notes, "why cells were ruled out: there is no auctioneerLocation to ask")
		return
	}
	err := a.withAuctioneer(ctx, func(ctx context.Context, auctioneer auctioneerv1.ExplanationsClient) error {
		for i := range lrp.Placements[:min(len(waiting), mostExplained)] {
			answer, err := auctioneer.ExplainPlacement(ctx, &auctioneerv1.ExplainPlacementRequest{Work: &auctioneerv1.ExplainPlacementRequest_Lrp{
				Lrp: &auctioneerv1.ExplainPlacementRequest_LRPInstance{ProcessGuid: guid, Index: lrp.Placements[i].Index},
			}})
			if fault.Code(err) == codes.NotFound {
				continue // it remembers no refusal of this one, or it has been placed meanwhile
			}
			if err != nil {
				return err
			}
			lrp.Placements[i].CellsByReason = answer.GetCellsByReason()
		}
		return nil
	})
	if err != nil {
		lrp.Notes = append(lrp.Notes, "why cells were ruled out: "+message(err))
	}
}

func (a *app) showLRP(guid string, lrp *lrpPage, since time.Duration) error {
	p := &page{app: a}
	p.facts(a.desiredFacts(guid, lrp)...)
	p.title("Instances")
	table(p, a.instanceColumns(), lrp.Instances)
	if len(lrp.Placements) > 0 {
		p.title("Why not placed")
		rows := make([]refused, len(lrp.Placements))
		copy(rows, lrp.Placements)
		table(p, refusedColumns(), rows)
		p.note("each cell: cfdot placement %s %d --cells", guid, lrp.Placements[0].Index)
	}
	if lrp.Desired != nil && len(lrp.Desired.Routes) > 0 {
		p.title("Routes")
		for _, router := range slices.Sorted(maps.Keys(lrp.Desired.Routes)) {
			p.write("%-16s  %s\n", router, output.Printable(string(lrp.Desired.Routes[router])))
		}
	}
	lrp.show(p, since, guid)
	return p.err
}

// desiredFacts are the head of the page.
func (a *app) desiredFacts(guid string, lrp *lrpPage) []fact {
	states := map[string]int{}
	for _, l := range lrp.Instances {
		if l.Presence == "ORDINARY" {
			states[l.State]++
		} else {
			states[strings.ToLower(l.Presence)]++
		}
	}
	var counts []string
	for _, state := range slices.Sorted(maps.Keys(states)) {
		counts = append(counts, fmt.Sprintf("%d %s", states[state], state))
	}
	domain := lrp.domain()
	if !lrp.Fresh && domain != "" {
		domain += " (not fresh: surplus instances are left alone)"
	}
	d := lrp.Desired
	if d == nil {
		return []fact{{"Process", guid}, {"Domain", domain}, {"Desired", "no"}, {"Records", strings.Join(counts, ", ")}}
	}
	policy := ""
	if c := d.CrashRestartPolicy; c != nil {
		policy = joined(", ", number("immediate restarts", c.NumberOfImmediateRestarts), number("longest pause in seconds", c.MaxSecondsBetweenRestarts), number("gives up after", c.MaxRestartAttempts))
	}
	tags := strings.Join(d.PlacementTags, ", ")
	if d.Constraint != nil {
		tags = "requires " + strings.Join(d.Constraint.Require, ", ")
	}
	return []fact{
		{"Process", guid},
		{"Name", appName(staticTags(d.MetricTags))},
		{"Domain", domain},
		{"Instances", fmt.Sprintf("%d desired; %s", d.Instances, cmp.Or(strings.Join(counts, ", "), "no records"))},
		{"Memory, disk", output.Mebibytes(d.MemoryMB) + ", " + output.Mebibytes(d.DiskMB)},
		{"Root filesystem", d.RootFS},
		{"Placement tags", tags},
		{"Crash policy", policy},
		{"Definition", d.DefinitionID},
		{"Created", ago(output.Age(d.CreatedAt, a.now))},
		{"Updated", ago(output.Age(d.UpdatedAt, a.now))},
	}
}

func number(name string, value *uint32) string {
	if value == nil {
		return ""
	}
	return fmt.Sprintf("%s %d", name, *value)
}

func ago(age string) string {
	if age == "" {
		return ""
	}
	return age + " ago"
}

// instanceColumns are those of a list without what is the same in every row.
func (a *app) instanceColumns() []output.Column[spec.ActualLRP] {
	return slices.DeleteFunc(a.actualColumns(false), func(c output.Column[spec.ActualLRP]) bool { return c.Name == "PROCESS" })
}

func refusedColumns() []output.Column[refused] {
	return []output.Column[refused]{
		{Name: "INDEX", Right: true, Cell: func(r refused) string { return fmt.Sprint(r.Index) }},
		{Name: "CELLS RULED OUT", Cell: func(r refused) string {
			var parts []string
			for _, c := range reasonRows(r.CellsByReason) {
				parts = append(parts, fmt.Sprintf("%d %s", c.count, c.name))
			}
			return strings.Join(parts, ", ")
		}},
		{Name: "PLACEMENT ERROR", Cell: func(r refused) string { return r.Error }},
	}
}
