package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"diego.internal/executor/garden/containerd/privatedaemon"
	"diego.internal/servicekit/mtls"
)

// plan is where everything of a cluster is: names, addresses and files, decided before anything starts.
type plan struct {
	Options
	slot slot

	lockets, bbses, auctioneers, cells []node
	emitters                           []node
	router                             node
	routerStatus                       string
	nats                               node
	// instanceCA and instanceKey are the files of the authority of instances.
	instanceCA, instanceKey string
}

// rootFS is the name of the one root filesystem of the cells.
const rootFS = "busybox"

// node is one process of the plan.
type node struct {
	name string
	// address of its API and of its debug listener.
	address, debug string
	tls            mtls.Config
	// cell and zone of the processes of a cell.
	cell, zone string
}

// sharedFolder is where all cells of the machine, of whichever cluster, agree on settings that they share.
const sharedFolder = "/run/diego-garden"

// pairs of lockets, bbses and auctioneers: one to lose.
const pair = 2

func newPlan(o Options, s slot, certificates *certificates) (*plan, error) {
	p := &plan{Options: o, slot: s}
	ports, err := freePorts(2*(3*pair+2*o.Cells+2) + 1)
	if err != nil {
		return nil, err
	}
	next := func() string {
		port := ports[0]
		ports = ports[1:]
		return fmt.Sprintf("127.0.0.1:%d", port)
	}
	var problem error
	add := func(name, role, identity string) node {
		tls, err := certificates.issue(name, role, identity)
		if err != nil {
			problem = err
		}
		return node{name: name, address: next(), debug: next(), tls: tls}
	}
	for i := range pair {
		p.lockets = append(p.lockets, add(fmt.Sprintf("locket-%d", i+1), mtls.RoleLocket, ""))
		p.bbses = append(p.bbses, add(fmt.Sprintf("bbs-%d", i+1), mtls.RoleBBS, ""))
		p.auctioneers = append(p.auctioneers, add(fmt.Sprintf("auctioneer-%d", i+1), mtls.RoleAuctioneer, ""))
	}
	for i := range o.Cells {
		id := s.cellID(i)
		cell := add(fmt.Sprintf("rep-%d", i+1), mtls.RoleCell, id)
		cell.cell, cell.zone = id, fmt.Sprintf("z%d", i+1)
		emitter := add(fmt.Sprintf("route-emitter-%d", i+1), mtls.RoleRouteEmitter, id)
		emitter.cell = id
		p.cells, p.emitters = append(p.cells, cell), append(p.emitters, emitter)
	}
	p.nats = add("nats", mtls.RoleNATS, "")
	p.instanceCA, p.instanceKey = certificates.instanceCA()
	p.router, p.routerStatus = add("router", mtls.RoleRouter, ""), next()
	if o.RouterPort != 0 {
		p.router.address = fmt.Sprintf("127.0.0.1:%d", o.RouterPort)
	}
	return p, problem
}

func (p *plan) path(parts ...string) string {
	return filepath.Join(append([]string{p.Folder}, parts...)...)
}

func addresses(nodes []node) map[string]any {
	list := make([]string, 0, len(nodes))
	for _, n := range nodes {
		list = append(list, n.address)
	}
	return map[string]any{"addresses": list}
}

func tlsOf(n node) map[string]any {
	return map[string]any{"ca": n.tls.CA, "certificate": n.tls.Certificate, "key": n.tls.Key}
}

// section is a part of a configuration file.
type section = map[string]any

func base(n node) section { return section{"debug": section{"listen": n.debug}} }

func served(n node) section {
	config := base(n)
	config["grpc"] = section{"listen": n.address, "tls": tlsOf(n)}
	return config
}

func (p *plan) locket(n node, database string) section {
	config := served(n)
	config["database"] = section{"connection_string": database}
	return config
}

func (p *plan) bbs(n node, database string) section {
	config := served(n)
	config["database"] = section{"connection_string": database}
	config["locket"] = addresses(p.lockets)
	config["auctioneer"] = addresses(p.auctioneers)
	config["lock"] = section{"owner": n.name}
	config["encryption"] = section{
		"active_key": "key-1",
		"keys":       []section{{"label": "key-1", "file": p.path("certificates", "encryption-key")}},
	}
	return config
}

