package routetable

import (
	"encoding/json"
	"strconv"
)

// Plane is a set of subjects with its own listeners.
type Plane string

// The planes; a subject is "<plane>.register", for example.
const (
	PlaneHTTP     Plane = "router"
	PlaneInternal Plane = "service-discovery"
)

// Key is what a registration is about: listeners match an unregistration by it, so there is at most one message per
// key in a table.
type Key struct {
	Plane   Plane
	Address string // "host:port" as a router dials it; only the host on the internal plane
	URI     string
}

// Message is one registration. It is comparable: two messages are equal if sending the second after the first would
// change nothing.
type Message struct {
	Key          Key
	ProcessGUID  string
	InstanceGUID string
	// UpdatedAtNs is when the instance came to be as it is, in Unix nanoseconds, on the first message about it; else 0.
	UpdatedAtNs int64
	body        string // JSON without endpoint_updated_at_ns
}

// Payload is the JSON to send.
func (m Message) Payload() []byte {
	if m.UpdatedAtNs == 0 {
		return []byte(m.body)
	}
	// body is an object with members, so the last brace can give way for one more.
	return []byte(m.body[:len(m.body)-1] + `,"endpoint_updated_at_ns":` + strconv.FormatInt(m.UpdatedAtNs, 10) + "}")
}

// body is the wire form, common to both planes. Its order is that of the documentation of the format.
type body struct {
	Host                 string            `json:"host"`
	Port                 uint32            `json:"port,omitempty"` // always there on the HTTP plane, never on the other
	TLSPort              uint32            `json:"tls_port,omitempty"`
	URIs                 []string          `json:"uris"`
	Protocol             string            `json:"protocol,omitempty"`
	App                  string            `json:"app,omitempty"`
	RouteServiceURL      string            `json:"route_service_url,omitempty"`
	PrivateInstanceID    string            `json:"private_instance_id,omitempty"`
	PrivateInstanceIndex string            `json:"private_instance_index,omitempty"`
	ServerCertDomainSAN  string            `json:"server_cert_domain_san,omitempty"`
	IsolationSegment     string            `json:"isolation_segment,omitempty"`
	Tags                 map[string]string `json:"tags,omitempty"`
	AvailabilityZone     string            `json:"availability_zone,omitempty"`
	Options              json.RawMessage   `json:"options,omitempty"`
}

// messages builds all registrations of one instance: the only place that does.
func (t *Table) messages(d Desired, e Endpoint, owns func(Plane, string) bool) map[Key]Message {
	out := map[Key]Message{}
	add := func(k Key, b body) {
		data, err := json.Marshal(b)
		if err != nil {
			return // only options that are no JSON could do this, and the parser of routes took them from JSON
		}
		out[k] = Message{Key: k, ProcessGUID: e.ProcessGUID, InstanceGUID: e.InstanceGUID, body: string(data)}
	}
	index := strconv.Itoa(e.Index)
	for _, p := range e.Ports {
		where, ok := e.target(p, t.cfg.DirectInstanceRoutes)
		if !ok || !owns(PlaneHTTP, where.address()) {
			continue
		}
		for _, r := range d.Routes.HTTP {
			if r.ContainerPort != p.Container {
				continue
			}
			for _, uri := range r.uris(index) {
				add(Key{PlaneHTTP, where.address(), uri}, httpBody(d, e, r, where, uri))
			}
		}
	}
	if !t.cfg.InternalRoutes || e.ContainerAddress == "" || !owns(PlaneInternal, e.ContainerAddress) {
		return out
	}
	for _, hostname := range d.Routes.Internal {
		add(Key{PlaneInternal, e.ContainerAddress, hostname}, body{
			Host: e.ContainerAddress, URIs: []string{hostname, index + "." + hostname}, App: d.LogGUID,
			PrivateInstanceIndex: index, Tags: map[string]string{"component": "route-emitter"}, AvailabilityZone: e.Zone,
		})
	}
	return out
}

// uris are the names under which an instance is reached by the route.
func (r HTTPRoute) uris(index string) []string {
	if r.PerInstance {
		return []string{r.Hostname, index + "." + r.Hostname}
	}
	return []string{r.Hostname}
}

func httpBody(d Desired, e Endpoint, r HTTPRoute, where target, uri string) body {
	return body{
		Host: where.host, Port: where.port, TLSPort: where.tlsPort, URIs: []string{uri}, Protocol: r.Protocol, App: d.LogGUID,
		RouteServiceURL: r.RouteServiceURL, PrivateInstanceID: e.InstanceGUID, PrivateInstanceIndex: strconv.Itoa(e.Index),
		ServerCertDomainSAN: e.InstanceGUID, IsolationSegment: r.IsolationSegment, Tags: tags(d, e), AvailabilityZone: e.Zone,
		Options: json.RawMessage(r.Options),
	}
}

func tags(d Desired, e Endpoint) map[string]string {
	out := make(map[string]string, len(d.MetricTags)+1)
	for name, v := range d.MetricTags {
		switch v.Dynamic {
		case TagIndex:
			out[name] = strconv.Itoa(e.Index)
		case TagInstanceGUID:
			out[name] = e.InstanceGUID
		case Static:
			out[name] = v.Static
		}
	}
	out["component"] = "route-emitter"
	return out
}
