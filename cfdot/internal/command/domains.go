package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"diego.internal/cfdot/internal/output"
	bbsv1 "diego.internal/proto/bbs/v1"
)

func (a *app) domains() []*cobra.Command { return []*cobra.Command{a.listDomains(), a.setDomain()} }

func (a *app) listDomains() *cobra.Command {
	return &cobra.Command{
		Use: "domains", Short: "List the fresh domains", Args: exactly(),
		RunE: a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
			answer, err := bbsv1.NewDomainsClient(conn).ListDomains(ctx, &bbsv1.ListDomainsRequest{})
			if err != nil {
				return err
			}
			until := map[string]string{}
			// A line is the name alone, as it has always been; the table shows more.
			p := printer(a,
				output.Column[string]{Name: "DOMAIN", Cell: func(name string) string { return name }},
				output.Column[string]{Name: "FRESH UNTIL", Cell: func(name string) string { return until[name] }},
			)
			return printAll(p, func(show func(string) error) error {
				for _, domain := range answer.GetDomains() {
					until[domain.GetDomain()] = "for ever"
					if t := domain.GetFreshUntil(); t != nil {
						until[domain.GetDomain()] = t.AsTime().Local().Format(time.RFC3339)
					}
					if err := show(domain.GetDomain()); err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
}

func (a *app) setDomain() *cobra.Command {
	var ttl time.Duration
	command := &cobra.Command{Use: "set-domain DOMAIN", Short: "Vouch that the desired state of a domain is complete", Args: exactly("DOMAIN")}
	command.Flags().DurationVarP(&ttl, "ttl", "t", 0, "for how long, in whole seconds; 0 is for ever")
	command.RunE = func(c *cobra.Command, args []string) error {
		if ttl < 0 || ttl%time.Second != 0 {
			return usage("ttl must be whole seconds and not negative, is %v", ttl)
		}
		return a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
			_, err := bbsv1.NewDomainsClient(conn).UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: args[0], Ttl: durationpb.New(ttl)})
			return err
		})(c, args)
	}
	return command
}
