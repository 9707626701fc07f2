// Package access owns the router's access log: one line for each request, in the shape that log parsers of the
// Cloud Foundry router know. It does not decide what is measured, and it never writes a query, a cookie or an
// authorization header, because all of them carry secrets.
package access

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Record is what one line says. Empty fields are written as "-".
type Record struct {
	Start          time.Time
	Host           string
	Method         string
	URI            string // request URI as received; its query is not written
	Protocol       string
	Status         int
	BytesReceived  int64
	BytesSent      int64
	Referer        string // its query is not written
	UserAgent      string
	RemoteAddress  string
	Backend        string // address of the last endpoint tried
	ForwardedFor   string
	ForwardedProto string
	RequestID      string
	ResponseTime   time.Duration // from the first byte read to the last byte written
	RouterTime     time.Duration // the part of it not spent waiting for a backend
	AppID          string
	AppIndex       string
	InstanceID     string
	RouterError    string
}

// Log writes records. It is safe for concurrent use.
type Log struct {
	mu  sync.Mutex // keeps lines whole on writers that are not files
	out io.Writer
	buf bytes.Buffer
}

// New returns a log that writes to out, one Write per line.
func New(out io.Writer) *Log {
	return &Log{out: out}
}

// Open returns a log that appends to the file at path, which is made if it is missing, and the function that
// closes it. An empty path means standard output. The file is opened for appending, so that a rotation which
// copies and truncates works without telling the router.
func Open(path string) (*Log, func() error, error) {
	if path == "" {
		return New(os.Stdout), func() error { return nil }, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640) //nolint:gosec // the operator names the file; its group may read it
	if err != nil {
		return nil, nil, fmt.Errorf("opening the access log: %w", err)
	}
	return New(f), f.Close, nil
}

// Write appends one line. A failure is returned for counting; it must not fail the request.
func (l *Log) Write(r Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
	format(&l.buf, r)
	if _, err := l.out.Write(l.buf.Bytes()); err != nil {
		return fmt.Errorf("writing the access log: %w", err)
	}
	return nil
}

func format(b *bytes.Buffer, r Record) {
	fmt.Fprintf(b, "%s - [%s] ", bare(r.Host), r.Start.UTC().Format("2006-01-02T15:04:05.000000000Z"))
	quote(b, r.Method+" "+withoutQuery(r.URI)+" "+r.Protocol)
	fmt.Fprintf(b, " %d %d %d ", r.Status, r.BytesReceived, r.BytesSent)
	for _, s := range []string{withoutQuery(r.Referer), r.UserAgent, r.RemoteAddress, r.Backend} {
		quote(b, s)
		b.WriteByte(' ')
	}
	field(b, "x_forwarded_for", r.ForwardedFor)
	field(b, "x_forwarded_proto", r.ForwardedProto)
	field(b, "vcap_request_id", r.RequestID)
	fmt.Fprintf(b, "response_time:%.6f gorouter_time:%.6f ", r.ResponseTime.Seconds(), r.RouterTime.Seconds())
	field(b, "app_id", r.AppID)
	field(b, "app_index", r.AppIndex)
	field(b, "instance_id", r.InstanceID)
	b.WriteString("x_cf_routererror:")
	quote(b, r.RouterError)
	b.WriteByte('\n')
}

func field(b *bytes.Buffer, key, value string) {
	b.WriteString(key)
	b.WriteByte(':')
	quote(b, value)
	b.WriteByte(' ')
}

// quote writes s so that nothing a client sends can end the field or the line.
func quote(b *bytes.Buffer, s string) {
	if s == "" {
		s = "-"
	}
	b.WriteString(strconv.Quote(s))
}

// bare is for the one field without quotes: what could end it is replaced.
func bare(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == '"' || r == 0x7f {
			return '_'
		}
		return r
	}, s)
}

// withoutQuery cuts the query, the fragment and the user of a URI: all three may hold tokens or passwords.
func withoutQuery(uri string) string {
	if end := strings.IndexAny(uri, "?#"); end >= 0 {
		uri = uri[:end]
	}
	if u, err := url.Parse(uri); err == nil && u.User != nil {
		u.User = nil
		return u.String()
	}
	return uri
}
