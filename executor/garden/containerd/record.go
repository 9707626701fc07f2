package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/containerd/network"
)

// phase of a container on disk.
type phase string

const (
	phaseCreating   phase = "creating"
	phaseCreated    phase = "created"
	phaseDestroying phase = "destroying"
)

// record is what must be known about a container after a restart. It is written before the first resource is taken
// and removed after the last was given back, so that a kill at any moment leaves nothing that nobody knows.
type record struct {
	Handle     string              `json:"handle"`
	ID         string              `json:"id"`
	Phase      phase               `json:"phase"`
	Privileged bool                `json:"privileged"`
	Env        []garden.EnvVar     `json:"env"`
	Limits     garden.Limits       `json:"limits"`
	Properties garden.Properties   `json:"properties"`
	NetOut     []garden.NetOutRule `json:"net_out"`
	Lease      network.Lease       `json:"lease"`
	CreatedAt  time.Time           `json:"created_at"`
	// Users are those of the container's user namespace; zero: it has none.
	Users UserRange `json:"users,omitzero"`
	// Image is what the image's configuration says about processes.
	Image imageConfig `json:"image,omitzero"`
	// ImageBytes is the size of the image, DiskBase what an empty disk of this container uses.
	ImageBytes uint64 `json:"image_bytes"`
	DiskBase   uint64 `json:"disk_base"`
	// Spawns says that the init starts processes and that the container has a keeper of output.
	Spawns bool `json:"spawns,omitempty"`
	// Pid of the init, valid while the phase is created and the machine has not restarted.
	Pid int `json:"pid"`
}

func (r *record) attachment() network.Attachment {
	return network.Attachment{Handle: r.Handle, Lease: r.Lease, NetOut: r.NetOut}
}

func (c *Config) folder(id string) string { return filepath.Join(c.containersFolder(), id) }

// save replaces the record of a container. It is not flushed to the disk: containers do not survive what would lose it.
func (c *Config) save(r *record) error {
	return writeJSON(filepath.Join(c.folder(r.ID), "container.json"), r)
}

// loadRecords reads all records. A folder without a readable one belongs to a creation or destruction that was cut
// off; it yields a record in phase destroying.
func (c *Config) loadRecords() ([]*record, error) {
	entries, err := os.ReadDir(c.containersFolder())
	if err != nil {
		return nil, fmt.Errorf("listing records: %w", err)
	}
	var records []*record
	for _, entry := range entries {
		r := &record{}
		if err := readJSON(filepath.Join(c.folder(entry.Name()), "container.json"), r); err != nil || r.ID != entry.Name() {
			r = &record{Handle: entry.Name(), ID: entry.Name(), Phase: phaseDestroying}
		}
		records = append(records, r)
	}
	return records, nil
}

// writeJSON replaces a file as a whole: a reader sees the old or the new content.
func writeJSON(path string, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func readJSON(path string, value any) error {
	content, err := os.ReadFile(path) //nolint:gosec // below our own state folder
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if err := json.Unmarshal(content, value); err != nil {
		return fmt.Errorf("decoding %s: %w", path, err)
	}
	return nil
}

func isMissing(err error) bool { return errors.Is(err, os.ErrNotExist) }

func ignoreMissing(err error) error {
	if isMissing(err) {
		return nil
	}
	return err
}
