package seal

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"diego.internal/servicekit/config"
)

// Config is the section "encryption" of the configuration.
type Config struct {
	// ActiveLabel names the key that new values are sealed under. Required.
	ActiveLabel string `yaml:"active_key"`
	// Keys that stored values may be sealed under; keep an old one until nothing uses it. At least one.
	Keys []KeyConfig `yaml:"keys"`
	// Rotation says how fast values under other keys than the active one are sealed anew.
	Rotation RotationConfig `yaml:"rotation"`
}

// RotationConfig bounds the work of a rotation.
type RotationConfig struct {
	// Batch is how many values are sealed anew at once. Default 100.
	Batch int `yaml:"batch"`
	// Pause is the least time between two batches. Default 50ms.
	Pause time.Duration `yaml:"pause"`
}

// SetDefaults fills what the file may leave out.
func (c *RotationConfig) SetDefaults() { *c = RotationConfig{Batch: 100, Pause: 50 * time.Millisecond} }

// Validate returns all problems of the section.
func (c *RotationConfig) Validate() error {
	var problems []error
	if c.Batch < 1 || c.Batch > 10_000 {
		problems = append(problems, config.Invalid("batch", "must be from 1 to 10000, is %d", c.Batch))
	}
	if c.Pause <= 0 {
		problems = append(problems, config.Invalid("pause", "must be more than 0, is %v", c.Pause))
	}
	return errors.Join(problems...)
}

// KeyConfig names one key and the file that holds it.
type KeyConfig struct {
	// Label is stored with every value: 1 to 127 bytes, unique.
	Label string `yaml:"label"`
	// File holds 32 random bytes: as they are, as 64 hexadecimal digits, or as base64.
	File config.SecretFile `yaml:"file"`
}

// Validate returns all problems that can be seen without reading the files.
func (c *Config) Validate() error {
	var problems []error
	if len(c.Keys) == 0 {
		problems = append(problems, config.Invalid("keys", "at least one is required"))
	}
	active := false
	for i, key := range c.Keys {
		if key.Label == "" || len(key.Label) > maxLabel {
			problems = append(problems, config.Invalid("keys", "label of key %d: must have 1 to %d bytes", i+1, maxLabel))
		}
		if key.File == "" {
			problems = append(problems, config.Invalid("keys", "file of key %d: is missing", i+1))
		}
		active = active || key.Label == c.ActiveLabel
	}
	if !active {
		problems = append(problems, config.Invalid("active_key", "%q is not among the keys", c.ActiveLabel))
	}
	return errors.Join(problems...)
}

// Load reads the key files and returns the keyring.
func Load(cfg Config) (*Keyring, error) {
	keys := make([]Key, 0, len(cfg.Keys))
	for _, kc := range cfg.Keys {
		content, err := os.ReadFile(string(kc.File))
		if err != nil {
			return nil, fmt.Errorf("reading key %q: %w", kc.Label, err)
		}
		key, err := ParseKey(kc.Label, content)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return New(keys, cfg.ActiveLabel)
}

// ParseKey reads a key as it is written in a file. The content never appears in the error.
func ParseKey(label string, content []byte) (Key, error) {
	raw := content
	if len(content) != keySize {
		text := strings.TrimSpace(string(content))
		var err error
		if raw, err = hex.DecodeString(text); err != nil {
			raw, err = base64.StdEncoding.DecodeString(text)
		}
		if err != nil || len(raw) != keySize {
			return Key{}, fmt.Errorf("parsing key %q: want %d bytes, raw, as hexadecimal or as base64", label, keySize)
		}
	}
	key := Key{Label: label}
	copy(key.Secret[:], raw)
	return key, nil
}
