package command

import "encoding/json"

// httpRoute is what a table shows of a route.
type httpRoute struct {
	Hostnames []string `json:"hostnames"`
}

func httpRoutes(value []byte) []httpRoute {
	var out []httpRoute
	if json.Unmarshal(value, &out) != nil {
		return nil
	}
	return out
}
