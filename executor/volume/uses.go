package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A file of an owner, NAME.json, lists its uses. It is written before a driver is asked to mount and goes when all is
// unmounted, so that whoever finds it later knows what may be mounted and for whom.
const usesForm = ".json"

type savedUse struct {
	Driver string `json:"driver"`
	Volume string `json:"volume"`
	Digest string `json:"digest"`
	Path   string `json:"path,omitempty"`
}

// load reads the files of all owners. One that cannot be read is dropped and told: a volume may stay mounted for nobody then.
func (v *Volumes) load(keep map[string]bool) error {
	entries, err := os.ReadDir(v.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing uses of volumes: %w", err)
	}
	for _, e := range entries {
		name, isUses := strings.CutSuffix(e.Name(), usesForm)
		path := filepath.Join(v.cfg.Dir, e.Name())
		if isUses {
			uses, err := readUses(path)
			if err == nil {
				v.owners[name] = &owner{uses: uses, gone: !keep[name]}
				continue
			}
			v.cfg.Log.Error("uses-of-volumes-unusable", slog.String("handle", name), slog.Any("error", err))
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("removing uses of volumes: %w", err)
		}
	}
	return nil
}

func readUses(path string) (map[key]use, error) {
	content, err := os.ReadFile(path) //nolint:gosec // below our own state folder
	if err != nil {
		return nil, fmt.Errorf("reading uses of volumes: %w", err)
	}
	var saved []savedUse
	if err := json.Unmarshal(content, &saved); err != nil {
		return nil, fmt.Errorf("decoding uses of volumes: %w", err)
	}
	uses := make(map[key]use, len(saved))
	for _, s := range saved {
		if s.Driver == "" || s.Volume == "" {
			return nil, errors.New("decoding uses of volumes: one without a driver or a volume")
		}
		uses[key{driver: s.Driver, volume: s.Volume}] = use{Digest: s.Digest, Path: s.Path}
	}
	return uses, nil
}

// note remembers a use, also on disk.
func (v *Volumes) note(ownerName string, k key, u use) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.owners[ownerName]
	if o == nil {
		o = &owner{uses: map[key]use{}}
		v.owners[ownerName] = o
	}
	o.uses[k] = u
	return v.saveLocked(ownerName)
}

// forget is the opposite of note.
func (v *Volumes) forget(ownerName string, k key) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.owners[ownerName]
	if o == nil {
		return nil
	}
	delete(o.uses, k)
	if len(o.uses) > 0 {
		return v.saveLocked(ownerName)
	}
	delete(v.owners, ownerName)
	if err := os.Remove(v.usesOf(ownerName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting uses of volumes: %w", err)
	}
	return nil
}

func (v *Volumes) saveLocked(ownerName string) error {
	var saved []savedUse
	for k, u := range v.owners[ownerName].uses {
		saved = append(saved, savedUse{Driver: k.driver, Volume: k.volume, Digest: u.Digest, Path: u.Path})
	}
	content, err := json.Marshal(saved)
	if err != nil {
		return fmt.Errorf("encoding uses of volumes: %w", err)
	}
	if err := os.MkdirAll(v.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("making the folder of uses of volumes: %w", err)
	}
	path := v.usesOf(ownerName)
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return fmt.Errorf("writing uses of volumes: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replacing uses of volumes: %w", err)
	}
	return nil
}

func (v *Volumes) usesOf(ownerName string) string {
	return filepath.Join(v.cfg.Dir, ownerName+usesForm)
}

// activateTime bounds the question whether a driver is there.
const activateTime = 5 * time.Second
