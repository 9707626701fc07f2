package command

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	locketv1 "diego.internal/proto/locket/v1"
	"diego.internal/servicekit/mtls"
)

// gRPC tries again until the time of a request is over, and then says no more than that. So when nobody has answered, each address is
// knocked at once more to find out what an operator has to know: refused, unknown, a certificate, or a standby.

// target is an address that was dialled, with who should have been there.
type target struct {
	host string
	peer mtls.Peer
}

// knockTime bounds one attempt.
const knockTime = time.Second

// whyUnreachable returns why no connection to a server can be made, or nil if it can.
func (a *app) whyUnreachable(ctx context.Context, t target) error {
	ctx, cancel := context.WithTimeout(ctx, knockTime)
	defer cancel()
	plain, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.host)
	if err != nil {
		return shortNetwork(err)
	}
	defer func() { _ = plain.Close() }() // it was only tried
	source, err := a.flags.certificates()
	if err != nil {
		return err
	}
	config := source.ClientConfig(t.peer)
	config.NextProtos = []string{"h2"}
	conn := tls.Client(plain, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			return errors.New("it takes connections, but does not answer")
		}
		return fmt.Errorf("TLS: %w", err)
	}
	// A server that does not accept our certificate says so when the handshake is over for us; one that does speaks first.
	deadline, _ := ctx.Deadline()
	_ = conn.SetReadDeadline(deadline) // a failure shows in the read
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("it takes connections, but does not answer")
		}
		return fmt.Errorf("TLS: %w", err)
	}
	return nil
}

// shortNetwork leaves out what the reader knows: that it was dialled, and the address.
func shortNetwork(err error) error {
	if unknown, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("the host name %s is not known", unknown.Name)
	}
	if system, ok := errors.AsType[*os.SyscallError](err); ok {
		return system.Err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("nobody answers at that address")
	}
	return err
}

// explainUnreachable says of each address of a server why it did not answer, one line each.
func (a *app) explainUnreachable(server string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*knockTime)
	defer cancel()
	var lines []string
	standby := false
	for _, kind := range a.flags.kinds() {
		if kind.server != server {
			continue
		}
		hosts, err := addresses(kind.flag, kind.list)
		if err != nil {
			return nil
		}
		for _, g := range a.greetAll(ctx, kind, hosts) {
			switch {
			case g.err != nil:
				lines = append(lines, g.address+": "+g.why)
			case !g.serving:
				standby = true
				lines = append(lines, g.address+": it answers, but is not active")
			default:
				lines = append(lines, g.address+": it answers now; try again")
			}
		}
		if standby && kind.oneActive {
			if holder := a.holder(ctx, kind.name); holder != "" {
				lines = append(lines, fmt.Sprintf("the lock %s is held by %s", kind.name, holder))
			}
		}
	}
	return lines
}

// holder of a lock, if locket is known and tells.
func (a *app) holder(ctx context.Context, lock string) (owner string) {
	if a.flags.locket == "" {
		return ""
	}
	_ = a.askLocket(ctx, func(ctx context.Context, locket locketv1.LocketClient) error { // the error that led here counts
		answer, err := locket.Fetch(ctx, &locketv1.FetchRequest{Key: lock})
		owner = answer.GetHeld().GetClaim().GetOwner()
		return err
	})
	return owner
}
