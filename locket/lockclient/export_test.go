package lockclient

import "time"

// SetMarkerAge changes how long a watch leaves the entry of a released presence in Consul.
func SetMarkerAge(b Backend, age time.Duration) { b.(*consul).markerAge = age }
