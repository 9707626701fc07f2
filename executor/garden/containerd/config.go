// Package containerd is the garden.Client that runs real containers: runc by way of a containerd daemon, one overlayfs
// snapshot and one network namespace for each, an init of our own as first process and a logger of our own beside each
// process. Containers, their output and their exit statuses outlive this program and the daemon.
//
// The package owns everything on the machine that carries its cell's id: containerd containers and snapshots,
// interfaces, an nftables table, cgroups and the state folder. It decides nothing about what runs; that is the
// executor's. Root in an unprivileged container is nobody on the machine: it has a user namespace with a range of users of
// its own, few capabilities, no way to new privileges, and its system calls are filtered.
package containerd

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/containerd/network"
)

// Config of the backend of one cell.
type Config struct {
	// Socket of the containerd daemon; default /run/containerd/containerd.sock.
	Socket string `yaml:"socket"`
	// Namespace of containerd that holds our containers; default garden.
	Namespace string `yaml:"namespace"`
	// StateFolder keeps records, process output and generated files; required, owned by this cell alone.
	StateFolder string `yaml:"state_folder"`
	// SharedFolder is where cells of one machine agree on settings of foreign interfaces; default /run/diego-garden. It must
	// be the same for all of them: a cell that does not see the others' notes takes what they have set for the former value.
	SharedFolder string `yaml:"shared_folder"`
	// Snapshotter of containerd; default overlayfs.
	Snapshotter string `yaml:"snapshotter"`
	// RootFS maps the names of preloaded root filesystems to folders or tarballs (plain or compressed).
	RootFS map[string]string `yaml:"preloaded_rootfs"`
	// NetworkPool is cut into one /30 for each container; default 10.254.0.0/22. Cells of one machine need different ones.
	NetworkPool netip.Prefix `yaml:"network_pool"`
	// HostPortFirst and HostPortLast are the ports of the machine that may be mapped; default 61001 to 65534, which is
	// outside the kernel's ephemeral range. Cells of one machine need different ones.
	HostPortFirst uint16 `yaml:"host_port_first"`
	HostPortLast  uint16 `yaml:"host_port_last"`
	// ExternalIP is the address at which others reach mapped ports; required.
	ExternalIP netip.Addr `yaml:"external_ip"`
	// DenyNetworks are refused to containers unless a rule of theirs allows them; default 0.0.0.0/0. Other containers
	// and the machine itself are always refused.
	DenyNetworks []netip.Prefix `yaml:"deny_networks"`
	// DNSServers go to resolv.conf and are reachable for all; default those of the machine that are not loopback.
	DNSServers []netip.Addr `yaml:"dns_servers"`
	// AllowHostAccess lets a container's allow rules open the machine's own ports too; default false.
	AllowHostAccess bool `yaml:"allow_host_access"`
	// MaxContainers bounds Create; default 250.
	MaxContainers int `yaml:"max_containers"`
	// UserNamespaces says whether the cell starts on a machine that refuses user namespaces: required (default), preferred or
	// off. Privileged containers have none in any case.
	UserNamespaces Demand `yaml:"user_namespaces"`
	// UserRange is what users and groups of unprivileged containers are on the machine; default 1073741824 (2^30) and up,
	// as many. Images are kept once for each range.
	UserRange UserRange `yaml:"user_range"`
	// DiskLimits says whether the cell starts on a machine on which limits of disk can only be measured: required (default),
	// preferred or off. Limits need ext4, loop devices and mkfs.ext4.
	DiskLimits Demand `yaml:"disk_limits"`
	// PreallocateDisks takes the limit of each container from the cell's disk when it is created, so that the disk can
	// never be promised twice; default false.
	PreallocateDisks bool `yaml:"preallocate_disks"`
	// MinFreeDisk in bytes must be free on the disk of the state folder for a container to be created; default 64 MiB.
	MinFreeDisk uint64 `yaml:"min_free_disk"`
	// ImageCacheBytes bounds the images of registries, and former root filesystems, that are kept although no container uses
	// them; default 10 GiB. What containers use is kept beyond it.
	ImageCacheBytes uint64 `yaml:"image_cache_bytes"`
	// Registries has what is particular to a registry, by host or host:port. Others are asked over HTTPS with the
	// certificates that the machine trusts.
	Registries map[string]Registry `yaml:"registries"`
	// InitBinary and LoggerBinary are the absolute paths of the static programs garden-init and garden-logger; required.
	InitBinary   string `yaml:"init_binary"`
	LoggerBinary string `yaml:"logger_binary"`

	// CellID names all resources; required. Log receives what no caller can be told; required.
	CellID string       `yaml:"-"`
	Log    *slog.Logger `yaml:"-"`
}

