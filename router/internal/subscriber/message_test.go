package subscriber

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"diego.internal/router/internal/registry"
)

func TestDecode(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		data string
		want registration
		err  bool
	}{
		"everything": {
			data: `{"host":"10.0.1.7","port":61012,"tls_port":61014,"uris":["web.example.com"],"protocol":"http2","app":"lg","route_service_url":"https://rs",
				"private_instance_id":"ig","private_instance_index":"2","server_cert_domain_san":"ig","isolation_segment":"seg","endpoint_updated_at_ns":5,
				"tags":{"component":"route-emitter"},"availability_zone":"z1","stale_threshold_in_seconds":30,"options":{"loadbalancing":"least-connection","x":1},"unknown":1}`,
			want: registration{uris: []string{"web.example.com"}, updatedAt: time.Unix(0, 5), endpoint: registry.Endpoint{
				Host: "10.0.1.7", Port: 61014, TLS: true, CertificateSAN: "ig", AppID: "lg", InstanceID: "ig", InstanceIndex: "2", Protocol: "http2",
				RouteServiceURL: "https://rs", IsolationSegment: "seg", Zone: "z1", Balancing: registry.LeastConnection,
				Tags: map[string]string{"component": "route-emitter"}, StaleAfter: 30 * time.Second,
			}},
		},
		"the least": {
			data: `{"host":"h","port":1,"uris":["u"]}`,
			want: registration{uris: []string{"u"}, endpoint: registry.Endpoint{Host: "h", Port: 1, Protocol: "http1"}},
		},
		"an unknown balancing is the default": {
			data: `{"host":"h","port":1,"uris":["u"],"options":{"loadbalancing":"hash"}}`,
			want: registration{uris: []string{"u"}, endpoint: registry.Endpoint{Host: "h", Port: 1, Protocol: "http1"}},
		},
		"options of another shape are ignored": {
			data: `{"host":"h","port":1,"uris":["u"],"options":{"loadbalancing":3}}`,
			want: registration{uris: []string{"u"}, endpoint: registry.Endpoint{Host: "h", Port: 1, Protocol: "http1"}},
		},
		"a threshold that would overflow is capped": {
			data: `{"host":"h","port":1,"uris":["u"],"stale_threshold_in_seconds":9223372036854775807}`,
			want: registration{uris: []string{"u"}, endpoint: registry.Endpoint{Host: "h", Port: 1, Protocol: "http1", StaleAfter: time.Hour}},
		},
		"not json":                      {data: `{`, err: true},
		"no host":                       {data: `{"port":1,"uris":["u"]}`, err: true},
		"no uris":                       {data: `{"host":"h","port":1,"uris":[]}`, err: true},
		"no port":                       {data: `{"host":"h","uris":["u"]}`, err: true},
		"a port too large":              {data: `{"host":"h","port":70000,"uris":["u"]}`, err: true},
		"a negative port":               {data: `{"host":"h","port":-1,"uris":["u"]}`, err: true},
		"an index that is no string":    {data: `{"host":"h","port":1,"uris":["u"],"private_instance_index":2}`, err: true},
		"a route service without https": {data: `{"host":"h","port":1,"uris":["u"],"route_service_url":"http://rs"}`, err: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := decode([]byte(tc.data))
			if (err != nil) != tc.err {
				t.Fatalf("decode: %v, want error %v", err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(registration{})); diff != "" {
				t.Errorf("registration (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"host":"h","port":1,"uris":["u"],"options":{"loadbalancing":"round-robin"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decode(data)
		if err != nil {
			return
		}
		if r.endpoint.Host == "" || r.endpoint.Port == 0 && len(r.uris) > 0 && !r.endpoint.TLS || len(r.uris) == 0 {
			t.Errorf("accepted %q as %+v", data, r)
		}
	})
}
