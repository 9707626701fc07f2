package command

import (
	"github.com/spf13/cobra"

	"diego.internal/cfdot/internal/contexts"
	"diego.internal/cfdot/internal/output"
)

// shownContext is a cluster of the file of contexts.
type shownContext struct {
	contexts.Context
	Used bool `json:"used"`
}

func (a *app) contexts() *cobra.Command {
	return &cobra.Command{
		Use: "contexts", Short: "List the clusters in the file of contexts, and which of them is used", Args: exactly(),
		Long: `List the clusters in the file of contexts: CFDOT_CONTEXTS, or cfdot/contexts.yaml in $XDG_CONFIG_HOME or ~/.config. It looks like this:

  current: prod
  contexts:
  - name: prod
    bbs: bbs-1.prod:8889,bbs-2.prod:8889
    locket: locket.prod:8891
    auctioneer: auctioneer.prod:9016
    ca: prod/ca.crt
    certificate: prod/operator.crt
    key: prod/operator.key

Files are found beside it. A context given by --context wins over the environment; one given by CFDOT_CONTEXT or as current is used
only if neither flags nor environment name a server.`,
		Example: "  cfdot contexts\n  cfdot summary --context prod\n  cfdot contexts -o name",
		RunE: func(*cobra.Command, []string) error {
			file, err := contexts.Load(contexts.Path(a.Getenv))
			if err != nil {
				return usageError{err}
			}
			columns := []output.Column[shownContext]{
				{Name: "USED", Cell: func(c shownContext) string {
					if c.Used {
						return "*"
					}
					return ""
				}},
				{Name: "NAME", ID: true, Cell: func(c shownContext) string { return c.Name }},
				{Name: "BBS", Cell: func(c shownContext) string { return c.BBS }},
				{Name: "LOCKET", Cell: func(c shownContext) string { return c.Locket }},
				{Name: "AUCTIONEER", Cell: func(c shownContext) string { return c.Auctioneer }},
			}
			return printAll(printer(a, columns...), func(show func(shownContext) error) error {
				for _, c := range file.Contexts {
					if err := show(shownContext{Context: c, Used: c.Name == a.flags.contextName}); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}
