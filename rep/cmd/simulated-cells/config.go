package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"diego.internal/executor"
	"diego.internal/locket/lockclient"
	"diego.internal/rep/internal/cell"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

// maxCells is how many indexes there are: each has its own part of the networks below.
const maxCells = 4096

// Config is the configuration file.
type Config struct {
	telemetry.Config `yaml:",inline"`

	// Cells says which cells there are.
	Cells CellsConfig `yaml:"cells"`
	// Certificates says where their certificates are.
	Certificates CertificatesConfig `yaml:"certificates"`
	// BBS are the addresses of all BBSs; the active one is found among them.
	BBS grpcclient.Config `yaml:"bbs"`
	// StoresConfig says where the cells are present: the section locket, or consul.
	lockclient.StoresConfig `yaml:",inline"`
	// Presence, Reconcile and Evacuation are those of a rep.
	Presence   cell.PresenceConfig   `yaml:"presence"`
	Reconcile  cell.ReconcileConfig  `yaml:"reconcile"`
	Evacuation cell.EvacuationConfig `yaml:"evacuation"`
	// Executor is that of a rep, but for the amounts, which the section cells has. The cells have folders below its
	// state_dir, with nothing in them unless workloads download.
	Executor executor.Config `yaml:"executor"`
	// Behaviour says what becomes of containers and processes.
	Behaviour Behaviour `yaml:"behaviour"`
}

// Validate checks what no section can check alone.
func (c *Config) Validate() error {
	problems := []error{c.CheckStores(c.Presence.Backend)}
	if c.Executor.MemoryMB != 0 || c.Executor.DiskMB != 0 {
		problems = append(problems, errors.New("executor: memory_mb and disk_mb belong in the section cells"))
	}
	return errors.Join(problems...)
}

// CellsConfig is the section cells.
type CellsConfig struct {
	// Count of cells in this process, from 1 to 4096.
	Count int `yaml:"count"`
	// First is the index of the first one. Several processes share the indexes from 0 to 4095. Default 0.
	First int `yaml:"first"`
	// IDPrefix and the index are the id of a cell. Default "cell-".
	IDPrefix string `yaml:"id_prefix"`
	// Zones take the cells in turn, by index. Default "z1".
	Zones []string `yaml:"zones"`
	// Host is the address at which all cells listen, each at a port of its own. Default 127.0.0.1.
	Host string `yaml:"host"`
	// MemoryMB, DiskMB and Containers are what each cell offers. Default 32,768, 65,536 and 500.
	MemoryMB   int `yaml:"memory_mb"`
	DiskMB     int `yaml:"disk_mb"`
	Containers int `yaml:"containers"`
	// RootFS are the preloaded root filesystems that the cells claim to have. Default "sample".
	RootFS []string `yaml:"rootfs"`
	// PlacementTags, OptionalPlacementTags and MaxStarting are those of a rep.
	PlacementTags         []string `yaml:"placement_tags"`
	OptionalPlacementTags []string `yaml:"optional_placement_tags"`
	MaxStarting           int32    `yaml:"max_starting"`
	// StartInterval is the pause between the starts of two cells, which also spreads their heartbeats. Default 5 ms.
	StartInterval time.Duration `yaml:"start_interval"`
	// RestartAfter is when a cell that was evacuated comes back; 0 = never. Default 1 s.
	RestartAfter time.Duration `yaml:"restart_after"`
}

// SetDefaults fills what the file may leave out.
func (c *CellsConfig) SetDefaults() {
	*c = CellsConfig{
		IDPrefix: "cell-", Zones: []string{"z1"}, Host: "127.0.0.1", MemoryMB: 32 * 1024, DiskMB: 64 * 1024, Containers: 500,
		RootFS: []string{"sample"}, StartInterval: 5 * time.Millisecond, RestartAfter: time.Second,
	}
}

// Validate checks the ranges, and one cell for all.
func (c *CellsConfig) Validate() error {
	var problems []error
	if c.Count < 1 || c.First < 0 || c.First+c.Count > maxCells {
		problems = append(problems, fmt.Errorf("count and first: indexes must be from 0 to %d and at least one, are %d from %d", maxCells-1, c.Count, c.First))
	}
	if len(c.Zones) == 0 {
		return errors.Join(append(problems, errors.New("zones: must be set"))...)
	}
	if addr, err := netip.ParseAddr(c.Host); err != nil || addr.IsUnspecified() {
		problems = append(problems, fmt.Errorf("host: must be one address of this machine, is %q", c.Host))
	}
	if c.MemoryMB <= 0 || c.DiskMB <= 0 || c.Containers <= 0 {
		problems = append(problems, errors.New("memory_mb, disk_mb and containers: must be positive"))
	}
	if c.StartInterval < 0 || c.RestartAfter < 0 {
		problems = append(problems, errors.New("start_interval and restart_after: must not be negative"))
	}
	example := c.describe(c.First + max(c.Count, 1) - 1)
	return errors.Join(append(problems, example.Validate())...)
}

// describe is the cell of an index.
func (c *CellsConfig) describe(index int) cell.Description {
	return cell.Description{
		ID: c.IDPrefix + strconv.Itoa(index), Zone: c.Zones[index%len(c.Zones)], Index: int32(index), //nolint:gosec // below maxCells
		PlacementTags: c.PlacementTags, OptionalPlacementTags: c.OptionalPlacementTags, MaxStarting: c.MaxStarting,
	}
}

// CertificatesConfig is the section certificates.
type CertificatesConfig struct {
	// CA is the bundle that all peers are verified with.
	CA string `yaml:"ca"`
	// Folder has <id>.crt and <id>.key of each cell.
	Folder string `yaml:"folder"`
}

// Validate requires both. That every cell has its files is found out at its start.
func (c *CertificatesConfig) Validate() error {
	if c.CA == "" || c.Folder == "" {
		return errors.New("ca and folder: must be set")
	}
	return nil
}

func (c *CertificatesConfig) of(id string) mtls.Config {
	return mtls.Config{CA: c.CA, Certificate: filepath.Join(c.Folder, id+".crt"), Key: filepath.Join(c.Folder, id+".key")}
}
