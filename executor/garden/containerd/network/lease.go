// Package network gives each container of a cell a network of its own: an address pair, a veth pair whose other end is
// in the container's namespace, mapped ports and a default of no traffic at all. It owns the pool of addresses and
// ports, the interfaces whose names begin with the cell's prefix and the nftables table that carries the cell's id,
// and touches nothing else, so that several cells can share a machine. Containers are joined by routing, not by a
// bridge: every packet between two of them passes the forward chain.
package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"diego.internal/executor/garden"
)

// pairBits is the size of the subnet of one container: network, gateway, container, broadcast.
const pairBits = 30

// Lease is what one container holds of the pools. It is stored with the container.
type Lease struct {
	// Index numbers the subnet in the pool and the interface.
	Index     int            `json:"index"`
	Gateway   netip.Addr     `json:"gateway"`
	Container netip.Addr     `json:"container"`
	Ports     []garden.NetIn `json:"ports"`
}

// Pool hands out addresses and host ports. What is released goes to the end of the queue, so that a late packet of the
// former holder rarely meets a new one. It is safe for concurrent use.
type Pool struct {
	prefix netip.Prefix
	ports  garden.PortRange

	mu        sync.Mutex
	indices   []int // free, next one first
	freePorts []uint32
}

// NewPool makes a pool in which everything is free.
func NewPool(prefix netip.Prefix, ports garden.PortRange) *Pool {
	p := &Pool{prefix: prefix.Masked(), ports: ports}
	for index := range 1 << max(0, pairBits-prefix.Bits()) {
		p.indices = append(p.indices, index)
	}
	for port := uint32(ports.Start); port <= uint32(ports.End); port++ {
		p.freePorts = append(p.freePorts, port)
	}
	return p
}

// Take leases an address and a host port for each mapping, the one asked for or, for 0, any. It returns
// garden.ErrNoAddress or garden.ErrPortsExhausted and then leases nothing.
func (p *Pool) Take(wanted []garden.NetIn) (Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.indices) == 0 {
		return Lease{}, garden.ErrNoAddress
	}
	lease := p.lease(p.indices[0])
	// Ports asked for by number first, so that "any" does not take them.
	free := slices.Clone(p.freePorts)
	for _, in := range wanted {
		if in.HostPort == 0 {
			continue
		}
		at := slices.Index(free, in.HostPort)
		if at < 0 {
			return Lease{}, fmt.Errorf("%w: host port %d is taken or out of range", garden.ErrPortsExhausted, in.HostPort)
		}
		free = slices.Delete(free, at, at+1)
	}
	for _, in := range wanted {
		if in.HostPort == 0 {
			if len(free) == 0 {
				return Lease{}, garden.ErrPortsExhausted
			}
			in.HostPort, free = free[0], free[1:]
		}
		lease.Ports = append(lease.Ports, in)
	}
	p.indices, p.freePorts = p.indices[1:], free
	return lease, nil
}

// Adopt takes what a container of an earlier program holds. It returns an error if the pools have changed so that the
// lease no longer fits.
func (p *Pool) Adopt(lease Lease) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.Index(p.indices, lease.Index)
	if at < 0 || p.lease(lease.Index).Container != lease.Container {
		return fmt.Errorf("%w: address %v is taken or out of the pool", garden.ErrNoAddress, lease.Container)
	}
	free := slices.Clone(p.freePorts)
	for _, in := range lease.Ports {
		at := slices.Index(free, in.HostPort)
		if at < 0 {
			return fmt.Errorf("%w: host port %d is taken or out of range", garden.ErrPortsExhausted, in.HostPort)
		}
		free = slices.Delete(free, at, at+1)
	}
	p.indices, p.freePorts = slices.Delete(p.indices, at, at+1), free
	return nil
}

// Release gives a lease back. Releasing twice changes nothing.
func (p *Pool) Release(lease Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !lease.Container.IsValid() || slices.Contains(p.indices, lease.Index) {
		return
	}
	p.indices = append(p.indices, lease.Index)
	for _, in := range lease.Ports {
		p.freePorts = append(p.freePorts, in.HostPort)
	}
}

func (p *Pool) lease(index int) Lease {
	base := p.prefix.Addr().As4()
	number := binary.BigEndian.Uint32(base[:]) + uint32(index)<<(32-pairBits) //nolint:gosec // below the size of the pool
	at := func(host uint32) netip.Addr {
		var addr [4]byte
		binary.BigEndian.PutUint32(addr[:], number+host)
		return netip.AddrFrom4(addr)
	}
	return Lease{Index: index, Gateway: at(1), Container: at(2)}
}
