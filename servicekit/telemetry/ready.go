package telemetry

import (
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"diego.internal/servicekit/config"
)

// check tells one part of the state of a process: what an operator wants to see of it, and an error
// if the process cannot do its work because of it.
type check func() (detail any, err error)

// readiness is what /readyz is made of.
type readiness struct {
	mu     *sync.Mutex
	checks map[string]check
	listen map[string]string
}

func newReadiness() readiness {
	return readiness{mu: new(sync.Mutex), checks: map[string]check{}, listen: map[string]string{}}
}

// AddReadiness adds one part to /readyz: a pool, a circuit breaker, a loop with the age of its last
// success. The check is called for each request, so it must only tell what is remembered, quickly,
// and call nobody. While it returns an error the process counts as not ready; something that is only
// degraded belongs in the detail. A second check of the same name replaces the first.
func (t *Telemetry) AddReadiness(name string, check func() (detail any, err error)) {
	t.ready.mu.Lock()
	defer t.ready.mu.Unlock()
	t.ready.checks[name] = check
}

func (r *readiness) listening(name, address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listen[name] = address
}

func (r *readiness) addresses() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.listen)
}

// state is the document of /readyz.
type state struct {
	Component     string               `json:"component"`
	Accepting     bool                 `json:"accepting_work"`
	Reasons       []string             `json:"reasons,omitempty"` // why not
	Host          string               `json:"host"`
	Addresses     map[string][]string  `json:"listening"` // name of the listener to addresses
	Version       string               `json:"version"`
	ConfigDigest  string               `json:"config_digest,omitempty"` // of the configuration file
	Runtime       string               `json:"runtime_version"`
	Started       time.Time            `json:"started"`
	UptimeSeconds int64                `json:"uptime_seconds"`
	PID           int                  `json:"pid"`
	LogLevel      string               `json:"log_level"`
	Checks        map[string]partState `json:"checks"`
}

type partState struct {
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
	Detail any    `json:"detail,omitempty"`
}

// state asks every check once.
func (t *Telemetry) state() state {
	t.ready.mu.Lock()
	checks := maps.Clone(t.ready.checks)
	t.ready.mu.Unlock()

	host, _ := os.Hostname() // "" says that it is not known
	s := state{
		Component: t.component, Accepting: true, Host: host, Version: config.BuildVersion(), ConfigDigest: t.digest, Runtime: runtime.Version(),
		Started: t.started.UTC(), UptimeSeconds: int64(time.Since(t.started).Seconds()), PID: os.Getpid(),
		LogLevel: t.level.Level().String(), Addresses: map[string][]string{}, Checks: map[string]partState{},
	}
	for name, address := range t.ready.addresses() {
		s.Addresses[name] = everyIP(address)
	}
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		detail, err := checks[name]()
		part := partState{OK: err == nil, Detail: detail}
		if err != nil {
			part.Reason = clean(err.Error())
			s.Accepting = false
			s.Reasons = append(s.Reasons, name+": "+part.Reason)
		}
		s.Checks[name] = part
	}
	return s
}

// everyIP replaces an unspecified address (0.0.0.0:80) by the addresses of the machine, since that
// is where the process can be reached.
func everyIP(address string) []string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return []string{address}
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return []string{address}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return []string{address}
	}
	var all []string
	for _, addr := range own {
		if ipnet, ok := addr.(*net.IPNet); ok {
			all = append(all, net.JoinHostPort(ipnet.IP.String(), port))
		}
	}
	return all
}
