package routetable

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func TestParseRoutes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		raw  map[string][]byte
		want Routes
		err  string
	}{
		"none": {nil, Routes{}, ""},
		"everything": {
			map[string][]byte{
				"cf-router": []byte(`[{"hostnames":["a.com","*.b.com/x"],"port":8080,"route_service_url":"https://rs","isolation_segment":"seg","protocol":"http2",
					"options":{"loadbalancing":"round-robin"}},{"hostnames":["c.com"],"port":9090,"options":null,"route_to_instances":true}]`),
				"internal-router": []byte(`[{"hostname":"a.apps.internal"}]`),
				"tcp-router":      []byte(`[{"external_port":1,"container_port":2}]`), "diego-ssh": []byte(`{"private_key":"x"}`), "unknown": []byte(`nonsense`),
			},
			Routes{
				HTTP: []HTTPRoute{
					{Hostname: "a.com", ContainerPort: 8080, RouteServiceURL: "https://rs", IsolationSegment: "seg", Protocol: "http2", Options: `{"loadbalancing":"round-robin"}`},
					{Hostname: "*.b.com/x", ContainerPort: 8080, RouteServiceURL: "https://rs", IsolationSegment: "seg", Protocol: "http2", Options: `{"loadbalancing":"round-robin"}`},
					{Hostname: "c.com", ContainerPort: 9090, PerInstance: true},
				},
				Internal: []string{"a.apps.internal"},
			},
			"",
		},
		"no list":                         {map[string][]byte{"cf-router": []byte(`{}`)}, Routes{}, "cf-router: json"},
		"a bad element leaves the others": {map[string][]byte{"cf-router": []byte(`[{"hostnames":"x","port":1},{"hostnames":["a.com"],"port":1}]`)}, Routes{HTTP: []HTTPRoute{{Hostname: "a.com", ContainerPort: 1}}}, "cf-router[0]"},
		"no port":                         {map[string][]byte{"cf-router": []byte(`[{"hostnames":["a.com"]}]`)}, Routes{}, "port 0"},
		"a port too large":                {map[string][]byte{"cf-router": []byte(`[{"hostnames":["a.com"],"port":65536}]`)}, Routes{}, "port 65536"},
		"an empty hostname":               {map[string][]byte{"cf-router": []byte(`[{"hostnames":["","a.com"],"port":1}]`)}, Routes{HTTP: []HTTPRoute{{Hostname: "a.com", ContainerPort: 1}}}, "empty hostname"},
		"a wildcard by instance":          {map[string][]byte{"cf-router": []byte(`[{"hostnames":["*.a.com"],"port":1,"route_to_instances":true}]`)}, Routes{HTTP: []HTTPRoute{{Hostname: "*.a.com", ContainerPort: 1}}}, "route_to_instances"},
		"an internal route without name":  {map[string][]byte{"internal-router": []byte(`[{},{"hostname":"x"}]`)}, Routes{Internal: []string{"x"}}, "internal-router[0]"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseRoutes(tc.raw)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			if tc.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tc.err)
			}
		})
	}
}

// full is a process and an instance with every field filled.
func full() (Desired, Endpoint) {
	d := Desired{
		ProcessGUID: "p", Domain: "d", LogGUID: "log", Instances: 3, Tag: tag(1),
		MetricTags: map[string]TagValue{"process_type": {Static: "web"}, "instance_id": {Dynamic: TagIndex}, "instance_guid": {Dynamic: TagInstanceGUID}},
		Routes: Routes{
			HTTP:     []HTTPRoute{{Hostname: "web.example.com", ContainerPort: 8080, RouteServiceURL: "https://rs", IsolationSegment: "seg", Protocol: "http1", Options: `{"loadbalancing":"round-robin"}`}},
			Internal: []string{"web.apps.internal"},
		},
	}
	e := running(2, 1)
	e.Zone, e.Ports = "z1", []Port{{Container: 8080, Host: 61012, ContainerTLS: 61001, HostTLS: 61014}, {Container: 2222, Host: 61013}}
	return d, e
}

