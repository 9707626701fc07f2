package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/identity"
	"diego.internal/executor/proxy"
)

// pathCredentials is where certificate and key appear in a container.
const pathCredentials = "/etc/cf-instance-credentials" //nolint:gosec // a path

// minCertificateValidity leaves time between a rotation and the end of what it replaces.
const minCertificateValidity = time.Minute

// InstanceIdentity is the CA of which containers get certificates; without files they get none.
type InstanceIdentity struct {
	// CACertificate begins with the certificate of the CA and may go on with those that lead to a root; CAKey is its key.
	// Both are PEM files with absolute paths, are needed together, and are read again when they change.
	CACertificate string `yaml:"ca_certificate"`
	CAKey         string `yaml:"ca_key"`
	// Validity of a certificate, at least 1 min; it is replaced before. Default 24 h.
	Validity time.Duration `yaml:"validity"`
}

// SetDefaults fills what is zero.
func (i *InstanceIdentity) SetDefaults() { def(&i.Validity, 24*time.Hour) }

// Validate checks the form only.
func (i *InstanceIdentity) Validate() error {
	var problems []error
	for _, f := range []struct{ name, path string }{{"ca_certificate", i.CACertificate}, {"ca_key", i.CAKey}} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			problems = append(problems, fmt.Errorf("%s %q is not an absolute path", f.name, f.path))
		}
	}
	if (i.CACertificate == "") != (i.CAKey == "") {
		problems = append(problems, errors.New("ca_certificate and ca_key need each other"))
	}
	if i.Validity < minCertificateValidity {
		problems = append(problems, fmt.Errorf("validity %v is below %v", i.Validity, minCertificateValidity))
	}
	return errors.Join(problems...)
}

// openAuthority returns nil when containers are to have no certificates.
func (c *Client) openAuthority() (*identity.Authority, error) {
	cfg := c.cfg.InstanceIdentity
	if cfg.CACertificate == "" || c.cfg.Ephemeral {
		return nil, nil //nolint:nilnil // the feature is off
	}
	return identity.Open(cfg.CACertificate, cfg.CAKey, cfg.Validity)
}

func (c *Client) credentialsDir() string { return filepath.Join(c.cfg.StateDir, "credentials") }

// addCredentials makes the folder that the certificate will appear in, and shows it in the container. The address that
// the certificate names is known only when the container is there.
func (n *node) addCredentials(spec *garden.ContainerSpec) error {
	if n.client.authority == nil {
		return nil
	}
	dir := filepath.Join(n.client.credentialsDir(), n.handle)
	if err := identity.MakeFolder(dir); err != nil {
		return &creationError{text: "failed to create credentials directory", err: err}
	}
	spec.BindMounts = append(spec.BindMounts, garden.BindMount{SrcPath: dir, DstPath: pathCredentials, ReadOnly: true})
	spec.Env = append(spec.Env,
		garden.EnvVar{Name: "CF_INSTANCE_CERT", Value: pathCredentials + "/" + identity.CertificateFile},
		garden.EnvVar{Name: "CF_INSTANCE_KEY", Value: pathCredentials + "/" + identity.KeyFile})
	return nil
}

// subject is whom certificates of the container are about.
func (n *node) subject(record container.Record) identity.Subject {
	return identity.Subject{
		GUID: n.guid, OrganizationalUnit: record.RunInfo.CertificateProperties.OrganizationalUnit, Address: address(record.Net),
	}
}

// address is the one that certificates of a container name.
func address(network container.NetInfo) net.IP {
	if own := net.ParseIP(network.InternalIP); own != nil {
		return own
	}
	return net.ParseIP(network.ExternalIP)
}

// issueCredentials puts a new certificate and its key into the container's folder, and into that of its proxy. Nothing else may
// do so meanwhile.
func (n *node) issueCredentials(record container.Record) error {
	c, start := n.client, time.Now()
	if c.authority == nil {
		return nil
	}
	pair, err := c.authority.Issue(n.subject(record), start)
	if err == nil {
		err = identity.Replace(filepath.Join(c.credentialsDir(), n.handle), pair)
	}
	if err == nil {
		err = n.issueProxyCredentials(record, pair)
	}
	c.counters.Credentials.add(err, time.Since(start))
	return err
}

// rotateCredentials replaces certificates that are due, also those of adopted containers. It looks often enough for any
// validity; what fails is tried again the next time, and there is time for that before the old certificate ends.
func (c *Client) rotateCredentials(ctx context.Context) error {
	if c.authority == nil {
		return nil
	}
	reloads := true
	for pause := min(time.Minute, c.authority.Validity()/32); ; {
		err := c.authority.Reload()
		if err != nil && reloads {
			c.log.Warn("reading-instance-identity-ca-failed", slog.Any("error", err))
		}
		reloads = err == nil
		for _, n := range c.all() {
			if err := n.rotateCredentials(time.Now()); err != nil {
				n.log().Warn("rotating-credentials-failed", slog.Any("error", err))
			}
		}
		if !wait(ctx, pause) {
			return nil
		}
	}
}

// rotateCredentials replaces the certificates that are due. A container that was built without any gets none: it could not
// see them.
func (n *node) rotateCredentials(now time.Time) error {
	n.rotating.Lock()
	defer n.rotating.Unlock()
	record := n.snapshot()
	if !record.HasContainer() {
		return nil // being built, where it is given them, or gone
	}
	proxied := record.Net.Proxied() && !record.Result.Stopped
	folders := []string{filepath.Join(n.client.credentialsDir(), n.handle)}
	if proxied {
		folders = append(folders, filepath.Join(n.proxyFolder(), proxy.IdentityFolder))
	}
	due, err := anyDue(now, folders...)
	if due {
		err = n.issueCredentials(record)
	}
	if !proxied {
		return err
	}
	due, errC2C := anyDue(now, filepath.Join(n.proxyFolder(), proxy.C2CFolder))
	if due {
		errC2C = n.issueC2CCredentials(record)
	}
	return errors.Join(err, errC2C, n.refreshClientCA())
}

// anyDue says whether the pair of some folder must be replaced. Folders that there are not have none.
func anyDue(now time.Time, folders ...string) (bool, error) {
	for _, folder := range folders {
		due, err := identity.Due(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		if !now.Before(due) {
			return true, nil
		}
	}
	return false, nil
}
