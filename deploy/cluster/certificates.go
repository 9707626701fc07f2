package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/authority"
)

// TrustDomain of the certificates of a one-machine cluster.
const TrustDomain = "diego.local"

const certificateLifetime = 365 * 24 * time.Hour

// certificates issues what the processes of one cluster show each other.
type certificates struct {
	folder    string
	authority *authority.Authority
}

func newCertificates(folder string) (*certificates, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // keys have a mode of their own
		return nil, fmt.Errorf("making the folder of certificates: %w", err)
	}
	ca, err := authority.New(TrustDomain, certificateLifetime)
	if err != nil {
		return nil, err
	}
	if err := ca.Write(filepath.Join(folder, "ca.crt"), filepath.Join(folder, "ca.key")); err != nil {
		return nil, err
	}
	// What instances show is signed by another authority: no process of the platform trusts them for it.
	instances, err := authority.New("instances."+TrustDomain, certificateLifetime)
	if err != nil {
		return nil, err
	}
	c := &certificates{folder: folder, authority: ca}
	if err := instances.Write(c.instanceCA()); err != nil {
		return nil, err
	}
	return c, nil
}

// instanceCA are the certificate and the key of the authority of instances.
func (c *certificates) instanceCA() (certificate, key string) {
	return filepath.Join(c.folder, "instance-ca.crt"), filepath.Join(c.folder, "instance-ca.key")
}

// issue makes a certificate for a process and returns its files.
func (c *certificates) issue(process, role, name string) (mtls.Config, error) {
	files := mtls.Config{
		CA:          filepath.Join(c.folder, "ca.crt"),
		Certificate: filepath.Join(c.folder, process+".crt"),
		Key:         filepath.Join(c.folder, process+".key"),
	}
	leaf := authority.Leaf{
		Identity: mtls.Identity{TrustDomain: TrustDomain, Role: role, Name: name},
		Lifetime: certificateLifetime,
		// For peers that know host names only, such as NATS clients and the Go HTTP client.
		DNSNames:  []string{"localhost"},
		Addresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if err := c.authority.Issue(leaf, mtls.Config{Certificate: files.Certificate, Key: files.Key}); err != nil {
		return mtls.Config{}, fmt.Errorf("issuing the certificate of %s: %w", process, err)
	}
	return files, nil
}
