package volume

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	contentType = "application/vnd.docker.plugins.v1.2+json"
	// maxAnswer bounds what a driver may say in one answer.
	maxAnswer = 1 << 20
	// firstRetry is the pause after an attempt that did not reach the driver; it doubles up to longestRetry.
	firstRetry   = 100 * time.Millisecond
	longestRetry = 2 * time.Second
)

// DriverError is what a driver answered instead of doing what it was asked.
type DriverError struct {
	Driver string
	// Text is the driver's own and may hold secrets.
	Text string
	// Safe is what the driver allows users to see; empty if it does not say.
	Safe string
}

func (e *DriverError) Error() string { return fmt.Sprintf("volume driver %q: %s", e.Driver, e.Text) }

// SafeText returns what users may see of a failure, and whether there is such a text.
func SafeText(err error) (string, bool) {
	failed, ok := errors.AsType[*DriverError](err)
	if !ok || failed.Safe == "" {
		return "", false
	}
	return failed.Safe, true
}

// driver speaks to one plug-in. Its methods may be called concurrently.
type driver struct {
	spec   Spec
	client *http.Client
	base   string
	// limit of one operation, attempts to reach the driver included.
	limit time.Duration
	stats *Stats
}

func newDriver(spec Spec, limit time.Duration, stats *Stats) *driver {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{TLSClientConfig: spec.TLS, TLSHandshakeTimeout: 5 * time.Second, DisableKeepAlives: true, DialContext: dialer.DialContext}
	d := &driver{spec: spec, client: &http.Client{Transport: transport}, limit: limit, stats: stats}
	switch {
	case spec.Socket != "":
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", spec.Socket)
		}
		d.base = "http://volume-driver"
	case spec.TLS != nil:
		d.base = "https://" + spec.Host
	default:
		d.base = "http://" + spec.Host
	}
	return d
}

// answer holds what any of the calls may be answered with.
type answer struct {
	Err        string
	Implements []string
	Mountpoint string
	Volume     struct{ Name, Mountpoint string }
}

// activate asks whether the plug-in is there and drives volumes. It is tried once.
func (d *driver) activate(ctx context.Context) error {
	got, err := d.post(ctx, "/Plugin.Activate", struct{}{})
	if err != nil {
		return err
	}
	if !slices.Contains(got.Implements, "VolumeDriver") {
		return fmt.Errorf("volume driver %q: implements %q, not VolumeDriver", d.spec.Name, got.Implements)
	}
	return nil
}

// create makes a volume known to the driver. It may be repeated.
func (d *driver) create(ctx context.Context, name string, options map[string]any) error {
	_, err := d.call(ctx, "/VolumeDriver.Create", struct {
		Name string
		Opts map[string]any
	}{name, options})
	return err
}

// mount returns where on this machine the volume is to be found.
func (d *driver) mount(ctx context.Context, name, id string) (string, error) {
	got, err := d.call(ctx, "/VolumeDriver.Mount", struct{ Name, ID string }{name, id})
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(got.Mountpoint) {
		return "", &DriverError{Driver: d.spec.Name, Text: fmt.Sprintf("mounted volume %q at %q", name, got.Mountpoint)}
	}
	return filepath.Clean(got.Mountpoint), nil
}

func (d *driver) unmount(ctx context.Context, name, id string) error {
	_, err := d.call(ctx, "/VolumeDriver.Unmount", struct{ Name, ID string }{name, id})
	return err
}

// mountpoint is where the driver has the volume now; empty if it is not mounted or not known.
func (d *driver) mountpoint(ctx context.Context, name string) (string, error) {
	got, err := d.call(ctx, "/VolumeDriver.Get", struct{ Name string }{name})
	if _, refused := errors.AsType[*DriverError](err); refused {
		return "", nil
	}
	return got.Volume.Mountpoint, err
}

// call asks again while the driver is not there, as when it is being restarted, within the limit.
func (d *driver) call(ctx context.Context, path string, request any) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.limit, fmt.Errorf("volume driver %q took longer than %v", d.spec.Name, d.limit))
	defer cancel()
	for pause := firstRetry; ; pause = min(2*pause, longestRetry) {
		got, err := d.post(ctx, path, request)
		if !errors.Is(err, errUnreached) {
			return got, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return answer{}, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
	}
}

// errUnreached says that nothing has reached the driver, so that nothing can have happened.
var errUnreached = errors.New("not reached")

func (d *driver) post(ctx context.Context, path string, request any) (answer, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return answer{}, fmt.Errorf("encoding a request to volume driver %q: %w", d.spec.Name, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.base+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, fmt.Errorf("making a request to volume driver %q: %w", d.spec.Name, err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", contentType)
	resp, err := d.client.Do(req)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			return answer{}, fmt.Errorf("asking volume driver %q: %w: %w", d.spec.Name, errUnreached, err)
		}
		return answer{}, fmt.Errorf("asking volume driver %q: %w", d.spec.Name, err)
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer{}, fmt.Errorf("reading the answer of volume driver %q: %w", d.spec.Name, err)
	}
	return d.decode(resp.StatusCode, content)
}

func (d *driver) decode(status int, content []byte) (answer, error) {
	var got answer
	err := json.Unmarshal(content, &got)
	switch {
	case err == nil && got.Err != "":
		return answer{}, d.refusal(got.Err)
	case status != http.StatusOK:
		return answer{}, &DriverError{Driver: d.spec.Name, Text: fmt.Sprintf("status %d", status)}
	case err != nil:
		return answer{}, fmt.Errorf("decoding the answer of volume driver %q: %w", d.spec.Name, err)
	}
	return got, nil
}

// refusal reads an error text, which is JSON if a part of it is made for users.
func (d *driver) refusal(text string) error {
	failed := &DriverError{Driver: d.spec.Name, Text: text}
	var safe struct{ SafeDescription string }
	if json.Unmarshal([]byte(text), &safe) == nil {
		failed.Safe = strings.TrimSpace(safe.SafeDescription)
	}
	return failed
}
