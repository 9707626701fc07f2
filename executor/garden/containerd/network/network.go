package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"diego.internal/executor/garden"
)

// Config of the network of one cell. All fields but AllowHostAccess, DenyNetworks and DNSServers are required.
type Config struct {
	// Tag is the hexadecimal digest of the cell id that names interfaces; six characters.
	Tag string
	// Table is the name of the nftables table; it carries the cell id.
	Table string
	// Pool is where container addresses come from; cells of one machine must have different ones.
	Pool netip.Prefix
	// HostPorts are the ports of the machine that this cell may map; likewise.
	HostPorts garden.PortRange
	// DenyNetworks are refused to containers unless a rule of theirs allows the traffic.
	DenyNetworks []netip.Prefix
	// DNSServers are reachable on port 53 for all containers.
	DNSServers []netip.Addr
	// AllowHostAccess lets the rules of a container open ports of the machine itself too.
	AllowHostAccess bool
	// SharedFolder holds what all cells of the machine must agree on: which settings of foreign interfaces were
	// changed and for whom. It is best on a file system that a reboot empties, as a reboot resets the settings.
	SharedFolder string
}

// Attachment is the network of one container.
type Attachment struct {
	Handle string
	Lease  Lease
	NetOut []garden.NetOutRule
}

// Network is the network of one cell. Its methods may be called concurrently.
type Network struct {
	cfg  Config
	pool *Pool
	mtu  int

	mu       sync.Mutex
	attached map[string]Attachment // by handle: what the table in the kernel contains
	stale    bool                  // an update failed, so that the kernel's table must be written anew
}

// New prepares the pools and looks the machine over, but changes nothing.
func New(cfg Config) (*Network, error) {
	if !cfg.Pool.Addr().Is4() || cfg.Pool.Bits() > pairBits {
		return nil, fmt.Errorf("network pool %v: want IPv4 and at least one /%d", cfg.Pool, pairBits)
	}
	mtu, err := uplinkMTU()
	if err != nil {
		return nil, fmt.Errorf("looking for the uplink of the machine: %w", err)
	}
	return &Network{cfg: cfg, pool: NewPool(cfg.Pool, cfg.HostPorts), mtu: mtu, attached: map[string]Attachment{}}, nil
}

// Pool is where Lease values come from.
func (n *Network) Pool() *Pool { return n.pool }

// Restore makes the machine's state that of the given containers and nothing else: one transaction replaces the whole
// table, and interfaces that belong to none of them are removed. Traffic of the containers is not interrupted.
func (n *Network) Restore(attachments []Attachment) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached = map[string]Attachment{}
	keep := map[string]bool{}
	for _, a := range attachments {
		n.attached[a.Handle] = a
		keep[n.hostInterface(a.Lease)] = true
	}
	if err := n.rewriteLocked(); err != nil {
		return err
	}
	if err := n.forwardUplinks(); err != nil {
		return err
	}
	return n.removeInterfaces(func(name string) bool { return !keep[name] })
}

// Attach gives the namespace of process pid its interface and opens the container's ports and rules. A failure may
// leave a part behind, which Detach removes.
func (n *Network) Attach(ctx context.Context, a Attachment, pid int) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := n.connect(a.Lease, pid); err != nil {
		return fmt.Errorf("connecting namespace of process %d: %w", pid, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached[a.Handle] = a
	if n.stale {
		return n.rewriteLocked()
	}
	if err := n.addRules(a); err != nil {
		n.stale = true
		return fmt.Errorf("adding rules: %w", err)
	}
	return nil
}

// Detach closes the ports, rules and interface of a container. It may be repeated. The lease stays taken.
func (n *Network) Detach(handle string, lease Lease) error {
	return errors.Join(n.removeRules(handle), n.disconnect(lease))
}

func (n *Network) removeRules(handle string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.attached[handle]
	if !ok {
		return nil
	}
	delete(n.attached, handle)
	if !n.stale {
		if n.deleteRules(a) == nil {
			return nil
		}
		// Somebody changed the table under us: replace it by what it should be.
		n.stale = true
	}
	return n.rewriteLocked()
}

// Clean removes every interface of the cell and its table and gives foreign settings back. It may be repeated.
func (n *Network) Clean() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached = map[string]Attachment{}
	return errors.Join(n.removeInterfaces(func(string) bool { return true }), n.deleteTable(), n.restoreUplinks())
}

// rewriteLocked replaces the whole table by one transaction.
func (n *Network) rewriteLocked() error {
	if err := n.writeTable(slices.Collect(maps.Values(n.attached))); err != nil {
		n.stale = true
		return fmt.Errorf("writing nftables table %s: %w", n.cfg.Table, err)
	}
	n.stale = false
	return nil
}

// prefix begins the names of all interfaces of the cell. Names have at most 15 characters.
func (n *Network) prefix() string { return "w" + n.cfg.Tag + "-" }

func (n *Network) hostInterface(lease Lease) string { return n.prefix() + strconv.Itoa(lease.Index) }

// chain is the name of a container's own chain.
func (n *Network) chain(lease Lease) string { return "container-" + strconv.Itoa(lease.Index) }

// Leftovers names what of a cell is on the machine: interfaces and table. After Clean there is nothing.
func (n *Network) Leftovers() ([]string, error) {
	names, err := n.interfaces()
	if err != nil {
		return nil, err
	}
	for at, name := range names {
		names[at] = "interface " + name
	}
	found, err := n.tableExists()
	if err != nil {
		return nil, err
	}
	if found {
		names = append(names, "nftables table "+n.cfg.Table)
	}
	return names, nil
}

// Mapped tells which container addresses the table maps and has rules for; for tests and the debug page.
func (n *Network) Mapped() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var lines []string
	for _, a := range n.attached {
		var ports []string
		for _, in := range a.Lease.Ports {
			ports = append(ports, fmt.Sprintf("%d>%d", in.HostPort, in.ContainerPort))
		}
		lines = append(lines, a.Handle+" "+a.Lease.Container.String()+" "+strings.Join(ports, ","))
	}
	slices.Sort(lines)
	return lines
}