func (p *plan) auctioneer(n node) section {
	config := served(n)
	config["locket"] = addresses(p.lockets)
	config["bbs"] = addresses(p.bbses)
	config["lock"] = section{"owner": n.name}
	return config
}

func (p *plan) rep(i int) section {
	n := p.cells[i]
	first, last := p.slot.ports(i)
	config := served(n)
	config["cell"] = section{"id": n.cell, "zone": n.zone, "index": i, "address": n.address}
	config["bbs"] = addresses(p.bbses)
	config["locket"] = addresses(p.lockets)
	executor := section{
		"state_dir": p.path(n.name, "executor"), "memory_mb": 4096, "disk_mb": 16384,
		"instance_identity": section{"ca_certificate": p.instanceCA, "ca_key": p.instanceKey},
		"self_check":        section{"rootfs": "preloaded:" + rootFS},
	}
	if p.ContainerProxies {
		executor["container_proxy"] = p.containerProxy()
	}
	config["executor"] = executor
	config["garden"] = section{
		"socket":           privatedaemon.Socket(p.containerd(i)),
		"state_folder":     p.path(n.name, "garden"),
		"shared_folder":    sharedFolder,
		"preloaded_rootfs": section{rootFS: p.path("rootfs")},
		"network_pool":     p.slot.network(i),
		"external_ip":      "127.0.0.1",
		"host_port_first":  first,
		"host_port_last":   last,
		"init_binary":      filepath.Join(p.Bin, "garden-init"),
		"logger_binary":    filepath.Join(p.Bin, "garden-logger"),
	}
	return config
}

// containerProxy lets in nobody but the router of this cluster. The proxy takes new credentials at once, so that a stop need not
// wait as long as it does by default.
func (p *plan) containerProxy() section {
	router := mtls.Identity{TrustDomain: TrustDomain, Role: mtls.RoleRouter}
	return section{
		"enabled": true, "binary": filepath.Join(p.Bin, "container-proxy"), "reload_time": "1s",
		"require_client_certificates": true, "trusted_ca": p.router.tls.CA, "verify_subject_alt_names": []string{router.String()},
	}
}

// containerd of a cell has a short name, because its socket's path must fit into 107 bytes.
func (p *plan) containerd(i int) string { return p.path(fmt.Sprintf("c%d", i+1)) }

func (p *plan) emitter(n node) section {
	config := base(n)
	config["cell_id"] = n.cell
	config["tls"] = tlsOf(n)
	config["bbs"] = addresses(p.bbses)
	config["nats"] = addresses([]node{p.nats})
	return config
}

func (p *plan) routerConfig() section {
	config := base(p.router)
	config["listen"] = p.router.address
	config["status"] = section{"listen": p.routerStatus, "healthy_after": "0s"}
	config["nats"] = addresses([]node{p.nats})
	config["tls"] = tlsOf(p.router)
	config["access_log"] = section{"file": p.path("logs", "access.log")}
	config["backends"] = section{"ca": p.instanceCA, "certificate": p.router.tls.Certificate, "key": p.router.tls.Key}
	return config
}

// natsConfig is in the format of the NATS server: clients must show a certificate of our authority.
func (p *plan) natsConfig() string {
	return fmt.Sprintf(`listen: %q
http: %q
tls {
  ca_file: %q
  cert_file: %q
  key_file: %q
  verify: true
  min_version: "1.3"
}
`, p.nats.address, p.nats.debug, p.nats.tls.CA, p.nats.tls.Certificate, p.nats.tls.Key)
}

// write writes the configuration of a process, tuned, and returns its path.
func (p *plan) write(name string, config section) (string, error) {
	if p.Tune != nil {
		p.Tune(name, config)
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("writing the configuration of %s: %w", name, err)
	}
	return p.writeText(name+".yml", string(text))
}

func (p *plan) writeText(file, text string) (string, error) {
	path := p.path("config", file)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // it names secrets, it holds none
		return "", fmt.Errorf("writing the configuration %s: %w", file, err)
	}
	return path, nil
}
