package proxy

import (
	"io"
	"net/http"
	"sync/atomic"
)

// recorder remembers status and size of an answer. Flushing and hijacking go through Unwrap.
type recorder struct {
	http.ResponseWriter
	status int
	n      int64
}

// Unwrap lets http.ResponseController reach the writer below.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader remembers the first final status; informational ones pass.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.n += int64(n)
	return n, err //nolint:wrapcheck // a writer hands on the errors of the writer below
}

// countingBody counts what was read of a request body. A transport may still read while the handler ends.
type countingBody struct {
	io.ReadCloser
	n atomic.Int64
}

func (b *countingBody) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	b.n.Add(int64(n))
	return n, err //nolint:wrapcheck // io.EOF must arrive as it is
}
