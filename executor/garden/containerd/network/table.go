package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

// The table of a cell, in nft's words (P is the prefix of our interfaces):
//
//	map ports      { inet_service : ipv4_addr . inet_service }      host port -> container
//	map containers { ifname : verdict }                             interface -> jump to the container's chain
//	prerouting, output   fib daddr type local tcp dnat to tcp dport map @ports
//	postrouting    oif P* saddr 127/8 masquerade; saddr pool oif != P* masquerade; iif P* oif P* ct status dnat masquerade
//	input          iif P*: known accept; (allow rules); dns accept; reject
//	forward        iif P*: goto egress;   oif P*: known accept; ct status dnat accept; drop
//	egress         known accept; vmap @containers; dns accept; deny networks and pool reject; accept
//	container-N    one rule for each allow rule of the container
const (
	mapPorts      = "ports"
	mapContainers = "containers"
	chainEgress   = "egress"
	// nameSize is IFNAMSIZ, the width of an interface name in a map.
	nameSize = 16
	// fibLocal is RTN_LOCAL: the address is one of the machine's own.
	fibLocal = 2
	// secondRegister is the 32-bit register after the first one: where a concatenated value has its second part.
	secondRegister = 9
)

func (n *Network) table() *nftables.Table {
	return &nftables.Table{Name: n.cfg.Table, Family: nftables.TableFamilyINet}
}

func (n *Network) portMap() *nftables.Set {
	return &nftables.Set{
		Table: n.table(), Name: mapPorts, IsMap: true, KeyType: nftables.TypeInetService,
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
}

func (n *Network) containerMap() *nftables.Set {
	return &nftables.Set{Table: n.table(), Name: mapContainers, IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict}
}

// batch gathers changes that the kernel makes all at once or not at all.
type batch struct {
	conn  *nftables.Conn
	table *nftables.Table
	sets  uint32 // numbered within the transaction
	err   error
}

func (n *Network) newBatch() (*batch, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	return &batch{conn: conn, table: n.table()}, nil
}

func (b *batch) flush() error {
	if b.err != nil {
		return b.err
	}
	if err := b.conn.Flush(); err != nil {
		return fmt.Errorf("committing nftables transaction: %w", err)
	}
	return nil
}

func (b *batch) set(s *nftables.Set, elements []nftables.SetElement) {
	// The library numbers the sets of all transactions of the program, without a lock: two cells would get in each other's way.
	b.sets++
	s.ID = b.sets
	if s.Anonymous {
		s.Name = "__set%d" // for the kernel to fill in
	}
	b.err = errors.Join(b.err, b.conn.AddSet(s, elements))
}

func (b *batch) rule(chain string, parts ...any) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: &nftables.Chain{Name: chain, Table: b.table}, Exprs: join(parts...)})
}

type hook struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
}

// writeTable replaces the table, if there is one, by one with the given containers.
func (n *Network) writeTable(attachments []Attachment) error {
	b, err := n.newBatch()
	if err != nil {
		return err
	}
	// Adding first makes the deletion succeed whether or not the table exists.
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
	b.conn.AddTable(b.table)
	ports, containers := n.portMap(), n.containerMap()
	b.set(ports, nil)
	b.set(containers, nil)
	for _, h := range []hook{
		{"prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest},
		{"output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest},
		{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource},
		{"input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter},
		{"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter},
	} {
		b.conn.AddChain(&nftables.Chain{Name: h.name, Table: b.table, Type: h.kind, Hooknum: h.hook, Priority: h.priority})
	}
	b.conn.AddChain(&nftables.Chain{Name: chainEgress, Table: b.table})
	n.natRules(b, ports)
	n.filterRules(b, containers)
	for _, a := range attachments {
		n.containerRules(b, a)
	}
	return b.flush()
}

func (n *Network) natRules(b *batch, ports *nftables.Set) {
	for _, chain := range []string{"prerouting", "output"} {
		b.rule(chain, family(unix.NFPROTO_IPV4),
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, equal(binaryutil.NativeEndian.PutUint32(fibLocal)),
			transport(unix.IPPROTO_TCP),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: ports.Name, SetID: ports.ID},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: secondRegister, Specified: true})
	}
	prefix := n.prefix()
	loopback := netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 0, 0, 0}), 8)
	b.rule("postrouting", family(unix.NFPROTO_IPV4), toOurs(prefix), source(), inPrefix(loopback), &expr.Masq{})
	b.rule("postrouting", family(unix.NFPROTO_IPV4), notToOurs(prefix), source(), inPrefix(n.cfg.Pool), &expr.Masq{})
	// A container that reaches itself through its mapped port would take its own address for an impostor's.
	b.rule("postrouting", family(unix.NFPROTO_IPV4), fromOurs(prefix), toOurs(prefix), mapped(), &expr.Masq{})
}

