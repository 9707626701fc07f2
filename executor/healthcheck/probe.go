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

// Dialer connects to an address of a container.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// TCP passes when the port takes a connection within the timeout.
func TCP(dial Dialer, host string, port uint32, timeout time.Duration) Probe {
	address := net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		conn, err := dial(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("failed to make TCP connection to %s: %s", address, reason(err, timeout))
		}
		_ = conn.Close() // it was opened, which is all we asked
		return nil
	}
}

// HTTP passes when a GET of the path answers 200 within the timeout. Redirects are not followed: an application must not
// be able to make the cell send requests to where it likes.
func HTTP(dial Dialer, host string, port uint32, path string, timeout time.Duration) Probe {
	if path == "" {
		path = "/"
	}
	client := &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	address := net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
	failure := func(format string, args ...any) error {
		return fmt.Errorf("failed to make HTTP request to '%s' on port %d: %s", path, port, fmt.Sprintf(format, args...))
	}
	return func(ctx context.Context) error {
		start := time.Now()
		target, err := url.ParseRequestURI(path)
		if err != nil {
			return failure("%v", err)
		}
		target.Scheme, target.Host = "http", address
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
		if err != nil {
			return failure("%v", err)
		}
		req.Header.Set("User-Agent", "diego-healthcheck")
		req.Header.Set("X-Forwarded-Proto", "https")
		resp, err := client.Do(req)
		if err != nil {
			return failure("%s", reason(err, timeout))
		}
		_ = resp.Body.Close() // the status is all we asked
		if resp.StatusCode != http.StatusOK {
			return failure("received status code %d in %dms", resp.StatusCode, time.Since(start).Milliseconds())
		}
		return nil
	}
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