func TestMessagePayload(t *testing.T) {
	t.Parallel()
	common := `"uris":["web.example.com"],"protocol":"http1","app":"log","route_service_url":"https://rs","private_instance_id":"i2","private_instance_index":"2",` +
		`"server_cert_domain_san":"i2","isolation_segment":"seg","tags":{"component":"route-emitter","instance_guid":"i2","instance_id":"2","process_type":"web"},` +
		`"availability_zone":"z1","options":{"loadbalancing":"round-robin"}}`
	internal := `{"host":"172.16.0.2","uris":["web.apps.internal","2.web.apps.internal"],"app":"log","private_instance_index":"2","tags":{"component":"route-emitter"},"availability_zone":"z1"}`
	tests := map[string]struct {
		cfg    Config
		change func(*Desired, *Endpoint)
		want   map[Key]string
	}{
		"by the cell's address": {
			Config{},
			func(*Desired, *Endpoint) {},
			map[Key]string{{PlaneHTTP, "10.0.0.2:61014", "web.example.com"}: `{"host":"10.0.0.2","port":61012,"tls_port":61014,` + common},
		},
		"by the container's address, options included": {
			Config{},
			func(_ *Desired, e *Endpoint) { e.Preferred = PreferInstance },
			map[Key]string{{PlaneHTTP, "172.16.0.2:61001", "web.example.com"}: `{"host":"172.16.0.2","port":8080,"tls_port":61001,` + common},
		},
		"the installation decides where the instance does not": {
			Config{DirectInstanceRoutes: true},
			func(*Desired, *Endpoint) {},
			map[Key]string{{PlaneHTTP, "172.16.0.2:61001", "web.example.com"}: `{"host":"172.16.0.2","port":8080,"tls_port":61001,` + common},
		},
		"but not where it does": {
			Config{DirectInstanceRoutes: true},
			func(_ *Desired, e *Endpoint) { e.Preferred = PreferHost },
			map[Key]string{{PlaneHTTP, "10.0.0.2:61014", "web.example.com"}: `{"host":"10.0.0.2","port":61012,"tls_port":61014,` + common},
		},
		"without TLS proxy and details": {
			Config{},
			func(d *Desired, e *Endpoint) {
				d.Routes.HTTP, d.MetricTags = []HTTPRoute{{Hostname: "web.example.com", ContainerPort: 2222}}, nil
				e.Zone = ""
			},
			map[Key]string{{PlaneHTTP, "10.0.0.2:61013", "web.example.com"}: `{"host":"10.0.0.2","port":61013,"uris":["web.example.com"],"app":"log","private_instance_id":"i2",` +
				`"private_instance_index":"2","server_cert_domain_san":"i2","tags":{"component":"route-emitter"}}`},
		},
		"a name for each instance": {
			Config{},
			func(d *Desired, e *Endpoint) {
				d.Routes.HTTP, d.MetricTags = []HTTPRoute{{Hostname: "foo.com/bar", ContainerPort: 2222, PerInstance: true}}, nil
				e.Zone = ""
			},
			map[Key]string{
				{PlaneHTTP, "10.0.0.2:61013", "foo.com/bar"}: `{"host":"10.0.0.2","port":61013,"uris":["foo.com/bar"],"app":"log","private_instance_id":"i2",` +
					`"private_instance_index":"2","server_cert_domain_san":"i2","tags":{"component":"route-emitter"}}`,
				{PlaneHTTP, "10.0.0.2:61013", "2.foo.com/bar"}: `{"host":"10.0.0.2","port":61013,"uris":["2.foo.com/bar"],"app":"log","private_instance_id":"i2",` +
					`"private_instance_index":"2","server_cert_domain_san":"i2","tags":{"component":"route-emitter"}}`,
			},
		},
		"the same name on two ports": {
			Config{},
			func(d *Desired, e *Endpoint) {
				d.MetricTags = nil
				d.Routes.HTTP = []HTTPRoute{{Hostname: "a", ContainerPort: 2222}, {Hostname: "a", ContainerPort: 8080}}
				e.Ports[0].HostTLS, e.Zone = 0, ""
			},
			map[Key]string{
				{PlaneHTTP, "10.0.0.2:61012", "a"}: `{"host":"10.0.0.2","port":61012,"uris":["a"],"app":"log","private_instance_id":"i2","private_instance_index":"2","server_cert_domain_san":"i2","tags":{"component":"route-emitter"}}`,
				{PlaneHTTP, "10.0.0.2:61013", "a"}: `{"host":"10.0.0.2","port":61013,"uris":["a"],"app":"log","private_instance_id":"i2","private_instance_index":"2","server_cert_domain_san":"i2","tags":{"component":"route-emitter"}}`,
			},
		},
		"internal routes": {
			Config{InternalRoutes: true},
			func(d *Desired, _ *Endpoint) { d.Routes.HTTP = nil },
			map[Key]string{{PlaneInternal, "172.16.0.2", "web.apps.internal"}: internal},
		},
		"a port that the instance has not": {Config{}, func(d *Desired, _ *Endpoint) { d.Routes.HTTP[0].ContainerPort = 1 }, map[Key]string{}},
		"an instance without address":      {Config{}, func(_ *Desired, e *Endpoint) { e.HostAddress = "" }, map[Key]string{}},
		"a port that is not mapped":        {Config{}, func(_ *Desired, e *Endpoint) { e.Ports[0].Host, e.Ports[0].HostTLS = 0, 0 }, map[Key]string{}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, e := full()
			tc.change(&d, &e)
			table := New(tc.cfg)
			table.AddEndpoint(e)
			table.SetRoutes(d)
			got := map[Key]string{}
			for _, m := range table.Messages() {
				require.True(t, json.Valid(m.Payload()), "%s", m.Payload())
				got[m.Key] = string(m.Payload())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
		})
	}
}
