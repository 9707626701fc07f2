package routetable

import "testing"

// FuzzParseRoutes reads what a client may have stored as routes. Whatever is wrong with one element, the
// others are returned, and nothing is returned that a router cannot use.
func FuzzParseRoutes(f *testing.F) {
	for _, seed := range []string{
		`[{"hostnames":["a.b","*.c","d/p"],"port":8080,"options":{"loadbalancing":"least-connection"}}]`, `[{"hostnames":["a"],"port":0}]`,
		`[{"hostnames":[""],"port":1}]`, `[{"hostname":"x.internal"}]`, `[1,{"hostnames":["a"],"port":65535}]`, `{}`, `null`, `[`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		routes, _ := ParseRoutes(map[string][]byte{ProviderHTTP: value, ProviderInternal: value})
		for _, route := range routes.HTTP {
			if route.Hostname == "" || route.ContainerPort == 0 || route.ContainerPort > 65535 {
				t.Fatalf("a route that is of no use: %+v", route)
			}
		}
		for _, name := range routes.Internal {
			if name == "" {
				t.Fatal("an internal route without a name")
			}
		}
	})
}
