package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// containerInterface is the name that the container sees.
const containerInterface = "eth0"

// maxMTU is that of Ethernet; larger ones of the host do not reach past it.
const maxMTU = 1500

// connect makes the veth pair with one end in the namespace of pid and sets both up. The pair dies with the
// namespace, and so with the container, whatever becomes of this program.
func (n *Network) connect(lease Lease, pid int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.hostInterface(lease)
	attrs.MTU = n.mtu
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: containerInterface, PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("adding veth pair %s: %w", attrs.Name, err)
	}
	link, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return fmt.Errorf("finding %s: %w", attrs.Name, err)
	}
	if err := setOwn(attrs.Name); err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: pairNet(lease.Gateway)}); err != nil {
		return fmt.Errorf("giving %s its address: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up: %w", attrs.Name, err)
	}
	return connectInside(lease, pid)
}

// setOwn sets what our interface needs before it carries packets: forwarding; loopback addresses as sources, for ports
// reached through 127.0.0.1; no foreign source addresses; no IPv6, for which there are no rules.
func setOwn(name string) error {
	for path, value := range map[string]string{
		"ipv4/conf/" + name + "/forwarding":       "1",
		"ipv4/conf/" + name + "/route_localnet":   "1",
		"ipv4/conf/" + name + "/rp_filter":        "1",
		"ipv6/conf/" + name + "/disable_ipv6":     "1",
		"ipv4/conf/" + name + "/send_redirects":   "0",
		"ipv4/conf/" + name + "/accept_redirects": "0",
	} {
		err := os.WriteFile(filepath.Join(settings, path), []byte(value), 0)
		if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(path, "ipv6/") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return fmt.Errorf("setting %s: %w", path, err)
		}
	}
	return nil
}

func connectInside(lease Lease, pid int) error {
	namespace, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("opening network namespace: %w", err)
	}
	defer func() { _ = namespace.Close() }()
	inside, err := netlink.NewHandleAt(namespace, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("entering network namespace: %w", err)
	}
	defer inside.Close()
	for _, name := range []string{"lo", containerInterface} {
		link, err := inside.LinkByName(name)
		if err != nil {
			return fmt.Errorf("finding %s in the container: %w", name, err)
		}
		if name == containerInterface {
			if err := inside.AddrAdd(link, &netlink.Addr{IPNet: pairNet(lease.Container)}); err != nil {
				return fmt.Errorf("giving the container its address: %w", err)
			}
		}
		if err := inside.LinkSetUp(link); err != nil {
			return fmt.Errorf("setting %s up in the container: %w", name, err)
		}
	}
	if err := inside.RouteAdd(&netlink.Route{Gw: lease.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("adding the container's route: %w", err)
	}
	return nil
}

// disconnect removes the host's end and with it the other one.
func (n *Network) disconnect(lease Lease) error { return removeInterface(n.hostInterface(lease)) }

func removeInterface(name string) error {
	link, err := netlink.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	// The kernel may have removed it in between, when the namespace ended.
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

func (n *Network) interfaces() ([]string, error) {
	links, err := complete(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var names []string
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, n.prefix()) {
			names = append(names, link.Attrs().Name)
		}
	}
	return names, nil
}

func (n *Network) removeInterfaces(unwanted func(string) bool) error {
	names, err := n.interfaces()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if unwanted(name) {
			errs = append(errs, removeInterface(name))
		}
	}
	return errors.Join(errs...)
}

// Traffic is what the container received and sent, in bytes. It is zero when the interface is gone.
func (n *Network) Traffic(lease Lease) (received, sent uint64) {
	link, err := netlink.LinkByName(n.hostInterface(lease))
	if err != nil || link.Attrs().Statistics == nil {
		return 0, 0
	}
	// What the host's end sends, the container receives.
	return link.Attrs().Statistics.TxBytes, link.Attrs().Statistics.RxBytes
}

func pairNet(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(pairBits, 32)}
}

// listTries bounds how often a list is asked for again.
const listTries = 20

// complete asks for a list until it has it whole: the kernel breaks a list off when something is added to or removed
// from it meanwhile, as other cells of the machine do all the time.
func complete[T any](list func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		found, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try == listTries {
			return found, err
		}
	}
}

// uplinks are the interfaces that lead out of the machine.
func uplinks() ([]netlink.Link, error) {
	routes, err := complete(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: nil, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("listing default routes: %w", err)
	}
	var found []netlink.Link
	for _, route := range routes {
		if route.LinkIndex == 0 {
			continue // several next hops; rare enough on a cell to ask for forwarding by hand
		}
		link, err := netlink.LinkByIndex(route.LinkIndex)
		if err != nil {
			return nil, fmt.Errorf("finding the interface of a default route: %w", err)
		}
		found = append(found, link)
	}
	return found, nil
}

func uplinkMTU() (int, error) {
	links, err := uplinks()
	if err != nil {
		return 0, err
	}
	mtu := maxMTU
	for _, link := range links {
		mtu = min(mtu, link.Attrs().MTU)
	}
	return mtu, nil
}
