package transfer

import (
	"archive/tar"
	"os"
	"path/filepath"
	"testing"
)

// mostUnpacked bounds what the fuzzer may unpack, in bytes.
const mostUnpacked = 1 << 20

// FuzzArchive unpacks what an untrusted server may send. Whatever it is, nothing outside of the target
// is touched, and no more is unpacked than is allowed.
func FuzzArchive(f *testing.F) {
	for _, files := range [][]file{
		{{name: "d/", kind: tar.TypeDir}, {name: "d/a", content: "1"}},
		{{name: "../evil", content: "x"}},
		{{name: "l", kind: tar.TypeSymlink, link: ".."}, {name: "l/evil", content: "x"}},
		{{name: "l", kind: tar.TypeSymlink, link: "../keep"}, {name: "l", content: "x"}},
		{{name: "h", kind: tar.TypeLink, link: "../keep"}, {name: "h", content: "x"}},
		{{name: "/evil", content: "x"}, {name: "./", kind: tar.TypeDir}},
	} {
		f.Add(tarOf(f, files...))
	}
	f.Add(zipOf(f, "a", "1"))
	f.Add(zipOf(f, "../evil", "x"))
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Add([]byte("PK\x05\x06"))
	f.Fuzz(func(t *testing.T, data []byte) {
		outside := t.TempDir()
		target, keep, download := filepath.Join(outside, "target"), filepath.Join(outside, "keep"), filepath.Join(outside, "download")
		for path, content := range map[string][]byte{keep: []byte("kept"), download: data} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(target, 0o700); err != nil {
			t.Fatal(err)
		}
		unpack(t, download, target)

		if content, err := os.ReadFile(keep); err != nil || string(content) != "kept" {
			t.Fatalf("a file outside: %q, %v", content, err)
		}
		if all, err := os.ReadDir(outside); err != nil || len(all) != 3 {
			t.Fatalf("the folder outside holds %v, %v", all, err)
		}
	})
}

func unpack(t *testing.T, download, target string) {
	t.Helper()
	archive, err := New(Config{MaxBytes: mostUnpacked}).Reopen(download, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = archive.Remove() }() // it was only read
	stream, err := archive.Tar()
	if err != nil {
		return
	}
	defer func() { _ = stream.Close() }() // it was only read
	left := int64(mostUnpacked)
	// Most of it is no archive, and refused.
	written, _ := Extract(target, stream, func(bytes int64) error {
		if left -= bytes; left < 0 {
			return ErrTooLarge
		}
		return nil
	})
	if written > mostUnpacked {
		t.Fatalf("%d bytes were unpacked", written)
	}
}
