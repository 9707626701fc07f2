package telemetry

import (
	"errors"
	"log/slog"
	"net"
	"strings"

	"diego.internal/servicekit/config"
)

// Config is embedded in the configuration of every process with yaml:",inline".
type Config struct {
	Log   LogConfig   `yaml:"log"`
	Debug DebugConfig `yaml:"debug"`
	Trace TraceConfig `yaml:"trace"`

	digest string // of the file that this was read from
}

// SetFileDigest is how package config tells which file the configuration comes from, so that every process shows
// it without being asked to: in the start line, in /readyz and in application_info.
func (c *Config) SetFileDigest(digest string) { c.digest = digest }

// LogConfig is the section log.
type LogConfig struct {
	Level string `yaml:"level"` // debug, info, warn or error; default info; can be changed at run time
}

// DebugConfig is the section debug.
type DebugConfig struct {
	Listen string `yaml:"listen"` // loopback address of the debug listener; default 127.0.0.1:0
}

// TraceConfig is the section trace. Without an endpoint no span is made, but trace ids still go from
// process to process and into the logs.
type TraceConfig struct {
	Endpoint    string  `yaml:"endpoint"`     // host:port of an OTLP collector (gRPC, mutual TLS); default none
	SampleRatio float64 `yaml:"sample_ratio"` // share of the traces begun here, 0 to 1; default 1
	CA          string  `yaml:"ca"`           // PEM file; the collector is verified by its host name
	Certificate string  `yaml:"certificate"`  // PEM file, read for each handshake
	Key         string  `yaml:"key"`          // PEM file, read for each handshake
}

// SetDefaults fills in what most processes use.
func (c *LogConfig) SetDefaults() { c.Level = "info" }

// SetDefaults lets the system choose a port, which the start line tells.
func (c *DebugConfig) SetDefaults() { c.Listen = "127.0.0.1:0" }

// SetDefaults samples every trace; an installation with much traffic lowers it.
func (c *TraceConfig) SetDefaults() { c.SampleRatio = 1 }

// Validate checks the name of the level.
func (c *LogConfig) Validate() error {
	if _, err := parseLevel(c.Level); err != nil {
		return config.Invalid("level", "%v", err)
	}
	return nil
}

// Validate refuses addresses that other machines reach: the listener shows profiles and takes
// commands without asking who calls.
func (c *DebugConfig) Validate() error {
	if c.Listen == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return config.Invalid("listen", "%v", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return config.Invalid("listen", "%q is no loopback address", c.Listen)
	}
	return nil
}

// Validate requires the files of mutual TLS with an endpoint.
func (c *TraceConfig) Validate() error {
	if c.Endpoint == "" {
		return nil
	}
	var problems []error
	if _, _, err := net.SplitHostPort(c.Endpoint); err != nil {
		problems = append(problems, config.Invalid("endpoint", "%v", err))
	}
	if c.SampleRatio < 0 || c.SampleRatio > 1 {
		problems = append(problems, config.Invalid("sample_ratio", "%v is not between 0 and 1", c.SampleRatio))
	}
	for key, file := range map[string]string{"ca": c.CA, "certificate": c.Certificate, "key": c.Key} {
		if file == "" {
			problems = append(problems, config.Invalid(key, "is missing"))
		}
	}
	return errors.Join(problems...)
}

func parseLevel(name string) (slog.Level, error) {
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, errors.New("the level must be debug, info, warn or error")
}
