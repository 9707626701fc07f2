package postgres

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"diego.internal/servicekit/config"
)

// Config is the section database.
type Config struct {
	// ConnectionString is a URL or a list of key=value, as libpq takes them. Several hosts with
	// target_session_attrs=read-write follow a primary that moves.
	ConnectionString string `yaml:"connection_string"`
	// PasswordFile holds the password, without which the string needs none. It is read for each new
	// connection, so a changed password needs no restart.
	PasswordFile config.SecretFile `yaml:"password_file"`
	// MaxConnections is the size of the pool; default 20.
	MaxConnections int32 `yaml:"max_connections"`
	// ConnectTimeout bounds one attempt to reach one host; default 5s.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// StatementTimeout bounds one statement on the server; default 30s. Migrations are exempt.
	StatementTimeout time.Duration `yaml:"statement_timeout"`
	// OpenTimeout is how long Open waits for a database that is not there yet; default 30s.
	OpenTimeout time.Duration `yaml:"open_timeout"`
}

// Defaults of Config; zero values mean these too.
const (
	defaultMaxConnections   = 20
	defaultConnectTimeout   = 5 * time.Second
	defaultStatementTimeout = 30 * time.Second
	defaultOpenTimeout      = 30 * time.Second
)

// SetDefaults fills in everything but the connection string.
func (c *Config) SetDefaults() { *c = c.withDefaults() }

func (c Config) withDefaults() Config {
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultMaxConnections
	}
	for _, d := range []struct {
		value   *time.Duration
		instead time.Duration
	}{
		{&c.ConnectTimeout, defaultConnectTimeout},
		{&c.StatementTimeout, defaultStatementTimeout},
		{&c.OpenTimeout, defaultOpenTimeout},
	} {
		if *d.value == 0 {
			*d.value = d.instead
		}
	}
	return c
}

// Validate reports everything that cannot work.
func (c *Config) Validate() error {
	var problems []error
	if c.ConnectionString == "" {
		problems = append(problems, config.Invalid("connection_string", "is missing"))
	} else if _, err := pgx.ParseConfig(c.ConnectionString); err != nil {
		// pgx masks the password in its own text.
		problems = append(problems, config.Invalid("connection_string", "%v", err))
	}
	if c.MaxConnections < 0 {
		problems = append(problems, config.Invalid("max_connections", "must not be negative"))
	}
	for key, d := range map[string]time.Duration{
		"connect_timeout": c.ConnectTimeout, "statement_timeout": c.StatementTimeout, "open_timeout": c.OpenTimeout,
	} {
		if d < 0 {
			problems = append(problems, config.Invalid(key, "must not be negative"))
		}
	}
	return errors.Join(problems...)
}

// MarshalYAML masks a password in the connection string, for printing what is in effect.
func (c Config) MarshalYAML() (any, error) {
	type plain Config // without this method
	masked := plain(c)
	if parsed, err := pgx.ParseConfig(c.ConnectionString); err == nil {
		masked.ConnectionString = describe(&parsed.Config)
	}
	return masked, nil
}

// describe is a connection string for people: no password, and what pgx made of it.
func describe(c *pgconn.Config) string {
	var text strings.Builder
	fmt.Fprintf(&text, "host=%s port=%d user=%s dbname=%s", c.Host, c.Port, c.User, c.Database)
	for _, fallback := range c.Fallbacks {
		if fallback.Host != c.Host || fallback.Port != c.Port {
			fmt.Fprintf(&text, " or host=%s port=%d", fallback.Host, fallback.Port)
		}
	}
	return text.String()
}
