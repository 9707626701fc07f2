package lockclient

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"diego.internal/locket/internal/lease"
	"diego.internal/servicekit/config"
)

// Config is the section "lock" of a process that holds a lock or a presence.
type Config struct {
	// Owner names this instance among its peers, for example "bbs-1". At most 200 characters.
	Owner string `yaml:"owner"`
	// TTL is how long the claim outlives its holder, from 3 s to 300 s. Default 5 s.
	TTL time.Duration `yaml:"ttl"`
	// Backend is the store of the claim, "locket" or "consul". Default "locket". All instances of a
	// process have to choose the same one, and so has whoever watches its presences.
	Backend Kind `yaml:"backend"`
}

// SetDefaults fills what the file may leave out.
func (c *Config) SetDefaults() { c.TTL = lease.DefaultTTL }

// Validate returns all problems, joined.
func (c *Config) Validate() error {
	var problems []error
	if c.Owner == "" || len(c.Owner) > maxOwner {
		problems = append(problems, config.Invalid("owner", "must have 1 to %d characters, has %d", maxOwner, len(c.Owner)))
	}
	if err := checkTTL(c.TTL); err != nil {
		problems = append(problems, config.Invalid("ttl", "%v", err))
	}
	if err := c.Backend.Validate(); err != nil {
		problems = append(problems, config.Invalid("backend", "%v", err))
	}
	return errors.Join(problems...)
}

const maxOwner = 200

func checkTTL(ttl time.Duration) error {
	if ttl < lease.MinHeldTTL || ttl > lease.MaxTTL {
		return fmt.Errorf("a ttl must be from %v to %v, is %v", lease.MinHeldTTL, lease.MaxTTL, ttl)
	}
	return nil
}

// ownerOfThisRun makes the configured name unique for this run. A process that is started again
// under its old name must not renew, and so share, a claim of which the former process may still
// believe that it is its own.
func ownerOfThisRun(name string) string {
	suffix := rand.Text()[:16]
	if name == "" {
		return suffix
	}
	return name + "/" + suffix
}
