package network

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

// Parts that rules are put together from. Register 1 is 16 bytes wide; what a part loads it compares at once.

func load(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

// fromOurs and toOurs match the interfaces of the cell by the beginning of their names.
func fromOurs(prefix string) []expr.Any {
	return []expr.Any{load(expr.MetaKeyIIFNAME), equal([]byte(prefix))}
}

func toOurs(prefix string) []expr.Any {
	return []expr.Any{load(expr.MetaKeyOIFNAME), equal([]byte(prefix))}
}

func notToOurs(prefix string) []expr.Any {
	return []expr.Any{load(expr.MetaKeyOIFNAME), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(prefix)}}
}

func family(proto byte) []expr.Any {
	return []expr.Any{load(expr.MetaKeyNFPROTO), equal([]byte{proto})}
}

func transport(proto byte) []expr.Any {
	return []expr.Any{load(expr.MetaKeyL4PROTO), equal([]byte{proto})}
}

// anyBit matches a conntrack word that has one of the bits.
func anyBit(key expr.CtKey, bits uint32) []expr.Any {
	zero := binaryutil.NativeEndian.PutUint32(0)
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero},
	}
}

func known() []expr.Any {
	return anyBit(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// ipsStatusDNAT is the kernel's IPS_DST_NAT: the destination was rewritten, here by a port mapping.
const ipsStatusDNAT = 1 << 5

func mapped() []expr.Any { return anyBit(expr.CtKeySTATUS, ipsStatusDNAT) }

// originalDestination loads where the sender wanted to go, before a port mapping rewrote it: an allow rule for the
// address of a cell must match although the packet goes on to a container.
func originalDestination() expr.Any { return &expr.Ct{Key: expr.CtKeyDST, Register: 1} }

func originalPort() expr.Any { return &expr.Ct{Key: expr.CtKeyPROTODST, Register: 1} }

func source() expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
}

// within matches register 1 between two values, both included.
func within(start, end []byte) expr.Any {
	return &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: start, ToData: end}
}

func inPrefix(prefix netip.Prefix) expr.Any {
	ranged := prefixRange(prefix)
	return within(ranged.Start.AsSlice(), ranged.End.AsSlice())
}

func prefixRange(prefix netip.Prefix) garden.IPRange {
	start := prefix.Masked().Addr().As4()
	end := start
	for bit := prefix.Bits(); bit < 32; bit++ {
		end[bit/8] |= 0x80 >> (bit % 8)
	}
	return garden.IPRange{Start: netip.AddrFrom4(start), End: netip.AddrFrom4(end)}
}

func verdict(kind expr.VerdictKind, chain string) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

func accept() expr.Any { return verdict(expr.VerdictAccept, "") }

func drop() expr.Any { return verdict(expr.VerdictDrop, "") }

// reject tells the sender, so that a forbidden connection fails at once instead of timing out.
func reject() expr.Any {
	return &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}
}

func join(parts ...any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		switch part := part.(type) {
		case expr.Any:
			all = append(all, part)
		case []expr.Any:
			all = append(all, part...)
		}
	}
	return all
}

// interval is a set element pair in the making.
type interval struct{ start, end uint32 }

// merge sorts intervals and joins those that touch or overlap: the kernel refuses overlapping elements.
func merge(all []interval) []interval {
	slices.SortFunc(all, func(a, b interval) int { return cmp.Compare(a.start, b.start) })
	var merged []interval
	for _, next := range all {
		last := len(merged) - 1
		if last >= 0 && (merged[last].end == ^uint32(0) || next.start <= merged[last].end+1) {
			merged[last].end = max(merged[last].end, next.end)
			continue
		}
		merged = append(merged, next)
	}
	return merged
}

// logPrefixLength is how much of the handle the kernel's log line begins with.
const logPrefixLength = 28

func logged(handle string) expr.Any {
	prefix := handle[:min(len(handle), logPrefixLength)] + " "
	return &expr.Log{Key: 1 << unix.NFTA_LOG_PREFIX, Data: []byte(prefix)}
}

// protocolNumbers of the rules that containers can have; all is none.
func protocolNumber(protocol garden.Protocol) (byte, bool) {
	switch protocol {
	case garden.ProtocolTCP:
		return unix.IPPROTO_TCP, true
	case garden.ProtocolUDP:
		return unix.IPPROTO_UDP, true
	case garden.ProtocolICMP:
		return unix.IPPROTO_ICMP, true
	case garden.ProtocolAll, garden.ProtocolICMPv6:
	}
	return 0, false
}

// intervalElements are the elements of an interval set: each start, and each first value past an end.
func intervalElements(all []interval, encode func(uint32) []byte, last uint32) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, i := range all {
		elements = append(elements, nftables.SetElement{Key: encode(i.start)})
		if i.end != last {
			elements = append(elements, nftables.SetElement{Key: encode(i.end + 1), IntervalEnd: true})
		}
	}
	return elements
}
