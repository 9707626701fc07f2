package command

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"diego.internal/cfdot/internal/checkup"
	"diego.internal/cfdot/internal/output"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
)

// greeting is the answer of one server to the one question that all of them answer, standbys too: how is your health?
type greeting struct {
	address string
	// serving: it does the work of its role, rather than standing by.
	serving bool
	version string
	leaf    *x509.Certificate
	clock   checkup.Clock
	took    time.Duration
	err     error
	// why there is an error, in words.
	why string
}

// greetTime bounds a greeting: what does not answer a trivial question by then is as good as gone.
const greetTime = 3 * time.Second

// greetAll greets several servers at once.
func (a *app) greetAll(ctx context.Context, kind serverKind, hosts []string) []greeting {
	out := make([]greeting, len(hosts))
	var group errgroup.Group
	group.SetLimit(cellsAtOnce)
	for i, host := range hosts {
		group.Go(func() error {
			out[i] = a.greet(ctx, kind, "", host)
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
	return out
}

// greet greets one server, over a connection of its own. It knocks first: gRPC would try again and again what cannot be.
func (a *app) greet(ctx context.Context, kind serverKind, name, address string) greeting {
	if err := a.whyUnreachable(ctx, target{host: address, peer: mtls.Peer{Role: kind.role, Name: name}}); err != nil {
		return greeting{address: address, err: fault.New(codes.Unavailable, "", "no connection"), why: err.Error()}
	}
	g := a.tryGreet(ctx, kind, name, address)
	if g.err != nil {
		g.why = reason(g.err)
	}
	return g
}

func (a *app) tryGreet(ctx context.Context, kind serverKind, name, address string) greeting {
	g := greeting{address: address}
	conn, err := a.flags.dial(kind.flag, address, mtls.Peer{Role: kind.role, Name: name}, "")
	if err != nil {
		g.err = err
		return g
	}
	defer func() { _ = conn.Close() }() // nothing is pending
	ctx, cancel := context.WithTimeout(ctx, min(a.flags.cellTime(), greetTime))
	defer cancel()
	client := grpc_health_v1.NewHealthClient(conn)
	var header metadata.MD
	var who peer.Peer
	ask := func() (*grpc_health_v1.HealthCheckResponse, error) {
		g.clock.Asked = time.Now()
		answer, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: kind.health}, grpc.Header(&header), grpc.Peer(&who))
		g.clock.Told = time.Now()
		if fault.Code(err) == codes.NotFound {
			return answer, nil // it answers, and does not know the work that is asked for
		}
		return answer, err
	}
	if _, g.err = ask(); g.err != nil { // the first one connects
		return g
	}
	answer, err := ask()
	if g.err = err; err != nil {
		return g
	}
	g.took = g.clock.Told.Sub(g.clock.Asked)
	g.serving = answer.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
	g.version = first(header.Get(grpcserver.HeaderVersion))
	g.clock.At, _ = time.Parse(time.RFC3339Nano, first(header.Get(grpcserver.HeaderTime))) // an earlier release tells none
	if info, ok := who.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
		g.leaf = info.State.PeerCertificates[0]
	} else {
		g.err = fault.New(codes.Unauthenticated, "", "the server showed no certificate")
	}
	return g
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// pinged is a server as ping shows it.
type pinged struct {
	Server  string  `json:"server"`
	Address string  `json:"address"`
	State   string  `json:"state"`
	Version string  `json:"version,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Error   string  `json:"error,omitempty"`
}

func (a *app) ping() *cobra.Command {
	columns := []output.Column[pinged]{
		{Name: "SERVER", Cell: func(p pinged) string { return p.Server }},
		{Name: "ADDRESS", ID: true, Whole: true, Cell: func(p pinged) string { return p.Address }},
		{Name: "STATE", Cell: func(p pinged) string { return p.State }, Mood: pingMood},
		{Name: "VERSION", Cell: func(p pinged) string { return p.Version }},
		{Name: "TIME", Right: true, Cell: func(p pinged) string {
			if p.Seconds == 0 {
				return ""
			}
			return output.Latency(time.Duration(p.Seconds * float64(time.Second)))
		}},
		{Name: "ERROR", Whole: true, Cell: func(p pinged) string { return p.Error }},
	}
	command := &cobra.Command{
		Use: "ping", Short: "Which servers answer, which of them are active, and how fast", Args: exactly(),
		Long:    "Ask each server whose address is known, standbys too, one trivial question. Exit 8 if some do not answer, 7 if none does.",
		Example: "  cfdot ping\n  cfdot ping -o json | jq 'select(.state == \"active\")'\n  cfdot ping --timeout 1 && echo all answer",
	}
	command.RunE = func(c *cobra.Command, _ []string) error {
		answered, asked := 0, 0
		err := printAll(printer(a, columns...), func(show func(pinged) error) error {
			for _, kind := range a.flags.kinds() {
				if kind.list == "" {
					continue
				}
				hosts, err := addresses(kind.flag, kind.list)
				if err != nil {
					return err
				}
				for _, g := range a.greetAll(c.Context(), kind, hosts) {
					asked++
					p := pinged{Server: kind.name, Address: g.address, State: stateOf(kind, g), Version: g.version, Seconds: g.took.Seconds()}
					if g.err != nil {
						p.Error = g.why
					} else {
						answered++
					}
					if err := show(p); err != nil {
						return err
					}
				}
			}
			return nil
		})
		switch {
		case err != nil:
			return err
		case c.Context().Err() != nil:
			return context.Cause(c.Context())
		case asked == 0:
			return usage("no address of any server: give bbsURL, locketAPILocation or auctioneerLocation by flag, environment or context")
		case answered == 0:
			return late("none of %s answered", output.Count(asked, "server", "servers"))
		case answered < asked:
			return fmt.Errorf("%w: %d of %d", errSomeSilent, asked-answered, asked)
		}
		return nil
	}
	return command
}

func stateOf(kind serverKind, g greeting) string {
	switch {
	case g.err != nil:
		return "unreachable"
	case !kind.oneActive && g.serving:
		return "serving"
	case !kind.oneActive:
		return "not serving"
	case g.serving:
		return "active"
	default:
		return "standby"
	}
}

func pingMood(state string) output.Mood {
	switch {
	case strings.HasPrefix(state, "not "), state == "unreachable":
		return output.Bad
	case state == "standby":
		return output.Plain
	default:
		return output.Good
	}
}
