package lockclient

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

// Kind names a store of claims in a configuration file.
type Kind string

// The stores of claims. The empty Kind is KindLocket.
const (
	KindLocket Kind = "locket"
	KindConsul Kind = "consul"
)

// Validate refuses what is no store.
func (k Kind) Validate() error {
	switch k {
	case "", KindLocket, KindConsul:
		return nil
	default:
		return fmt.Errorf("must be %q or %q, is %q", KindLocket, KindConsul, string(k))
	}
}

// StoresConfig are the sections "locket" and "consul" of a process, to be embedded with
// `yaml:",inline"`. A section that no lock or presence of the process chooses may be missing.
type StoresConfig struct {
	// Locket are the addresses of all lockets.
	Locket *grpcclient.Config `yaml:"locket"`
	// Consul is how to reach Consul.
	Consul *ConsulConfig `yaml:"consul"`
}

// CheckStores returns a problem for each of the kinds whose section is missing, for the Validate method of the
// process, which alone knows what it chooses.
func (c StoresConfig) CheckStores(kinds ...Kind) error {
	var problems []error
	if c.Locket == nil && (slices.Contains(kinds, KindLocket) || slices.Contains(kinds, "")) {
		problems = append(problems, config.Invalid("locket", "is missing, and a lock or presence is kept there"))
	}
	if c.Consul == nil && slices.Contains(kinds, KindConsul) {
		problems = append(problems, config.Invalid("consul", "is missing, and a lock or presence is kept there"))
	}
	return errors.Join(problems...)
}

// Stores opens the stores that a process uses, each once and when it is first asked for. It is safe for
// concurrent use.
type Stores struct {
	cfg    StoresConfig
	source *mtls.Source
	tel    *telemetry.Telemetry

	mu     sync.Mutex
	locket Backend
	consul Backend
	conn   *grpc.ClientConn
	idle   func()
}

// NewStores returns the stores of cfg. Nothing is opened yet. source is the certificate that locket is
// shown; Consul has one of its own. tel may be nil.
func NewStores(cfg StoresConfig, source *mtls.Source, tel *telemetry.Telemetry) *Stores {
	return &Stores{cfg: cfg, source: source, tel: tel}
}

// Open returns the backend of a kind. It does not wait for a connection. It returns an error if the
// section of the configuration is missing or cannot be used.
func (s *Stores) Open(kind Kind) (Backend, error) {
	if err := errors.Join(kind.Validate(), s.cfg.CheckStores(kind)); err != nil {
		return nil, fmt.Errorf("opening the store of claims: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind == KindConsul {
		return s.openConsul()
	}
	return s.openLocket()
}

func (s *Stores) openLocket() (Backend, error) {
	if s.locket != nil {
		return s.locket, nil
	}
	conn, err := grpcclient.Dial(*s.cfg.Locket, grpcclient.Options{
		Source: s.source, Server: mtls.Peer{Role: mtls.RoleLocket}, HealthService: healthService, Telemetry: s.tel,
	})
	if err != nil {
		return nil, fmt.Errorf("dialing locket: %w", err)
	}
	s.conn, s.locket = conn, NewLocket(conn)
	return s.locket, nil
}

// healthService is what a locket says of itself when it sees its database.
const healthService = "locket.v1"

func (s *Stores) openConsul() (Backend, error) {
	if s.consul != nil {
		return s.consul, nil
	}
	backend, idle, err := NewConsul(*s.cfg.Consul)
	if err != nil {
		return nil, fmt.Errorf("opening consul: %w", err)
	}
	s.consul, s.idle = backend, idle
	return s.consul, nil
}

// Close closes the connections. Call it when nothing holds or watches a claim any more.
func (s *Stores) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle != nil {
		s.idle()
	}
	if s.conn == nil {
		return nil
	}
	if err := s.conn.Close(); err != nil {
		return fmt.Errorf("closing the connection to locket: %w", err)
	}
	return nil
}
