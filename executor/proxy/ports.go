package proxy

import (
	"errors"
	"slices"
)

// The ports that a proxy listens at, beside those of the application.
const (
	// FirstPort and lastPort bound the ports that are given to listeners.
	FirstPort = 61001
	lastPort  = 65533
	// C2CPort is where other containers reach the application's port 8080 by TLS. It is never mapped to the host.
	C2CPort    = 61443
	c2cAppPort = 8080
)

// Errors of Allocate.
var (
	ErrReservedPort = errors.New("port 61443 is reserved for container networking")
	ErrNoPorts      = errors.New("no ports available")
)

// Listener takes TLS at Port for the application's AppPort.
type Listener struct {
	AppPort uint32 `json:"app_port"`
	Port    uint32 `json:"port"`
	// C2C says that it is for other containers, which show no certificate and know the application by its internal host names.
	C2C bool `json:"c2c,omitempty"`
}

// Allocate gives every port of an application a listener, and port 8080 a second one for other containers. The ports are
// different ones. It returns ErrReservedPort if the application wants the port of that second one for itself, and ErrNoPorts.
func Allocate(appPorts []uint32) ([]Listener, error) {
	if slices.Contains(appPorts, C2CPort) {
		return nil, ErrReservedPort
	}
	var listeners []Listener
	next := uint32(FirstPort)
	for _, port := range appPorts {
		for next == C2CPort || slices.Contains(appPorts, next) {
			next++
		}
		if next > lastPort {
			return nil, ErrNoPorts
		}
		listeners = append(listeners, Listener{AppPort: port, Port: next})
		next++
		if port == c2cAppPort {
			listeners = append(listeners, Listener{AppPort: port, Port: C2CPort, C2C: true})
		}
	}
	return listeners, nil
}
