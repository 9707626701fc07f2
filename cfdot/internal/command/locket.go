package command

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	locketv1 "diego.internal/proto/locket/v1"
)

func (a *app) locket() []*cobra.Command {
	return []*cobra.Command{
		a.claims("locks", "List the locks that are held", locketv1.ClaimType_CLAIM_TYPE_LOCK),
		a.claims("presences", "List the presences that are held", locketv1.ClaimType_CLAIM_TYPE_PRESENCE),
		a.claim("claim-lock", "Take a lock once, for tests; nobody renews it", locketv1.ClaimType_CLAIM_TYPE_LOCK),
		a.claim("claim-presence", "Register a presence once, for tests; nobody renews it", locketv1.ClaimType_CLAIM_TYPE_PRESENCE),
		a.releaseLock(),
	}
}

func (a *app) withLocket(run func(ctx context.Context, locket locketv1.LocketClient) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, _ []string) error { return a.askLocket(command.Context(), run) }
}

// askLocket runs something with a connection to locket.
func (a *app) askLocket(ctx context.Context, run func(ctx context.Context, locket locketv1.LocketClient) error) error {
	conn, err := a.flags.dialLocket()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is pending
	return of(serverLocket, run(ctx, locketv1.NewLocketClient(conn)))
}

// eachHeld reads all claims of a kind.
func (a *app) eachHeld(ctx context.Context, locket locketv1.LocketClient, kind locketv1.ClaimType, take func(spec.Resource) error) error {
	open := func(ctx context.Context) (grpc.ServerStreamingClient[locketv1.FetchAllResponse], error) {
		return locket.FetchAll(ctx, &locketv1.FetchAllRequest{Type: kind})
	}
	return list(ctx, a.flags.requestTime(), open, func(chunk *locketv1.FetchAllResponse) error {
		for _, held := range chunk.GetHeld() {
			if err := take(spec.ResourceOf(held)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *app) claims(name, short string, kind locketv1.ClaimType) *cobra.Command {
	columns := []output.Column[spec.Resource]{
		{Name: "KEY", Cell: func(r spec.Resource) string { return r.Key }},
		{Name: "OWNER", Cell: func(r spec.Resource) string { return r.Owner }},
		{Name: "TTL LEFT", Right: true, Cell: func(r spec.Resource) string {
			return strconv.FormatFloat(max(time.Unix(0, r.ExpiresAt).Sub(a.now).Seconds(), 0), 'f', 1, 64) + "s"
		}},
		{Name: "HELD FOR", Right: true, Cell: func(r spec.Resource) string { return output.Age(r.AcquiredAt, a.now) }},
	}
	var watch bool
	command := &cobra.Command{Use: name, Short: short, Args: exactly()}
	command.Flags().BoolVarP(&watch, "watch", "w", false, "go on with each acquisition, change of value, release and expiry")
	command.RunE = a.withLocket(func(ctx context.Context, locket locketv1.LocketClient) error {
		if watch {
			return a.watchClaims(ctx, locket, kind, columns)
		}
		return printAll(printer(a, columns...), func(show func(spec.Resource) error) error { return a.eachHeld(ctx, locket, kind, show) })
	})
	return command
}

// claimSilence is how long a watch of locket may be silent; it has a heartbeat every five seconds.
const claimSilence = 20 * time.Second

// watchClaims prints what is held and then each change, until it is interrupted or locket is gone: the list of a watch that begins
// anew would not say what was missed.
func (a *app) watchClaims(ctx context.Context, locket locketv1.LocketClient, kind locketv1.ClaimType, columns []output.Column[spec.Resource]) error {
	p := printer(a, watchedColumns(columns)...)
	synced := false
	open := func(ctx context.Context) (grpc.ServerStreamingClient[locketv1.WatchResponse], error) {
		return locket.Watch(ctx, &locketv1.WatchRequest{Type: kind})
	}
	return list(ctx, claimSilence, open, func(message *locketv1.WatchResponse) error {
		a.now = time.Now()
		if message.GetSynced() != nil {
			synced = true
			return p.Flush()
		}
		change := message.GetChange()
		if change == nil {
			return nil
		}
		shown := listedNow
		if synced {
			shown = claimChange(change.GetKind())
		}
		if err := p.Print(watched[spec.Resource]{shown, spec.ResourceOf(change.GetHeld())}); err != nil || !synced {
			return err
		}
		return p.Flush()
	})
}

// claimChange is what became of a claim, in the words of locket.
func claimChange(kind locketv1.ChangeKind) string {
	return strings.ToLower(strings.TrimPrefix(kind.String(), "CHANGE_KIND_"))
}

func (a *app) claim(name, short string, kind locketv1.ClaimType) *cobra.Command {
	var key, owner, value string
	var ttl int
	command := &cobra.Command{Use: name, Short: short, Args: exactly()}
	command.Flags().StringVarP(&key, "key", "k", "", "the key")
	a.ownerFlag(command, &owner, "who claims it")
	command.Flags().StringVarP(&value, "value", "v", "", "what is published")
	command.Flags().IntVarP(&ttl, "ttl", "t", 0, "seconds until it expires")
	command.RunE = func(c *cobra.Command, args []string) error {
		if key == "" || owner == "" {
			return usage("key and owner must be given")
		}
		if ttl <= 0 {
			return usage("ttl must be more than 0 seconds")
		}
		return a.withLocket(func(ctx context.Context, locket locketv1.LocketClient) error {
			_, err := locket.Lock(ctx, &locketv1.LockRequest{
				Claim: &locketv1.Claim{Key: key, Owner: owner, Value: value, Type: kind}, Ttl: durationpb.New(time.Duration(ttl) * time.Second),
			})
			return err
		})(c, args)
	}
	return command
}

func (a *app) releaseLock() *cobra.Command {
	var key, owner string
	var safe safety
	command := &cobra.Command{Use: "release-lock", Short: "Give up a lock or a presence for its owner", Args: exactly()}
	command.Flags().StringVarP(&key, "key", "k", "", "the key")
	a.ownerFlag(command, &owner, "who holds it")
	safe.register(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		if key == "" || owner == "" {
			return usage("key and owner must be given")
		}
		if proceed, err := safe.allow(a, "release %s, which %s may hold; whoever waits for it takes over", key, owner); !proceed {
			return err
		}
		return a.withLocket(func(ctx context.Context, locket locketv1.LocketClient) error {
			_, err := locket.Release(ctx, &locketv1.ReleaseRequest{Key: key, Owner: owner})
			return err
		})(c, args)
	}
	return command
}

// ownerFlag defines -o as scripts know it. Here it is not the short form of --output, for there is nothing to print but an
// error: an output of the command's own takes the place of the one that all commands have.
func (a *app) ownerFlag(command *cobra.Command, owner *string, what string) {
	command.Flags().StringVarP(owner, "owner", "o", "", what)
	command.Flags().StringVar(&a.flags.outputName, "output", "", "json prints errors as a document")
}
