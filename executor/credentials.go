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

// issueCredentials puts a new certificate and its key into the container's folder. Nothing else may do so meanwhile.
func (n *node) issueCredentials(network container.NetInfo) error {
	c, start := n.client, time.Now()
	if c.authority == nil {
		return nil
	}
	subject := identity.Subject{
		GUID:               n.guid,
		OrganizationalUnit: n.snapshot().RunInfo.CertificateProperties.OrganizationalUnit,
		Address:            net.ParseIP(network.InternalIP),
	}
	if subject.Address == nil {
		subject.Address = net.ParseIP(network.ExternalIP)
	}
	pair, err := c.authority.Issue(subject, start)
	if err == nil {
		err = identity.Replace(filepath.Join(c.credentialsDir(), n.handle), pair)
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

// rotateCredentials replaces the certificate if it is due. A container that was built without one gets none: it could not
// see it.
func (n *node) rotateCredentials(now time.Time) error {
	n.rotating.Lock()
	defer n.rotating.Unlock()
	record := n.snapshot()
	if !record.HasContainer() {
		return nil // being built, where it is given one, or gone
	}
	due, err := identity.Due(filepath.Join(n.client.credentialsDir(), n.handle))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case now.Before(due):
		return nil
	}
	return n.issueCredentials(record.Net)
}
