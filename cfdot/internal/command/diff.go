package command

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/compare"
	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// usualPatience is how long an instance may be on its way or down before diff tells.
const usualPatience = time.Minute

func (a *app) diff() []*cobra.Command {
	var domain string
	var patience time.Duration
	command := &cobra.Command{
		Use: "diff [PROCESS_GUID]", Short: "Where what runs differs from what is wanted", Args: atMostOne("PROCESS_GUID"),
		Long: `Compare desired and actual LRPs and list each instance that is missing, has no place, does not start, is down, fails its readiness
checks, is only left on a lost cell, runs an old definition, or is not wanted. Exit 0 if there is none, 1 if there are some.`,
		Example: "  cfdot diff\n  cfdot diff my-app --older-than 10s\n  cfdot diff -d cf-apps -o json | jq -r .kind | sort | uniq -c",
	}
	command.Flags().StringVarP(&domain, "domain", "d", "", "only this domain")
	command.Flags().DurationVar(&patience, "older-than", usualPatience, "how long an instance may be on its way, or down, before it is listed")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		if err := notNegative("older-than", patience); err != nil {
			return err
		}
		cfg := compare.Config{Patience: patience, Now: a.now}
		first, err := a.compare(ctx, conn, cfg, domain, args)
		if err != nil {
			return err
		}
		if len(args) > 0 && first.Empty() {
			return errNotDesired.With("no LRP %q is desired, and none runs", args[0])
		}
		differences, counts := first.Differences()
		if guids := compare.Processes(differences); len(guids) > 0 && len(guids) <= mostComparedAgain {
			// The two sides were read one after the other: what was made or removed in between is no difference. So only what is
			// there a second time is told.
			second, err := a.compare(ctx, conn, cfg, domain, guids)
			if err != nil {
				return err
			}
			again, _ := second.Differences()
			differences = compare.Both(differences, again)
		}
		return a.showDifferences(differences, counts)
	})
	return []*cobra.Command{command}
}

// mostComparedAgain processes with differences are looked at a second time; of more, a few that are only of the moment do not matter.
const mostComparedAgain = 10_000

// compare reads both sides; guids limits them to some processes.
func (a *app) compare(ctx context.Context, conn grpc.ClientConnInterface, cfg compare.Config, domain string, guids []string) (*compare.Comparison, error) {
	c := compare.New(cfg)
	err := a.eachInfo(ctx, conn, &bbsv1.DesiredLRPFilter{Domain: domain, ProcessGuids: guids}, func(info *workloadv1.SchedulingInfo) error {
		c.Desire(spec.SchedulingInfoOf(info))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, a.eachActual(ctx, conn, &bbsv1.ListActualLRPsRequest{Domain: domain, ProcessGuids: guids}, func(l spec.ActualLRP) error {
		c.Run(l)
		return nil
	})
}

func (a *app) showDifferences(differences []compare.Difference, counts compare.Counts) error {
	if len(differences) > 0 || !a.flags.format.ForPeople() {
		if err := printAll(printer(a, a.differenceColumns()...), each(differences)); err != nil {
			return err
		}
	}
	if len(differences) > 0 {
		return found("%s; %d of %d desired instances run", output.Count(len(differences), "difference", "differences"), counts.Running, counts.Desired)
	}
	if !a.flags.format.ForPeople() {
		return nil
	}
	_, err := fmt.Fprintf(a.Stdout, "no differences: %d of %d desired instances run\n", counts.Running, counts.Desired)
	return err
}

func (a *app) differenceColumns() []output.Column[compare.Difference] {
	return []output.Column[compare.Difference]{
		{Name: "PROCESS", ID: true, Cell: func(d compare.Difference) string { return d.ProcessGUID }},
		{Name: "INDEX", ID: true, Right: true, Cell: func(d compare.Difference) string { return strconv.Itoa(int(d.Index)) }},
		{Name: "DIFFERENCE", Cell: func(d compare.Difference) string { return string(d.Kind) }, Mood: func(string) output.Mood { return output.Bad }},
		{Name: "STATE", Cell: func(d compare.Difference) string { return d.State }, Mood: stateMood},
		{Name: "CELL", Cell: func(d compare.Difference) string { return d.CellID }},
		{Name: "FOR", Right: true, Cell: func(d compare.Difference) string { return output.Age(d.Since, a.now) }},
		{Name: "REASON", Cell: func(d compare.Difference) string { return d.Reason }},
	}
}
