package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

// pollInterval is the pause between two looks at something that is starting.
const pollInterval = 50 * time.Millisecond

// DialBBS connects to whichever BBS is active. The caller closes the connection, and ends ctx when it is done with it.
func (c *Cluster) DialBBS(ctx context.Context, as mtls.Config) (*grpc.ClientConn, error) {
	source, err := mtls.Load(as)
	if err != nil {
		return nil, err
	}
	go func() { _ = source.Run(ctx) }() // only ctx ends it
	return grpcclient.Dial(grpcclient.Config{Addresses: c.BBSAddresses()}, grpcclient.Options{
		Source: source, Server: mtls.Peer{Role: mtls.RoleBBS}, HealthService: "bbs.v1", Telemetry: telemetry.Discard(),
	})
}

// waitReady waits until one BBS and one auctioneer are active, every cell is present, and every emitter and the router work.
func (c *Cluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := c.DialBBS(ctx, c.operator)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	waits := []struct {
		who   string
		ready func(context.Context) error
	}{
		{"an active bbs", func(ctx context.Context) error {
			_, err := bbsv1.NewDomainsClient(conn).ListDomains(ctx, &bbsv1.ListDomainsRequest{})
			return err
		}},
		{"an active auctioneer", func(ctx context.Context) error { return anyReady(ctx, c.plan.auctioneers) }},
		// A cell that is present takes no work before it has checked its engine.
		{"the cells", func(ctx context.Context) error {
			return errors.Join(c.cellsPresent(ctx, conn), allReady(ctx, c.plan.cells))
		}},
		{"the route emitters and the router", func(ctx context.Context) error {
			return errors.Join(allReady(ctx, c.plan.emitters), allReady(ctx, []node{c.plan.router}))
		}},
	}
	for _, w := range waits {
		if err := poll(ctx, w.ready); err != nil {
			return fmt.Errorf("waiting for %s: %w\n%s", w.who, err, c.whoEnded())
		}
	}
	return nil
}

func poll(ctx context.Context, ready func(context.Context) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

func (c *Cluster) cellsPresent(ctx context.Context, conn *grpc.ClientConn) error {
	answer, err := bbsv1.NewCellsClient(conn).ListCells(ctx, &bbsv1.ListCellsRequest{})
	if err != nil {
		return err
	}
	if got, want := len(answer.GetCells()), len(c.plan.cells); got != want {
		return fmt.Errorf("%d of %d cells are present", got, want)
	}
	return nil
}

func anyReady(ctx context.Context, nodes []node) error {
	var problems []error
	for _, n := range nodes {
		err := ready(ctx, n)
		if err == nil {
			return nil
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// CellsReady returns why a cell does not take work yet: one that has come back is present before the check of its container
// engine has passed.
func (c *Cluster) CellsReady(ctx context.Context) error { return allReady(ctx, c.plan.cells) }

func allReady(ctx context.Context, nodes []node) error {
	var problems []error
	for _, n := range nodes {
		problems = append(problems, ready(ctx, n))
	}
	return errors.Join(problems...)
}

// ready asks the process whether it accepts work.
func ready(ctx context.Context, n node) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.debug+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4096)) // it only adds to an error
	return fmt.Errorf("%s is not ready: %s", n.name, strings.TrimSpace(string(body)))
}

// whoEnded names the processes that do not stay up, whose logs an operator should read.
func (c *Cluster) whoEnded() string {
	var text strings.Builder
	for _, p := range c.Processes() {
		if runs, last := p.Runs(); runs > 1 || last != "" {
			fmt.Fprintf(&text, "%s ended (%s) and was started %d times; its log: %s\n%s\n", p.Name, last, runs, p.Log, tail(p.Log))
		}
	}
	return text.String()
}

// Blame shows the processes that ended without being asked, and the errors that the others logged.
func (c *Cluster) Blame() string {
	var text strings.Builder
	text.WriteString(c.whoEnded())
	for _, p := range c.Processes() {
		if lines := errorLines(p.Log); lines != "" {
			fmt.Fprintf(&text, "%s logged:\n%s", p.Name, lines)
		}
	}
	return text.String()
}

// errorLines are the last lines of a log that are worse than information.
func errorLines(file string) string {
	const most = 10
	var lines []string
	for line := range strings.Lines(tail(file)) {
		if strings.Contains(line, `"level":"error"`) || strings.Contains(line, `"level":"fatal"`) || strings.Contains(line, `"level":"warn"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-most):], "")
}

// ActiveBBS names the BBS that serves at the moment.
func (c *Cluster) ActiveBBS(ctx context.Context) (string, error) {
	var problems []error
	for _, n := range c.plan.bbses {
		err := ready(ctx, n)
		if err == nil {
			return n.name, nil
		}
		problems = append(problems, err)
	}
	return "", fmt.Errorf("no bbs is active: %w", errors.Join(problems...))
}
