package identity

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names that the container sees.
const (
	CertificateFile = "instance.crt"
	KeyFile         = "instance.key"
)

// Inside the folder both names are links through one link to the folder of the newest pair. Replacing that one link
// replaces both at once.
const (
	newestLink    = "..newest"
	versionPrefix = "..pair-"
)

// MakeFolder makes the folder of a container, without a pair.
func MakeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // users of the container read it
		return fmt.Errorf("making credentials folder: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // as above; the umask may have taken bits away
		return fmt.Errorf("making credentials folder: %w", err)
	}
	for _, name := range []string{CertificateFile, KeyFile} {
		err := os.Symlink(filepath.Join(newestLink, name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making credentials folder: %w", err)
		}
	}
	return nil
}

// Replace shows a new pair in the folder, at once: whoever opens the files finds both old or both new, if it opens them
// from one resolved folder. The pair before it stays for those who did, older ones go. Calls for one folder must not
// overlap.
func Replace(dir string, pair Pair) error {
	version := versionPrefix + strings.ToLower(rand.Text())
	before, _ := os.Readlink(filepath.Join(dir, newestLink)) // none at first
	if err := replace(dir, version, pair); err != nil {
		return errors.Join(fmt.Errorf("replacing credentials: %w", err), os.RemoveAll(filepath.Join(dir, version)))
	}
	found, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing credentials: %w", err)
	}
	for _, e := range found {
		if strings.HasPrefix(e.Name(), versionPrefix) && e.Name() != version && e.Name() != before {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("removing old credentials: %w", err)
			}
		}
	}
	return nil
}

func replace(dir, version string, pair Pair) error {
	inner := filepath.Join(dir, version)
	if err := errors.Join(os.Mkdir(inner, 0o755), os.Chmod(inner, 0o755)); err != nil { //nolint:gosec // see MakeFolder
		return err
	}
	for name, content := range map[string][]byte{CertificateFile: pair.Certificate, KeyFile: pair.Key} {
		// Any user of the container may be the application's; on the host, the folder above keeps others out.
		path := filepath.Join(inner, name)
		if err := errors.Join(os.WriteFile(path, content, 0o644), os.Chmod(path, 0o644)); err != nil { //nolint:gosec // see above
			return err
		}
	}
	next := filepath.Join(dir, newestLink+".new")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(version, next); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(dir, newestLink))
}

// Version names the pair that a folder shows; it changes with every replacement. It costs one look at a link.
func Version(dir string) (string, error) {
	version, err := os.Readlink(filepath.Join(dir, newestLink))
	if err != nil {
		return "", fmt.Errorf("looking for credentials: %w", err)
	}
	return version, nil
}

// Read reads the pair of a version, certificate and key of one replacement. A version that is two replacements old is gone.
func Read(dir, version string) (Pair, error) {
	var pair Pair
	for name, content := range map[string]*[]byte{CertificateFile: &pair.Certificate, KeyFile: &pair.Key} {
		var err error
		if *content, err = os.ReadFile(filepath.Join(dir, filepath.Base(version), name)); err != nil { //nolint:gosec // a folder of ours
			return Pair{}, fmt.Errorf("reading credentials: %w", err)
		}
	}
	return pair, nil
}

// Due says when the pair in a folder must be replaced: 30 minutes before its end, or at 7/8 of a validity of 4 hours or
// less. A folder that has no usable certificate is due at once, which the zero time says. The error is fs.ErrNotExist if
// there is no folder.
func Due(dir string) (time.Time, error) {
	if _, err := os.Stat(dir); err != nil {
		return time.Time{}, fmt.Errorf("looking for credentials: %w", err)
	}
	encoded, err := os.ReadFile(filepath.Join(dir, CertificateFile)) //nolint:gosec // our own folder, read-only in the container
	if err != nil {
		return time.Time{}, nil //nolint:nilerr // due
	}
	block, _ := pem.Decode(encoded)
	if block == nil {
		return time.Time{}, nil
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, nil //nolint:nilerr // due
	}
	return due(certificate.NotBefore, certificate.NotAfter), nil
}

func due(begin, end time.Time) time.Time {
	const long, before = 4 * time.Hour, 30 * time.Minute
	validity := end.Sub(begin)
	if validity > long {
		return end.Add(-before)
	}
	return begin.Add(validity * 7 / 8)
}
