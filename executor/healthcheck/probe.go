// Package healthcheck decides whether the application in a container is healthy: single probes by TCP and HTTP, the
// monitor that waits for health and then watches it, and the readiness watch that says whether it may be routed to. The
// probes are made by the executor itself; nothing is started in the container. It knows no containers and no log store.
package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

// Probe asks once. Nil means healthy; the text of an error is what the user is shown. It returns soon after ctx ends.
type Probe func(ctx context.Context) error

// Kind of a probe.
type Kind int

// The kinds. Other is for probes that are not made by this package.
const (
	KindOther Kind = iota
	KindTCP
	KindHTTP
)

// probeError is the failure of a probe of this package.
type probeError struct {
	kind Kind
	text string
}

func (e *probeError) Error() string { return e.text }

// KindOf says what kind of probe failed with err.
func KindOf(err error) Kind {
	if failed, ok := errors.AsType[*probeError](err); ok {
		return failed.kind
	}
	return KindOther
}

// Dialer connects to an address of a container.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// TCP passes when the port takes a connection within the timeout.
func TCP(dial Dialer, host string, port uint32, timeout time.Duration) Probe {
	address := net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
	return patient(timeout, func(ctx context.Context) error {
		conn, err := dial(ctx, "tcp", address)
		if err != nil {
			return &probeError{kind: KindTCP, text: fmt.Sprintf("failed to make TCP connection to %s: %s", address, reason(err, timeout))}
		}
		_ = conn.Close() // it was opened, which is all we asked
		return nil
	})
}

// lateAttempts is how often an attempt is made that we ourselves came back to late.
const lateAttempts = 3

// patient bounds attempts by the timeout. On a machine that is short of processor time an attempt may end long after its timeout,
// and then it tells more of the machine than of the application: to count it would end applications exactly when there is no
// time to start others. It is repeated.
func patient(timeout time.Duration, attempt Probe) Probe {
	once := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return attempt(ctx)
	}
	return func(ctx context.Context) error {
		var err error
		for range lateAttempts {
			start := time.Now()
			err = once(ctx)
			if late := time.Since(start) > timeout+timeout/2; err == nil || !late || ctx.Err() != nil {
				return err
			}
		}
		return err
	}
}

// HTTP makes probes by request. All probes of a cell share one, because its client is worth a kilobyte.
type HTTP struct{ client *http.Client }

// NewHTTP returns a maker of probes that connect by dial. Redirects are not followed: an application must not be able to
// make the cell send requests to where it likes. Connections are not kept, because a check is about making one.
func NewHTTP(dial Dialer) *HTTP {
	return &HTTP{client: &http.Client{
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Probe passes when a GET of the path ("" is "/") answers 200 within the timeout.
func (h *HTTP) Probe(host string, port uint32, path string, timeout time.Duration) Probe {
	if path == "" {
		path = "/"
	}
	return patient(timeout, func(ctx context.Context) error {
		if err := h.get(ctx, net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)), path, timeout); err != nil {
			return &probeError{kind: KindHTTP, text: fmt.Sprintf("failed to make HTTP request to '%s' on port %d: %v", path, port, err)}
		}
		return nil
	})
}

func (h *HTTP) get(ctx context.Context, address, path string, timeout time.Duration) error {
	start := time.Now()
	target, err := url.ParseRequestURI(path)
	if err != nil {
		return err
	}
	target.Scheme, target.Host = "http", address
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "diego-healthcheck")
	req.Header.Set("X-Forwarded-Proto", "https")
	resp, err := h.client.Do(req)
	if err != nil {
		return errors.New(reason(err, timeout))
	}
	_ = resp.Body.Close() // the status is all we asked
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("received status code %d in %dms", resp.StatusCode, time.Since(start).Milliseconds())
	}
	return nil
}

// reason words a failed connection the same on every machine.
func reason(err error, timeout time.Duration) string {
	var timeoutError net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &timeoutError) && timeoutError.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("timed out after %.2f seconds", timeout.Seconds())
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return failed.Err.Error()
	}
	return err.Error()
}
