package executor

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
)

var errDestination = errors.New("failed to convert destination to ip range")

// netOut turns egress rules into the engine's, one per destination entry.
func netOut(rules []container.EgressRule) ([]garden.NetOutRule, error) {
	var out []garden.NetOutRule
	for i, rule := range rules {
		converted, err := convertRule(rule)
		if err != nil {
			return nil, fmt.Errorf("egress rule %d: %w", i, err)
		}
		out = append(out, converted...)
	}
	return out, nil
}

func convertRule(rule container.EgressRule) ([]garden.NetOutRule, error) {
	base := garden.NetOutRule{Protocol: garden.Protocol(rule.Protocol), Log: rule.Log}
	for _, port := range rule.Ports {
		base.Ports = append(base.Ports, garden.PortRange{Start: uint16(port), End: uint16(port)}) //nolint:gosec // checked below
		if port == 0 || port > 65535 {
			return nil, fmt.Errorf("port %d is not in 1 to 65535", port)
		}
	}
	if r := rule.PortRange; r != nil {
		if r.Start == 0 || r.End > 65535 || r.Start > r.End {
			return nil, fmt.Errorf("port range %d-%d is not valid", r.Start, r.End)
		}
		base.Ports = append(base.Ports, garden.PortRange{Start: uint16(r.Start), End: uint16(r.End)}) //nolint:gosec // checked above
	}
	switch base.Protocol {
	case garden.ProtocolTCP, garden.ProtocolUDP:
		if (len(rule.Ports) > 0) == (rule.PortRange != nil) {
			return nil, fmt.Errorf("protocol %s needs either ports or a port range", rule.Protocol)
		}
	case garden.ProtocolAll, garden.ProtocolICMP, garden.ProtocolICMPv6:
		if len(base.Ports) > 0 {
			return nil, fmt.Errorf("protocol %s takes no ports", rule.Protocol)
		}
	default:
		return nil, fmt.Errorf("protocol %q is unknown", rule.Protocol)
	}
	if rule.ICMP != nil {
		base.ICMP = &garden.ICMPControl{Type: icmpByte(rule.ICMP.Type), Code: icmpByte(rule.ICMP.Code)}
	}
	if len(rule.Destinations) == 0 {
		return nil, errors.New("a rule needs a destination")
	}
	var rules []garden.NetOutRule
	for _, entry := range rule.Destinations {
		one := base
		for text := range strings.SplitSeq(entry, ",") {
			network, err := parseDestination(strings.TrimSpace(text))
			if err != nil {
				return nil, fmt.Errorf("%w: %q: %w", errDestination, text, err)
			}
			one.Networks = append(one.Networks, network)
		}
		rules = append(rules, one)
	}
	return rules, nil
}

// icmpByte takes -1, and 255 as some clients send it, for any.
func icmpByte(value int32) *uint8 {
	if value < 0 || value >= 255 {
		return nil
	}
	b := uint8(value)
	return &b
}

func parseDestination(text string) (garden.IPRange, error) {
	if strings.Contains(text, "/") {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return garden.IPRange{}, err
		}
		return garden.IPRange{Start: prefix.Masked().Addr(), End: lastOf(prefix)}, nil
	}
	first, last, isRange := strings.Cut(text, "-")
	start, err := netip.ParseAddr(strings.TrimSpace(first))
	if err != nil || !isRange {
		return garden.IPRange{Start: start, End: start}, err
	}
	end, err := netip.ParseAddr(strings.TrimSpace(last))
	if err == nil && (start.Is4() != end.Is4() || end.Less(start)) {
		err = errors.New("range ends before it starts")
	}
	return garden.IPRange{Start: start, End: end}, err
}

// lastOf is the highest address of a prefix.
func lastOf(prefix netip.Prefix) netip.Addr {
	bytes := prefix.Masked().Addr().AsSlice()
	for bit := prefix.Bits(); bit < 8*len(bytes); bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes) // as long as it was
	return last
}
