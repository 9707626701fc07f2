package subscriber

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"diego.internal/router/internal/registry"
)

// message is a registration or an unregistration as it comes over NATS. Unknown members are ignored: senders may be
// newer than the router.
type message struct {
	Host                  string            `json:"host"`
	Port                  uint32            `json:"port"`
	TLSPort               uint32            `json:"tls_port"`
	URIs                  []string          `json:"uris"`
	Protocol              string            `json:"protocol"`
	App                   string            `json:"app"`
	RouteServiceURL       string            `json:"route_service_url"`
	PrivateInstanceID     string            `json:"private_instance_id"`
	PrivateInstanceIndex  string            `json:"private_instance_index"`
	ServerCertDomainSAN   string            `json:"server_cert_domain_san"`
	IsolationSegment      string            `json:"isolation_segment"`
	EndpointUpdatedAtNs   int64             `json:"endpoint_updated_at_ns"`
	Tags                  map[string]string `json:"tags"`
	AvailabilityZone      string            `json:"availability_zone"`
	StaleThresholdSeconds int64             `json:"stale_threshold_in_seconds"`
	Options               json.RawMessage   `json:"options"`
}

// registration is a message that passed all checks.
type registration struct {
	uris      []string
	endpoint  registry.Endpoint
	updatedAt time.Time // when the instance changed; zero if the sender does not measure latency
}

// decode reads and checks a message.
func decode(data []byte) (registration, error) {
	var m message
	if err := json.Unmarshal(data, &m); err != nil {
		return registration{}, fmt.Errorf("decoding the message: %w", err)
	}
	if err := m.check(); err != nil {
		return registration{}, err
	}
	r := registration{uris: m.URIs, endpoint: registry.Endpoint{
		Host: m.Host, Port: uint16(m.Port), //nolint:gosec // check limits both ports
		AppID: m.App, InstanceID: m.PrivateInstanceID, InstanceIndex: m.PrivateInstanceIndex,
		Protocol: registry.ProtocolHTTP1, RouteServiceURL: m.RouteServiceURL,
		IsolationSegment: m.IsolationSegment, Zone: m.AvailabilityZone, Tags: m.Tags,
		Balancing: m.balancing(), StaleAfter: m.staleAfter(),
	}}
	if m.TLSPort != 0 {
		r.endpoint.Port, r.endpoint.TLS, r.endpoint.CertificateSAN = uint16(m.TLSPort), true, m.ServerCertDomainSAN //nolint:gosec // as above
	}
	if m.Protocol == registry.ProtocolHTTP2 {
		r.endpoint.Protocol = registry.ProtocolHTTP2
	}
	if m.EndpointUpdatedAtNs > 0 {
		r.updatedAt = time.Unix(0, m.EndpointUpdatedAtNs)
	}
	return r, nil
}

func (m message) check() error {
	var problems []error
	if m.Host == "" {
		problems = append(problems, errors.New("no host"))
	}
	if len(m.URIs) == 0 {
		problems = append(problems, errors.New("no uris"))
	}
	if m.Port > math.MaxUint16 || m.TLSPort > math.MaxUint16 || m.Port+m.TLSPort == 0 {
		problems = append(problems, fmt.Errorf("port %d and tls port %d: one of them must be a port", m.Port, m.TLSPort))
	}
	if m.RouteServiceURL != "" && !strings.HasPrefix(m.RouteServiceURL, "https") {
		problems = append(problems, errors.New("route service url does not start with https"))
	}
	return errors.Join(problems...)
}

// balancing reads the one option that the router knows. An unknown algorithm is the router's default, not an
// error: options pass from the writer of a route unseen by anybody who could refuse them.
func (m message) balancing() registry.Algorithm {
	var options struct {
		LoadBalancing registry.Algorithm `json:"loadbalancing"`
	}
	if len(m.Options) == 0 || json.Unmarshal(m.Options, &options) != nil || !options.LoadBalancing.Valid() {
		return ""
	}
	return options.LoadBalancing
}

// staleAfter guards against durations that overflow; the registry caps the rest.
func (m message) staleAfter() time.Duration {
	const most = int64(time.Hour / time.Second)
	return time.Duration(max(0, min(m.StaleThresholdSeconds, most))) * time.Second
}
