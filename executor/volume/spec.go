package volume

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// maxSpec bounds a file that describes a driver.
const maxSpec = 64 << 10

// Spec says where a driver is and how it is spoken to.
type Spec struct {
	Name string
	// Socket is the path of a unix socket; Host is host:port of a driver that listens on TCP. One of them is set.
	Socket string
	Host   string
	// TLS is nil for a driver that is spoken to in plaintext, which only one on this machine is.
	TLS *tls.Config
	// UniqueVolumeIDs asks for a volume of its own for each container, also of one volume id.
	UniqueVolumeIDs bool
	// file that it came from.
	file string
}

// specJSON is the form of NAME.json.
type specJSON struct {
	Name            string `json:"Name"`
	Addr            string `json:"Addr"`
	UniqueVolumeIDs bool   `json:"UniqueVolumeIds"`
	TLSConfig       *struct {
		InsecureSkipVerify bool   `json:"InsecureSkipVerify"`
		CAFile             string `json:"CAFile"`
		CertFile           string `json:"CertFile"`
		KeyFile            string `json:"KeyFile"`
	} `json:"TLSConfig"`
}

var driverName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`)

// forms of files that describe a driver, the most telling first: of two files of one name in one folder the first counts.
var forms = []string{".json", ".spec", ".sock"} //nolint:gochecknoglobals // a constant table

// readSpecs finds the drivers of some folders; of two of one name the first counts. Files that cannot be used are told by
// path. A folder that does not exist has no drivers.
func readSpecs(folders []string) (specs []Spec, problems map[string]error) {
	problems = map[string]error{}
	seen := map[string]bool{}
	for _, folder := range folders {
		for _, form := range forms {
			files, _ := filepath.Glob(filepath.Join(folder, "*"+form)) // the pattern is well-formed
			slices.Sort(files)
			for _, file := range files {
				spec, err := readSpec(file)
				if err != nil {
					problems[file] = err
					continue
				}
				if !seen[spec.Name] {
					seen[spec.Name] = true
					specs = append(specs, spec)
				}
			}
		}
	}
	return specs, problems
}

func readSpec(file string) (Spec, error) {
	form := filepath.Ext(file)
	spec := Spec{Name: strings.TrimSuffix(filepath.Base(file), form), file: file}
	if form == ".sock" {
		spec.Socket = file
		return spec, checkName(spec.Name)
	}
	content, err := readSmall(file)
	if err != nil {
		return Spec{}, err
	}
	if form == ".spec" {
		if err := spec.setAddress(strings.TrimSpace(string(content))); err != nil {
			return Spec{}, err
		}
		return spec, errors.Join(checkName(spec.Name), spec.checkPlaintext())
	}
	return spec, spec.parseJSON(content)
}

func readSmall(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("reading the description of a volume driver: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSpec {
		return nil, errors.New("reading the description of a volume driver: not a small file")
	}
	content, err := os.ReadFile(file) //nolint:gosec // below a folder of the configuration
	if err != nil {
		return nil, fmt.Errorf("reading the description of a volume driver: %w", err)
	}
	return content, nil
}

func (s *Spec) parseJSON(content []byte) error {
	var in specJSON
	if err := json.Unmarshal(content, &in); err != nil {
		return fmt.Errorf("reading the description of a volume driver: %w", err)
	}
	if in.Name != "" {
		s.Name = in.Name
	}
	s.UniqueVolumeIDs = in.UniqueVolumeIDs
	if err := errors.Join(checkName(s.Name), s.setAddress(in.Addr)); err != nil {
		return err
	}
	if t := in.TLSConfig; t != nil && s.Host != "" {
		if t.InsecureSkipVerify {
			return errors.New("InsecureSkipVerify: a driver is believed by its certificate only")
		}
		if err := s.loadTLS(t.CAFile, t.CertFile, t.KeyFile); err != nil {
			return err
		}
	}
	return s.checkPlaintext()
}

// setAddress takes unix:///PATH, tcp://HOST:PORT, http://HOST:PORT and https://HOST:PORT.
func (s *Spec) setAddress(address string) error {
	target, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("address of a volume driver: %w", err)
	}
	switch target.Scheme {
	case "unix":
		if !filepath.IsAbs(target.Path) || target.Host != "" {
			return fmt.Errorf("address of a volume driver: %q names no socket by an absolute path", address)
		}
		s.Socket = target.Path
		return nil
	case "https":
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	case "http", "tcp":
	default:
		return fmt.Errorf("address of a volume driver: %q is not of unix, tcp, http or https", address)
	}
	if _, _, err := net.SplitHostPort(target.Host); err != nil {
		return fmt.Errorf("address of a volume driver: %w", err)
	}
	s.Host = target.Host
	return nil
}

func (s *Spec) loadTLS(authorities, certificate, key string) error {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if authorities != "" {
		content, err := readSmall(authorities)
		if err != nil {
			return err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(content) {
			return fmt.Errorf("CAFile %q has no certificate", authorities)
		}
	}
	if certificate != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return fmt.Errorf("loading the certificate for a volume driver: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	s.TLS = config
	return nil
}

// checkPlaintext keeps configurations of volumes, which hold passwords, from networks without TLS.
func (s *Spec) checkPlaintext() error {
	if s.Socket != "" || s.TLS != nil {
		return nil
	}
	host, _, err := net.SplitHostPort(s.Host)
	if err != nil {
		return fmt.Errorf("address of a volume driver: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("volume driver at %s: without TLS it must be on this machine", s.Host)
	}
	return nil
}

func checkName(name string) error {
	if !driverName.MatchString(name) {
		return fmt.Errorf("name of a volume driver: %q is not one", name)
	}
	return nil
}
