package routetable

import (
	"net"
	"strconv"
	"time"
)

// Preference says by which address an instance wants to be reached.
type Preference int

// The preferences of an instance.
const (
	PreferUnknown  Preference = iota // Config.DirectInstanceRoutes decides
	PreferHost                       // the cell's address and the ports mapped there
	PreferInstance                   // the container's own address and ports
)

// Port is one port of an instance. A TLS port of 0 means that there is no TLS proxy.
type Port struct {
	Container    uint32
	Host         uint32
	ContainerTLS uint32
	HostTLS      uint32
}

// Endpoint is one record of a running, routable instance.
type Endpoint struct {
	ProcessGUID  string
	InstanceGUID string
	Index        int
	// Evacuating tells the record of a cell that is being emptied from the ordinary one: there may be both.
	Evacuating       bool
	CellID           string
	HostAddress      string
	ContainerAddress string
	Ports            []Port
	Preferred        Preference
	Zone             string
	Since            time.Time
	Tag              ModificationTag
}

// target is where one container port of an instance is reached.
type target struct {
	host    string
	port    uint32
	tlsPort uint32
}

// address is by what routers know the target: they prefer the TLS port.
func (t target) address() string {
	port := t.port
	if t.tlsPort != 0 {
		port = t.tlsPort
	}
	return net.JoinHostPort(t.host, strconv.FormatUint(uint64(port), 10))
}

// target returns the place of p. ok is false if the address or port that is wanted does not exist.
func (e Endpoint) target(p Port, direct bool) (t target, ok bool) {
	if e.Preferred == PreferInstance || (e.Preferred == PreferUnknown && direct) {
		t = target{e.ContainerAddress, p.Container, p.ContainerTLS}
	} else {
		t = target{e.HostAddress, p.Host, p.HostTLS}
	}
	return t, t.host != "" && (t.port != 0 || t.tlsPort != 0)
}
