package garden

import (
	"errors"
	"fmt"
	"regexp"
)

// ErrInvalidSpec says that a request can never succeed as it stands.
var ErrInvalidSpec = errors.New("invalid specification")

// nameForm is what handles and process ids look like: they become file names and parts of containerd ids.
var nameForm = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,63}$`)

// Validate returns ErrInvalidSpec with the first thing that is wrong, or nil.
func (s ContainerSpec) Validate() error {
	if err := validateName("handle", s.Handle); err != nil {
		return err
	}
	for _, in := range s.NetIn {
		if in.ContainerPort == 0 || in.ContainerPort > 65535 || in.HostPort > 65535 {
			return fmt.Errorf("%w: port mapping %d to %d", ErrInvalidSpec, in.HostPort, in.ContainerPort)
		}
	}
	for _, mount := range s.BindMounts {
		if mount.SrcPath == "" || mount.DstPath == "" {
			return fmt.Errorf("%w: bind mount of %q at %q", ErrInvalidSpec, mount.SrcPath, mount.DstPath)
		}
	}
	for _, rule := range s.NetOut {
		if err := rule.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// Validate returns ErrInvalidSpec with the first thing that is wrong, or nil.
func (s ProcessSpec) Validate() error {
	if s.Path == "" {
		return fmt.Errorf("%w: a process needs a path", ErrInvalidSpec)
	}
	return validateName("process id", s.ID)
}

// Validate returns ErrInvalidSpec if the protocol is unknown, has no ports but names some, or a range is upside down.
func (r NetOutRule) Validate() error {
	switch r.Protocol {
	case ProtocolTCP, ProtocolUDP:
	case ProtocolAll, ProtocolICMP, ProtocolICMPv6:
		if len(r.Ports) > 0 {
			return fmt.Errorf("%w: Ports cannot be specified for Protocol %s", ErrInvalidSpec, r.Protocol)
		}
	default:
		return fmt.Errorf("%w: unknown protocol %q", ErrInvalidSpec, r.Protocol)
	}
	for _, network := range r.Networks {
		if !network.Start.IsValid() || network.Start.Is4() != network.End.Is4() || network.End.Less(network.Start) {
			return fmt.Errorf("%w: address range %v-%v", ErrInvalidSpec, network.Start, network.End)
		}
	}
	for _, ports := range r.Ports {
		if ports.End < ports.Start {
			return fmt.Errorf("%w: port range %d-%d", ErrInvalidSpec, ports.Start, ports.End)
		}
	}
	return nil
}

func validateName(kind, name string) error {
	// "." and ".." match the form but name folders that exist.
	if !nameForm.MatchString(name) || name == "." || name == ".." {
		return fmt.Errorf("%w: %s %q", ErrInvalidSpec, kind, name)
	}
	return nil
}

// Match tells whether p has all the properties of the filter. PropertyStateAll is an order to the lister, not a
// property, and always matches.
func (p Properties) Match(filter Properties) bool {
	for name, want := range filter {
		if name == PropertyStateAll {
			continue
		}
		if got, ok := p[name]; !ok || got != want {
			return false
		}
	}
	return true
}

// IncludesHalfCreated tells whether a filter asks for containers whose creation has not ended as well.
func (p Properties) IncludesHalfCreated() bool { return p[PropertyStateAll] == "all" }