func (n *Network) filterRules(b *batch, containers *nftables.Set) {
	ours := fromOurs(n.prefix())
	own := join(load(expr.MetaKeyIIFNAME), &expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: containers.Name, SetID: containers.ID})

	b.rule("input", ours, family(unix.NFPROTO_IPV6), drop())
	b.rule("input", ours, known(), accept())
	if n.cfg.AllowHostAccess {
		b.rule("input", own)
	}
	n.dnsRules(b, "input", ours)
	b.rule("input", ours, reject())

	b.rule("forward", ours, verdict(expr.VerdictGoto, chainEgress))
	b.rule("forward", toOurs(n.prefix()), known(), accept())
	b.rule("forward", toOurs(n.prefix()), mapped(), accept())
	b.rule("forward", toOurs(n.prefix()), drop())

	b.rule(chainEgress, family(unix.NFPROTO_IPV6), drop())
	b.rule(chainEgress, known(), accept())
	b.rule(chainEgress, own)
	n.dnsRules(b, chainEgress, nil)
	for _, denied := range append([]netip.Prefix{n.cfg.Pool}, n.cfg.DenyNetworks...) {
		if denied.Addr().Is4() {
			b.rule(chainEgress, originalDestination(), inPrefix(denied), reject())
		}
	}
	// A port mapping that was not allowed must not be a way round the pool's denial.
	b.rule(chainEgress, mapped(), reject())
	b.rule(chainEgress, anyBit(expr.CtKeySTATE, expr.CtStateBitINVALID), drop())
	b.rule(chainEgress, accept())
}

func (n *Network) dnsRules(b *batch, chain string, from []expr.Any) {
	const domain = 53
	for _, server := range n.cfg.DNSServers {
		if !server.Is4() {
			continue
		}
		for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			b.rule(chain, from, transport(proto), originalDestination(), equal(server.AsSlice()), originalPort(), equal(port(domain)), accept())
		}
	}
}

// containerRules adds what one container has in the table.
func (n *Network) containerRules(b *batch, a Attachment) {
	name := n.chain(a.Lease)
	b.conn.AddChain(&nftables.Chain{Name: name, Table: b.table})
	for _, rule := range a.NetOut {
		n.allowRule(b, a, rule)
	}
	b.err = errors.Join(b.err, b.conn.SetAddElements(n.containerMap(), n.containerElements(a)))
	if elements := portElements(a); len(elements) > 0 {
		b.err = errors.Join(b.err, b.conn.SetAddElements(n.portMap(), elements))
	}
}

func (n *Network) containerElements(a Attachment) []nftables.SetElement {
	key := make([]byte, nameSize)
	copy(key, n.hostInterface(a.Lease))
	return []nftables.SetElement{{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: n.chain(a.Lease)}}}
}

func portElements(a Attachment) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, in := range a.Lease.Ports {
		// Each part of a concatenation fills a whole register of four bytes.
		value := append(a.Lease.Container.AsSlice(), append(port(in.ContainerPort), 0, 0)...)
		elements = append(elements, nftables.SetElement{Key: port(in.HostPort), Val: value})
	}
	return elements
}

