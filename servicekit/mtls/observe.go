package mtls

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/servicekit/telemetry"
)

const (
	// warnBefore is how long before its end a certificate is called out, in the readiness document and in the log. One
	// that lives for less than three times as long is called out in the last third of its life.
	warnBefore = 30 * 24 * time.Hour
	// warnAgain is how often the log repeats it.
	warnAgain = 24 * time.Hour
)

// ends returns when the certificate or its CA ends, whichever is first, and from when on that is called out.
func (m *material) ends() (end, callOut time.Time) {
	leaf, root := m.certificate.Leaf, m.root
	end, callOut = leaf.NotAfter, calledOut(leaf)
	if root.NotAfter.Before(end) {
		end = root.NotAfter
	}
	if earlier := calledOut(root); earlier.Before(callOut) {
		callOut = earlier
	}
	return end, callOut
}

func calledOut(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-min(warnBefore, c.NotAfter.Sub(c.NotBefore)/3))
}

// warn writes a line about a certificate that ends soon, once a day. Only Run calls it.
func (s *Source) warn(now time.Time) {
	m := s.current.Load()
	end, callOut := m.ends()
	if now.Before(callOut) || now.Sub(s.warned) < warnAgain {
		return
	}
	s.warned = now
	log := s.log.Load().With("identity", m.identity.String(), "file", s.cfg.Certificate, "ends", end)
	if now.Before(end) {
		log.Warn("certificate-ends-soon")
	} else {
		log.Error("certificate-has-ended")
	}
}

// Observe lets tel show this source: the metric certificate_expiry_seconds per file, a readiness
// check, and log lines for reloads. The gRPC server and client of this module call it; calling it
// again changes nothing.
func (s *Source) Observe(tel *telemetry.Telemetry) {
	s.log.Store(tel.Log)
	var already prometheus.AlreadyRegisteredError
	for file, expiry := range map[string]func(*material) time.Time{
		s.cfg.Certificate: func(m *material) time.Time { return m.certificate.Leaf.NotAfter },
		s.cfg.CA:          func(m *material) time.Time { return m.root.NotAfter },
	} {
		gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "certificate_expiry_seconds",
			Help:        "Time until the certificate ends (of a bundle: the first to end); negative when it has ended.",
			ConstLabels: prometheus.Labels{"file": file},
		}, func() float64 { return time.Until(expiry(s.current.Load())).Seconds() })
		if err := tel.Registry.Register(gauge); err != nil && !errors.As(err, &already) {
			tel.Log.Error("metric-registration-failed", "error", err)
		}
	}
	tel.AddReadiness("certificate "+s.cfg.Certificate, s.Readiness)
}

// certificateState is what the readiness document tells of a source.
type certificateState struct {
	Identity string    `json:"identity"`
	Expires  time.Time `json:"expires"`
	CAExpiry time.Time `json:"ca_expires"`
	Warning  string    `json:"warning,omitempty"`
}

// Readiness tells identity and expiry. It is an error to have an expired certificate; one that ends
// soon, or files that cannot be taken up, are a warning.
func (s *Source) Readiness() (detail any, err error) {
	m := s.current.Load()
	state := certificateState{Identity: m.identity.String(), Expires: m.certificate.Leaf.NotAfter, CAExpiry: m.root.NotAfter}
	end, callOut := m.ends()
	left := time.Until(end)
	s.mu.Lock()
	failed := s.failed
	s.mu.Unlock()
	switch {
	case left <= 0:
		err = fmt.Errorf("the certificate or its CA ended %v ago", (-left).Round(time.Second))
	case failed != nil:
		state.Warning = "the files on disk are not in use: " + failed.Error()
	case time.Until(callOut) <= 0:
		state.Warning = fmt.Sprintf("ends in %v", left.Round(time.Minute))
	}
	return state, err
}
