// Package proxy is what stands before the ports of an application: it takes TLS connections, shows the certificate of the
// instance, and passes the bytes to the application over plain TCP. It runs as a process of the container, so that its memory
// is the container's and a fault of it harms one instance only; Command container-proxy is little more than Run.
//
// It owns the ports that listeners get, the configuration that the executor writes, the handshakes and the relaying. It issues no
// certificate, and knows nothing of HTTP, routes or the cell: credentials are files, and every handshake uses the newest.
// docs/decisions/0012-a-tls-proxy-in-each-container.md says why it is so.
package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// What a folder of a proxy has in it. The two folders are of package identity.
const (
	configFile = "proxy.json"
	// IdentityFolder has the certificate of the instance, which routers are shown.
	IdentityFolder = "identity"
	// C2CFolder has the certificate with the internal host names, which other containers are shown.
	C2CFolder = "c2c"
	// ClientCAFile has the certificates, in PEM, that vouch for clients.
	ClientCAFile = "client-ca.pem"
)

// MaxClientCA is the largest ClientCAFile in bytes.
const MaxClientCA = 512 << 10

// Config of a proxy.
type Config struct {
	// Upstream is the address at which the application listens.
	Upstream  string     `json:"upstream"`
	Listeners []Listener `json:"listeners"`
	// HTTP2 offers h2 before http/1.1 to clients that choose a protocol; without it there is nothing to choose. Listeners for
	// other containers never offer any.
	HTTP2 bool `json:"http2"`
	// ClientCertificates asks for a certificate that ClientCAFile vouches for, save at listeners for other containers.
	ClientCertificates bool `json:"client_certificates"`
	// SubjectAltNames are the names of clients, one of which a certificate must have exactly; without any, all are welcome.
	SubjectAltNames []string `json:"subject_alt_names,omitempty"`
	// DrainTime is how long connections may go on after SIGTERM.
	DrainTime time.Duration `json:"drain_time"`
}

// Write puts the configuration into the folder of a proxy that does not run yet.
func (c Config) Write(folder string) error {
	encoded, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encoding the configuration of a proxy: %w", err)
	}
	return writeFile(folder, configFile, encoded)
}

// WriteClientCA replaces the certificates that vouch for clients; the next handshake uses them.
func WriteClientCA(folder string, certificates []byte) error {
	return writeFile(folder, ClientCAFile, certificates)
}

// writeFile replaces a file at once. Any user of the container may read it; on the host, a folder above keeps others out.
func writeFile(folder, name string, content []byte) error {
	path := filepath.Join(folder, name)
	next := path + ".new"
	err := errors.Join(os.WriteFile(next, content, 0o644), os.Chmod(next, 0o644)) //nolint:gosec // see above
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return fmt.Errorf("writing the configuration of a proxy: %w", err)
	}
	return nil
}

func readConfig(folder string) (Config, error) {
	var c Config
	encoded, err := os.ReadFile(filepath.Join(folder, configFile)) //nolint:gosec // given by the cell
	if err == nil {
		err = json.Unmarshal(encoded, &c)
	}
	if err == nil && (net.ParseIP(c.Upstream) == nil || len(c.Listeners) == 0) {
		err = errors.New("no address of the application, or no listener")
	}
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	return c, nil
}