// allowRule adds one accept rule. What IPv6 alone would match is left out: containers have no IPv6.
func (n *Network) allowRule(b *batch, a Attachment, rule garden.NetOutRule) {
	match := family(unix.NFPROTO_IPV4)
	if number, ok := protocolNumber(rule.Protocol); ok {
		match = append(match, transport(number)...)
	} else if rule.Protocol != garden.ProtocolAll {
		return
	}
	if len(rule.Networks) > 0 {
		var networks []interval
		for _, network := range rule.Networks {
			if network.Start.Is4() {
				networks = append(networks, interval{addressNumber(network.Start), addressNumber(network.End)})
			}
		}
		if len(networks) == 0 {
			return
		}
		match = append(match, originalDestination())
		match = append(match, b.oneOf(merge(networks), nftables.TypeIPAddr, address, ^uint32(0)))
	}
	if len(rule.Ports) > 0 {
		var ports []interval
		for _, p := range rule.Ports {
			ports = append(ports, interval{uint32(p.Start), uint32(p.End)})
		}
		match = append(match, originalPort(), b.oneOf(merge(ports), nftables.TypeInetService, port, 65535))
	}
	match = append(match, icmpMatch(rule)...)
	if rule.Log {
		match = append(match, logged(a.Handle))
	}
	b.rule(n.chain(a.Lease), match, accept())
}

// oneOf matches register 1 against one interval by comparison, against several by a set.
func (b *batch) oneOf(all []interval, key nftables.SetDatatype, encode func(uint32) []byte, last uint32) expr.Any {
	if len(all) == 1 {
		return within(encode(all[0].start), encode(all[0].end))
	}
	s := &nftables.Set{Table: b.table, Anonymous: true, Constant: true, Interval: true, KeyType: key}
	b.set(s, intervalElements(all, encode, last))
	return &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}
}

func icmpMatch(rule garden.NetOutRule) []expr.Any {
	if rule.Protocol != garden.ProtocolICMP || rule.ICMP == nil {
		return nil
	}
	var match []expr.Any
	for offset, wanted := range []*uint8{rule.ICMP.Type, rule.ICMP.Code} {
		if wanted != nil {
			match = append(match,
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: uint32(offset), Len: 1},
				equal([]byte{*wanted}))
		}
	}
	return match
}

func (n *Network) addRules(a Attachment) error {
	b, err := n.newBatch()
	if err != nil {
		return err
	}
	n.containerRules(b, a)
	return b.flush()
}

func (n *Network) deleteRules(a Attachment) error {
	b, err := n.newBatch()
	if err != nil {
		return err
	}
	if elements := portElements(a); len(elements) > 0 {
		b.err = errors.Join(b.err, b.conn.SetDeleteElements(n.portMap(), elements))
	}
	b.err = errors.Join(b.err, b.conn.SetDeleteElements(n.containerMap(), n.containerElements(a)))
	chain := &nftables.Chain{Name: n.chain(a.Lease), Table: b.table}
	b.conn.FlushChain(chain)
	b.conn.DelChain(chain)
	return b.flush()
}

func (n *Network) deleteTable() error {
	b, err := n.newBatch()
	if err != nil {
		return err
	}
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
	return b.flush()
}

func (n *Network) tableExists() (bool, error) {
	tables, err := n.tables()
	return tables[n.cfg.Table], err
}

// tables names the tables of the machine's nftables.
func (n *Network) tables() (map[string]bool, error) {
	b, err := n.newBatch()
	if err != nil {
		return nil, err
	}
	listed, err := b.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("listing nftables tables: %w", err)
	}
	names := map[string]bool{}
	for _, table := range listed {
		names[table.Name] = true
	}
	return names, nil
}

func port(number uint32) []byte {
	return binary.BigEndian.AppendUint16(nil, uint16(number)) //nolint:gosec // validated to be a port
}

func address(number uint32) []byte { return binary.BigEndian.AppendUint32(nil, number) }

func addressNumber(addr netip.Addr) uint32 {
	bytes := addr.As4()
	return binary.BigEndian.Uint32(bytes[:])
}
