package transfer

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

type file struct {
	name, content, link string
	kind                byte
}

func tarOf(tb testing.TB, files ...file) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content)), Typeflag: f.kind, Linkname: f.link}
		if f.kind == 0 {
			header.Typeflag = tar.TypeReg
		}
		require.NoError(tb, w.WriteHeader(header))
		_, err := io.WriteString(w, f.content)
		require.NoError(tb, err)
	}
	require.NoError(tb, w.Close())
	return buf.Bytes()
}

func gzipOf(t *testing.T, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(content)
	require.NoError(t, errors.Join(err, w.Close()))
	return buf.Bytes()
}

func zipOf(tb testing.TB, name, content string) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	entry, err := w.Create(name)
	require.NoError(tb, err)
	_, err = io.WriteString(entry, content)
	require.NoError(tb, errors.Join(err, w.Close()))
	return buf.Bytes()
}

func client(t *testing.T, maxBytes int64) *Client {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left, "temporary files left")
	})
	return New(Config{TempDir: dir, Downloads: 2, Uploads: 2, MaxBytes: maxBytes})
}

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func TestDownloadReadsEveryForm(t *testing.T) {
	t.Parallel()
	plain := tarOf(t, file{name: "dir/app", content: "hello"})
	sum := sha256.Sum256(plain)
	tests := map[string]struct {
		body      []byte
		algorithm string
		value     string
		max       int64
		want      string
		wantErr   string
	}{
		"tar":                   {body: plain, want: "hello"},
		"gzip'd tar":            {body: gzipOf(t, plain), want: "hello"},
		"zip":                   {body: zipOf(t, "dir/app", "hello"), want: "hello"},
		"right checksum":        {body: plain, algorithm: "SHA256", value: hex.EncodeToString(sum[:]), want: "hello"},
		"wrong checksum":        {body: plain, algorithm: "md5", value: "00000000000000000000000000000000", wantErr: "downloading: Checksum failed: 'checksum mismatch', expected '00000000000000000000000000000000', got '"},
		"unknown algorithm":     {body: plain, algorithm: "crc", value: "00", wantErr: "Checksum failed: 'algorithm invalid'"},
		"checksum of bad form":  {body: plain, algorithm: "sha1", value: "xyz", wantErr: "Checksum failed: 'checksum missing or invalid'"},
		"neither of them":       {body: []byte("#!/bin/sh"), wantErr: "unknown archive format"},
		"gzip of something":     {body: gzipOf(t, []byte("text")), wantErr: "unknown archive format"},
		"download too large":    {body: plain, max: 100, wantErr: "more than 100 bytes: size limit exceeded"},
		"inflates to too much":  {body: gzipOf(t, tarOf(t, file{name: "a", content: string(make([]byte, 1<<20))})), max: 1 << 16, wantErr: "more than 65536 bytes: size limit exceeded"},
		"unzips to too much":    {body: zipOf(t, "a", string(make([]byte, 10_000))), max: 5000, wantErr: "more than 5000 bytes: size limit exceeded"},
		"just the limit passes": {body: plain, max: int64(len(plain)), want: "hello"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(tc.body) })
			if tc.max == 0 {
				tc.max = 1 << 20
			}
			got, err := fetchFirst(t, client(t, tc.max), Source{URL: url, ChecksumAlgorithm: tc.algorithm, ChecksumValue: tc.value})
			if tc.wantErr != "" {
				require.ErrorContains(t, err, tc.wantErr)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

// fetchFirst downloads and reads the first file to the end.
func fetchFirst(t *testing.T, c *Client, source Source) (string, error) {
	t.Helper()
	archive, err := c.Download(t.Context(), source)
	if err != nil {
		return "", err
	}
	defer func() { require.NoError(t, archive.Remove()) }()
	stream, err := archive.Tar()
	if err != nil {
		return "", err
	}
	defer func() { require.NoError(t, stream.Close()) }()
	in := tar.NewReader(stream)
	if _, err := in.Next(); err != nil {
		return "", err
	}
	content, err := io.ReadAll(in)
	return string(content), err
}

func TestDownloadRetries(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	body := tarOf(t, file{name: "a", content: "x"})
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write(body)
	})
	got, err := fetchFirst(t, client(t, 1<<20), Source{URL: url})
	require.NoError(t, err)
	require.Equal(t, "x", got)
	require.Equal(t, int64(2), calls.Load())
}

func TestTransfersAreCounted(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost && r.URL.Path == "/good":
		case r.Header.Get("If-None-Match") != "":
			w.WriteHeader(http.StatusNotModified)
		case r.Method == http.MethodGet:
			_, _ = w.Write([]byte("12345"))
		default:
			w.WriteHeader(http.StatusInsufficientStorage)
		}
	})
	c := client(t, 1000)
	archive, err := c.Download(t.Context(), Source{URL: url})
	require.NoError(t, err)
	require.NoError(t, archive.Remove())
	_, err = c.Download(t.Context(), Source{URL: url, Known: Validators{ETag: "a"}})
	require.ErrorIs(t, err, ErrNotModified)
	_, err = c.Download(t.Context(), Source{URL: url, ChecksumAlgorithm: "md5", ChecksumValue: "00000000000000000000000000000000"})
	require.Error(t, err)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Download(gone, Source{URL: url})
	require.Error(t, err)
	open := func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(tarOf(t, file{name: "a", content: "b"}))), nil
	}
	_, err = c.Upload(t.Context(), url+"/good", open)
	require.NoError(t, err)
	_, err = c.Upload(t.Context(), url+"/good", func(context.Context) (io.ReadCloser, error) { return nil, io.ErrUnexpectedEOF })
	require.Error(t, err)
	got := c.Counters()
	require.Equal(t, []int64{1, 5, 1, 1, 1, 1}, []int64{
		got.Downloads.Load(), got.DownloadBytes.Load(), got.DownloadsNotModified.Load(), got.DownloadsFailed.Load(), got.Uploads.Load(), got.UploadsFailed.Load(),
	}, "what was called off is neither")
	require.Positive(t, got.DownloadNanos.Load())
	require.Positive(t, got.UploadNanos.Load())
}

func TestDownloadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := client(t, 1<<20).Download(ctx, Source{URL: url})
	require.ErrorIs(t, err, context.Canceled)
}

func TestExtract(t *testing.T) {
	t.Parallel()
	free := func(int64) error { return nil }
	tests := map[string]struct {
		files   []file
		reserve func(int64) error
		want    map[string]string
		wantErr bool
	}{
		"files and folders": {
			files: []file{{name: "./d/", kind: tar.TypeDir}, {name: "./d/a", content: "1"}, {name: "/b", content: "2"}},
			want:  map[string]string{"d/a": "1", "b": "2"},
		},
		"a later entry wins":            {files: []file{{name: "a", content: "1"}, {name: "a", content: "2"}}, want: map[string]string{"a": "2"}},
		"a path out of the folder":      {files: []file{{name: "../evil", content: "x"}}, wantErr: true},
		"a link out, then a file in it": {files: []file{{name: "l", kind: tar.TypeSymlink, link: "/tmp"}, {name: "l/evil", content: "x"}}, wantErr: true},
		"a hard link to the outside":    {files: []file{{name: "h", kind: tar.TypeLink, link: "../../etc/passwd"}}, wantErr: true},
		"a file written through a link": {files: []file{{name: "l", kind: tar.TypeSymlink, link: "/etc/hostname"}, {name: "l", content: "x"}}, want: map[string]string{"l": "x"}},
		"what does not fit":             {files: []file{{name: "a", content: "12345"}}, reserve: func(int64) error { return errors.New("full") }, wantErr: true},
		"a link keeps its target":       {files: []file{{name: "a", content: "1"}, {name: "l", kind: tar.TypeSymlink, link: "a"}}, want: map[string]string{"a": "1", "l": "1"}},
		"special files are left out":    {files: []file{{name: "dev", kind: tar.TypeChar}, {name: "a", content: "1"}}, want: map[string]string{"a": "1"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if tc.reserve == nil {
				tc.reserve = free
			}
			_, err := Extract(dir, bytes.NewReader(tarOf(t, tc.files...)), tc.reserve)
			if tc.wantErr {
				require.Error(t, err)
				_, err := os.Stat(filepath.Join(filepath.Dir(dir), "evil"))
				require.ErrorIs(t, err, os.ErrNotExist)
				return
			}
			require.NoError(t, err)
			got := map[string]string{}
			for name := range tc.want {
				content, err := os.ReadFile(filepath.Join(dir, name))
				require.NoError(t, err)
				got[name] = string(content)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("extracted (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUpload(t *testing.T) {
	t.Parallel()
	stream := func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(tarOf(t, file{name: "droplet", content: "content"}))), nil
	}
	var calls atomic.Int64
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "content" || r.Header.Get("Content-MD5") != "mgNkuembtIDdJeHwKEyFVQ==" ||
			r.Header.Get("Content-Digest") != "sha-256=:7XACtDnprIRfIjV9giusFERzD722AW0+yUMil7nsn3M=:" {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	size, err := client(t, 1<<20).Upload(t.Context(), url, stream)
	require.NoError(t, err)
	require.Equal(t, int64(7), size)

	tests := map[string]struct {
		to   string
		open func(context.Context) (io.ReadCloser, error)
		want string
	}{
		"no url":    {to: "nowhere", open: stream, want: "Failed to parse URL"},
		"no stream": {to: url, open: func(context.Context) (io.ReadCloser, error) { return nil, os.ErrNotExist }, want: "Failed to establish stream from container"},
		"no file":   {to: url, open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(nil)), nil }, want: "Failed to find first item in tar stream"},
		"refused":   {to: serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }), open: stream, want: "Failed to upload payload"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := client(t, 1<<20).Upload(t.Context(), tc.to, tc.open)
			var failed *UploadError
			require.ErrorAs(t, err, &failed)
			require.Equal(t, tc.want, failed.Text)
		})
	}
}

// A server may think about an upload for longer than a download may stand still.
func TestIdle(t *testing.T) {
	t.Parallel()
	const idle = 50 * time.Millisecond
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		timer := time.NewTimer(4 * idle)
		defer timer.Stop()
		select {
		case <-timer.C:
			w.WriteHeader(http.StatusOK)
		case <-r.Context().Done():
		}
	})
	c := New(Config{TempDir: t.TempDir(), Downloads: 1, Uploads: 1, MaxBytes: 1 << 20, idle: idle})
	_, err := c.Upload(t.Context(), slow, func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(tarOf(t, file{name: "droplet", content: "content"}))), nil
	})
	require.NoError(t, err)
	_, err = c.fetch(t.Context(), Source{URL: slow})
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
}
