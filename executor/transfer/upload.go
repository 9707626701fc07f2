package transfer

import (
	"archive/tar"
	"context"
	"crypto/md5" //nolint:gosec // the header that servers of old expect
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"
)

const uploadAttempts = 3

// UploadError names the part of an upload that failed in the words that the user sees.
type UploadError struct {
	// Text is such as "Failed to parse URL".
	Text string
	Err  error
}

func (e *UploadError) Error() string { return e.Text + ": " + e.Err.Error() }

func (e *UploadError) Unwrap() error { return e.Err }

// Upload posts the first file of a tar stream to a URL, with digests, and returns its size. The stream is opened once a
// slot is free and buffered on disk, because the digests go ahead of the body and the request may have to be repeated.
func (c *Client) Upload(ctx context.Context, to string, open func(context.Context) (io.ReadCloser, error)) (int64, error) {
	target, err := url.ParseRequestURI(to)
	if err != nil {
		return 0, &UploadError{Text: "Failed to parse URL", Err: err}
	}
	if err := acquire(ctx, c.uploads); err != nil {
		return 0, err
	}
	defer release(c.uploads)
	start := time.Now()
	size, err := c.upload(ctx, target, open)
	switch {
	case err == nil:
		c.counters.Uploads.Add(1)
		c.counters.UploadNanos.Add(int64(time.Since(start)))
	case ctx.Err() == nil:
		c.counters.UploadsFailed.Add(1)
	}
	return size, err
}

func (c *Client) upload(ctx context.Context, target *url.URL, open func(context.Context) (io.ReadCloser, error)) (int64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errors.New("upload took more than 10 minutes"))
	defer cancel()

	file, err := os.CreateTemp(c.cfg.TempDir, "upload-")
	if err != nil {
		return 0, &UploadError{Text: "Failed to create temp file", Err: err}
	}
	defer func() { _, _ = file.Close(), os.Remove(file.Name()) }() // a file of ours in a folder that is emptied at start
	payload := payload{file: file}
	if err := payload.fill(ctx, open); err != nil {
		return 0, err
	}
	for n := range uploadAttempts {
		if n > 0 {
			if perr := pause(ctx, n-1); perr != nil {
				break
			}
		}
		if err = c.post(ctx, target, payload); err == nil {
			return payload.size, nil
		}
	}
	return 0, &UploadError{Text: "Failed to upload payload", Err: err}
}

type payload struct {
	file   *os.File
	size   int64
	md5    string
	sha256 string
}

func (p *payload) fill(ctx context.Context, open func(context.Context) (io.ReadCloser, error)) error {
	stream, err := open(ctx)
	if err != nil {
		return &UploadError{Text: "Failed to establish stream from container", Err: err}
	}
	defer func() { _ = stream.Close() }() // only read from
	archive := tar.NewReader(stream)
	if _, err := archive.Next(); err != nil {
		return &UploadError{Text: "Failed to find first item in tar stream", Err: err}
	}
	sum, sum256 := md5.New(), sha256.New() //nolint:gosec // see the import
	p.size, err = io.Copy(io.MultiWriter(p.file, sum, sum256), archive)
	if err != nil {
		return &UploadError{Text: "Failed to copy stream contents into temp file", Err: err}
	}
	p.md5 = base64.StdEncoding.EncodeToString(sum.Sum(nil))
	p.sha256 = base64.StdEncoding.EncodeToString(sum256.Sum(nil))
	return nil
}

func (c *Client) post(ctx context.Context, to *url.URL, p payload) error {
	// A section reader, because the transport closes its body and the file is needed for the next attempt.
	body := io.NopCloser(io.NewSectionReader(p.file, 0, p.size))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), body)
	if err != nil {
		return fmt.Errorf("making request: %w", err)
	}
	req.ContentLength = p.size
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Content-MD5", p.md5)
	req.Header.Set("Content-Digest", "sha-256=:"+p.sha256+":")
	resp, err := c.sender.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	if resp.StatusCode >= http.StatusBadRequest {
		return &StatusError{Verb: "Upload", Code: resp.StatusCode}
	}
	return nil
}
