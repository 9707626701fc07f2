package cluster

import (
	"errors"
	"fmt"
	"net"
)

// What cannot be allocated by asking the kernel, container networks and port ranges that hold many ports, is divided into
// slots; a running cluster occupies one of them. The ports lie above the range that the kernel hands out by itself.
const (
	slots        = 8
	maxCells     = 4
	firstPort    = 61001
	portsPerSlot = 560
	portsPerCell = portsPerSlot / maxCells
)

// slot of a cluster. It is free again when the process that took it has ended, however that happened.
type slot struct {
	number int
	lock   net.Listener
}

var errNoSlot = errors.New("too many clusters run on this machine")

func takeSlot() (slot, error) {
	for n := range slots {
		// A name in the abstract namespace leaves no file behind.
		lock, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("@diego-cluster-slot-%d", n), Net: "unix"})
		if err == nil {
			return slot{number: n, lock: lock}, nil
		}
	}
	return slot{}, errNoSlot
}

func (s slot) release() { _ = s.lock.Close() }

// cellID is unique on the machine, because names of networks and tables of rules are made from it.
func (s slot) cellID(i int) string {
	if s.number == 0 {
		return fmt.Sprintf("cell-%d", i+1)
	}
	return fmt.Sprintf("s%d-cell-%d", s.number, i+1)
}

func (s slot) network(i int) string {
	return fmt.Sprintf("10.254.%d.0/22", s.number*4*maxCells+4*i)
}

func (s slot) ports(i int) (first, last int) {
	first = firstPort + s.number*portsPerSlot + i*portsPerCell
	return first, first + portsPerCell - 1
}

// freePorts asks the kernel for ports that nobody uses now.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
		if err != nil {
			return nil, fmt.Errorf("allocating a port: %w", err)
		}
		// Held until all are found, so that they differ.
		defer func() { _ = listener.Close() }()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