// SetDefaults fills what has a default.
func (c *Config) SetDefaults() {
	c.Socket = cmp.Or(c.Socket, "/run/containerd/containerd.sock")
	c.Namespace = cmp.Or(c.Namespace, "garden")
	c.SharedFolder = cmp.Or(c.SharedFolder, "/run/diego-garden")
	c.Snapshotter = cmp.Or(c.Snapshotter, "overlayfs")
	c.MaxContainers = cmp.Or(c.MaxContainers, 250)
	c.UserNamespaces = cmp.Or(c.UserNamespaces, DemandRequired)
	c.UserRange = cmp.Or(c.UserRange, UserRange{First: 1 << 30, Size: 1 << 30})
	c.DiskLimits = cmp.Or(c.DiskLimits, DemandRequired)
	c.MinFreeDisk = cmp.Or(c.MinFreeDisk, 64*mebi)
	c.ImageCacheBytes = cmp.Or(c.ImageCacheBytes, 10<<30)
	c.HostPortFirst = cmp.Or(c.HostPortFirst, 61001)
	c.HostPortLast = cmp.Or(c.HostPortLast, 65534)
	if !c.NetworkPool.IsValid() {
		c.NetworkPool = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 254, 0, 0}), 22)
	}
	if c.DenyNetworks == nil {
		c.DenyNetworks = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	}
}

// Validate returns all problems of the values that a configuration file can hold, joined. It needs no machine.
func (c *Config) Validate() error {
	var errs []error
	for name, path := range map[string]string{"state_folder": c.StateFolder, "init_binary": c.InitBinary, "logger_binary": c.LoggerBinary} {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("%s: want an absolute path, have %q", name, path))
		}
	}
	for name, path := range c.RootFS {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("preloaded_rootfs %s: want an absolute path, have %q", name, path))
		}
	}
	if !c.ExternalIP.Is4() {
		errs = append(errs, fmt.Errorf("external_ip: want an IPv4 address, have %q", c.ExternalIP))
	}
	if !c.NetworkPool.Addr().Is4() || c.NetworkPool.Bits() > 30 || c.NetworkPool.Bits() < 12 {
		errs = append(errs, fmt.Errorf("network_pool: want an IPv4 network between /12 and /30, have %v", c.NetworkPool))
	}
	if c.HostPortFirst > c.HostPortLast {
		errs = append(errs, fmt.Errorf("host_port_first %d is above host_port_last %d", c.HostPortFirst, c.HostPortLast))
	}
	for name, demand := range map[string]Demand{"user_namespaces": c.UserNamespaces, "disk_limits": c.DiskLimits} {
		if demand != DemandRequired && demand != DemandPreferred && demand != DemandOff {
			errs = append(errs, fmt.Errorf("%s: want %s, %s or %s, have %q", name, DemandRequired, DemandPreferred, DemandOff, demand))
		}
	}
	errs = append(errs, c.UserRange.validate())
	for host, registry := range c.Registries {
		errs = append(errs, registry.validate(host))
	}
	if c.MaxContainers <= 0 {
		errs = append(errs, fmt.Errorf("max_containers: want a positive number, have %d", c.MaxContainers))
	}
	return errors.Join(errs...)
}

// check is Validate with what the file does not hold and what the machine must have.
func (c *Config) check() error {
	errs := []error{c.Validate()}
	if c.CellID == "" || c.Log == nil {
		errs = append(errs, errors.New("cell id and log are required"))
	}
	for _, path := range []string{c.InitBinary, c.LoggerBinary} {
		if info, err := os.Stat(path); err != nil {
			errs = append(errs, fmt.Errorf("looking for a binary: %w", err))
		} else if info.Mode()&0o111 == 0 {
			errs = append(errs, fmt.Errorf("%s is not executable", path))
		}
	}
	return errors.Join(errs...)
}

// tag is the digest of the cell id that fits into names of limited length, as those of interfaces.
func (c *Config) tag() string {
	sum := sha256.Sum256([]byte(c.CellID))
	return hex.EncodeToString(sum[:3])
}

// cellLabel marks what belongs to a cell in containerd's metadata.
const (
	cellLabel = "diego.internal/cell"
	// gcRoot keeps containerd's collector away from what nothing else refers to yet.
	gcRoot = "containerd.io/gc.root"
)

func (c *Config) labels() map[string]string {
	return map[string]string{cellLabel: c.tag(), "container-type": "garden-init"}
}

func (c *Config) networkConfig() network.Config {
	return network.Config{
		Tag:             c.tag(),
		Table:           "garden_" + tableName(c.CellID) + "_" + c.tag(),
		Pool:            c.NetworkPool,
		HostPorts:       garden.PortRange{Start: c.HostPortFirst, End: c.HostPortLast},
		DenyNetworks:    c.DenyNetworks,
		DNSServers:      c.DNSServers,
		AllowHostAccess: c.AllowHostAccess,
		SharedFolder:    c.SharedFolder,
	}
}

// tableName keeps what a person recognises of a cell id; the tag makes it unique.
func tableName(id string) string {
	name := []byte(id[:min(len(id), 60)])
	for at, b := range name {
		if (b < '0' || b > '9') && (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') {
			name[at] = '_'
		}
	}
	return string(name)
}
