// Package transfer moves files between the cell and HTTP servers: verified downloads, archives read as tar, archives
// unpacked below a folder of the host, and uploads. It knows no containers and keeps nothing: a caller that does names the
// validators of what it has, and learns whether that is still right.
package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// Limits of transfers, as in the reference.
const (
	attempts       = 4
	firstPause     = 500 * time.Millisecond
	longestPause   = 5 * time.Second
	jitter         = 200 * time.Millisecond
	requestTimeout = 10 * time.Minute
	dialTimeout    = 10 * time.Second
	idleTimeout    = 10 * time.Second
)

// Source names something to download.
type Source struct {
	URL string
	// ChecksumAlgorithm is md5, sha1 or sha256 in any case; both fields or none are set.
	ChecksumAlgorithm string
	ChecksumValue     string
	// Known validators of what the caller has make the request conditional: Download returns ErrNotModified if it is
	// still right.
	Known Validators
}

// Validators are what a server said of a version of a resource, as the headers of its answer.
type Validators struct {
	ETag         string
	LastModified string
}

// ErrNotModified says that what the caller has is still right.
var ErrNotModified = errors.New("not modified")

// StatusError says that the server refused.
type StatusError struct {
	// Verb is "Download" or "Upload".
	Verb string
	Code int
}

func (e *StatusError) Error() string { return fmt.Sprintf("%s failed: Status code %d", e.Verb, e.Code) }

// Config of a Client.
type Config struct {
	// TempDir takes files under way; it must exist.
	TempDir string
	// Downloads and Uploads at a time.
	Downloads int
	Uploads   int
	// MaxBytes bounds one download, and once more what it unpacks to.
	MaxBytes int64
	// TLS names the authorities that servers are believed by, and our certificate if they ask for one; nil: the system's.
	TLS *tls.Config

	// idle is how long nothing may move; zero means idleTimeout. It is for tests.
	idle time.Duration
}

// Client downloads and uploads. Its methods may be called concurrently; they wait for a slot.
type Client struct {
	cfg       Config
	receiver  *http.Client
	sender    *http.Client
	downloads chan struct{}
	uploads   chan struct{}
	counters  Counters
}

// Counters of a client. They only grow; times are in nanoseconds and do not count waiting for a slot.
type Counters struct {
	Downloads, DownloadNanos, DownloadBytes atomic.Int64
	DownloadsNotModified, DownloadsFailed   atomic.Int64
	Uploads, UploadNanos, UploadsFailed     atomic.Int64
}

// Counters of this client; its fields may be read at any time.
func (c *Client) Counters() *Counters { return &c.counters }

// New returns a client.
func New(cfg Config) *Client {
	if cfg.idle == 0 {
		cfg.idle = idleTimeout
	}
	return &Client{
		cfg:       cfg,
		receiver:  cfg.httpClient(func(conn net.Conn) net.Conn { return receivingConn{conn, cfg.idle} }),
		sender:    cfg.httpClient(func(conn net.Conn) net.Conn { return sendingConn{conn, cfg.idle} }),
		downloads: make(chan struct{}, cfg.Downloads),
		uploads:   make(chan struct{}, cfg.Uploads),
	}
}

func (c Config) httpClient(guard func(net.Conn) net.Conn) *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Client{Timeout: requestTimeout, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return guard(conn), nil
		},
		TLSClientConfig:     c.TLS,
		TLSHandshakeTimeout: dialTimeout,
		DisableKeepAlives:   true,
	}}
}

// Download fetches a source into a file below the temporary folder. It tries up to four times and gives up at once when
// ctx ends, the checksum is wrong, or nothing has changed (ErrNotModified). The caller removes the archive.
func (c *Client) Download(ctx context.Context, source Source) (*Archive, error) {
	if err := acquire(ctx, c.downloads); err != nil {
		return nil, err
	}
	defer release(c.downloads)
	start := time.Now()
	archive, err := c.download(ctx, source)
	switch {
	case err == nil:
		c.counters.Downloads.Add(1)
		c.counters.DownloadNanos.Add(int64(time.Since(start)))
		c.counters.DownloadBytes.Add(archive.Size)
	case errors.Is(err, ErrNotModified):
		c.counters.DownloadsNotModified.Add(1)
	case ctx.Err() == nil: // one that was called off has not failed
		c.counters.DownloadsFailed.Add(1)
	}
	return archive, err
}

func (c *Client) download(ctx context.Context, source Source) (*Archive, error) {
	var failed error
	for n := range attempts {
		if n > 0 {
			if err := pause(ctx, n-1); err != nil {
				return nil, errors.Join(failed, err)
			}
		}
		archive, err := c.fetch(ctx, source)
		if err == nil {
			return archive, nil
		}
		failed = err
		if final(err) || ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("downloading: %w", failed)
}

// final says that another attempt would end alike.
func final(err error) bool {
	_, wrong := errors.AsType[*ChecksumError](err)
	return wrong || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNotModified)
}

func (c *Client) fetch(ctx context.Context, source Source) (_ *Archive, err error) {
	sum, err := newChecksum(source.ChecksumAlgorithm, source.ChecksumValue)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("making request: %w", err)
	}
	if source.Known.ETag != "" {
		req.Header.Set("If-None-Match", source.Known.ETag)
	}
	if source.Known.LastModified != "" {
		req.Header.Set("If-Modified-Since", source.Known.LastModified)
	}
	resp, err := c.receiver.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	if resp.StatusCode == http.StatusNotModified && source.Known != (Validators{}) {
		return nil, ErrNotModified
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &StatusError{Verb: "Download", Code: resp.StatusCode}
	}
	file, err := os.CreateTemp(c.cfg.TempDir, "download-")
	if err != nil {
		return nil, fmt.Errorf("making temporary file: %w", err)
	}
	archive := &Archive{
		Validators:  Validators{ETag: resp.Header.Get("ETag"), LastModified: resp.Header.Get("Last-Modified")},
		file:        file,
		maxInflated: c.cfg.MaxBytes,
		discard:     func() error { return os.Remove(file.Name()) },
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, archive.Remove())
		}
	}()
	var to io.Writer = file
	if sum != nil {
		to = io.MultiWriter(file, sum.hash)
	}
	archive.Size, err = io.Copy(to, &limited{in: resp.Body, left: c.cfg.MaxBytes, limit: c.cfg.MaxBytes})
	if err != nil {
		return nil, fmt.Errorf("receiving body: %w", err)
	}
	if sum != nil {
		if err := sum.verify(); err != nil {
			return nil, err
		}
	}
	return archive, nil
}

// pause waits 500 ms × 2^n, at most 5 s, plus up to 200 ms.
func pause(ctx context.Context, n int) error {
	d := min(firstPause<<n, longestPause) + rand.N(jitter) //nolint:gosec // spreads load, keeps no secret
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func acquire(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func release(slots chan struct{}) { <-slots }

// receivingConn fails when nothing comes for a while, so that a stuck server cannot hold a slot for ten minutes.
type receivingConn struct {
	net.Conn
	idle time.Duration
}

func (c receivingConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// sendingConn fails when nothing can be sent for a while. The answer may take longer: a server may have much to do with
// what it was sent.
type sendingConn struct {
	net.Conn
	idle time.Duration
}

func (c sendingConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
