package executor

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// TLSFiles name PEM files by absolute paths; they are read once, by Open.
type TLSFiles struct {
	// CA holds authorities to believe besides the system's; empty = none.
	CA string `yaml:"ca"`
	// Certificate and Key are shown to servers that ask; both or none.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// Validate checks the form only.
func (f TLSFiles) Validate() error {
	var problems []error
	for name, path := range map[string]string{"ca": f.CA, "certificate": f.Certificate, "key": f.Key} {
		if path != "" && !filepath.IsAbs(path) {
			problems = append(problems, fmt.Errorf("%s %q is not an absolute path", name, path))
		}
	}
	if (f.Certificate == "") != (f.Key == "") {
		problems = append(problems, errors.New("certificate and key need each other"))
	}
	return errors.Join(problems...)
}

// load returns nil if no file is named.
func (f TLSFiles) load() (*tls.Config, error) {
	if f == (TLSFiles{}) {
		return nil, nil //nolint:nilnil // nothing configured is no error
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("reading the system's authorities: %w", err)
		}
		encoded, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("reading authorities for downloads: %w", err)
		}
		if !roots.AppendCertsFromPEM(encoded) {
			return nil, fmt.Errorf("reading authorities for downloads: %s has no certificate", f.CA)
		}
		cfg.RootCAs = roots
	}
	if f.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
		if err != nil {
			return nil, fmt.Errorf("reading certificate for downloads: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
