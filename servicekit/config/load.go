// Package config owns how a process reads its configuration: one strict YAML file, all problems in
// one error with file and line, and the flags -config, -check and -version. It does not own any
// setting; each package declares its section as a struct with SetDefaults and Validate.
package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"

	"go.yaml.in/yaml/v3"
)

// ErrDone says that -check or -version did its work and that the process shall end, successfully.
var ErrDone error = &exit{err: errors.New("nothing more to do"), code: 0}

// exitConfig is lifecycle.ExitConfig. Package lifecycle finds it by the method ExitCode, since an
// import would close a circle.
const exitConfig = 2

// exit is an error with the exit code of the process.
type exit struct {
	err  error
	code int
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }
func (e *exit) ExitCode() int { return e.code }

func bad(err error) error { return &exit{err: err, code: exitConfig} }

// flags are what the command line of every process may hold.
type flags struct {
	file    string
	check   bool
	version bool
}

// Load reads the file named by -config into a T.
//
// SetDefaults is called before decoding and Validate after it, each on every nested struct that has
// it, inner ones first, and on T itself. Unknown keys, values that do not fit and everything that
// Validate finds come back as one error, which carries exit code ExitConfig. With -check the
// effective configuration, or the error, is all there is; with -version only the version is printed;
// both return ErrDone.
func Load[T any](args []string) (T, error) {
	var cfg T
	fl, err := parseFlags(args)
	if err != nil {
		return cfg, err
	}
	if fl.version {
		fmt.Printf("%s %s\n", BuildVersion(), runtime.Version())
		return cfg, ErrDone
	}
	if fl.file == "" {
		return cfg, bad(errors.New("the flag -config FILE is missing"))
	}
	data, err := os.ReadFile(fl.file)
	if err != nil {
		return cfg, bad(fmt.Errorf("reading the configuration: %w", err))
	}
	if err := decode(fl.file, data, &cfg); err != nil {
		return cfg, bad(err)
	}
	if fl.check {
		return cfg, printEffective(os.Stdout, cfg)
	}
	if d, ok := any(&cfg).(interface{ SetFileDigest(digest string) }); ok {
		d.SetFileDigest(digest(data))
	}
	return cfg, nil
}

// Defaults returns what an empty file would make of a T, whether or not Validate would take it. Sections that are
// pointers are left out.
func Defaults[T any]() T {
	var cfg T
	setDefaults(reflect.ValueOf(&cfg))
	return cfg
}

// digest is the first 12 hexadecimal digits of the SHA-256 of a file: it tells two running processes with
// different files apart.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:12]
}

func parseFlags(args []string) (flags, error) {
	var fl flags
	set := flag.NewFlagSet("", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&fl.file, "config", "", "configuration `file` (YAML)")
	set.BoolVar(&fl.check, "check", false, "validate the configuration, print what is in effect, and end")
	set.BoolVar(&fl.version, "version", false, "print the version and end")
	err := set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		set.SetOutput(os.Stdout)
		set.PrintDefaults()
		return fl, ErrDone
	case err != nil:
		return fl, bad(err)
	case set.NArg() > 0:
		return fl, bad(fmt.Errorf("unexpected argument %q", set.Arg(0)))
	}
	return fl, nil
}

// printEffective writes cfg with its defaults. Secrets are paths to files; a section that can hold
// one in another way masks it in its MarshalYAML.
func printEffective(w io.Writer, cfg any) error {
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := enc.Encode(cfg); err != nil {
		return fmt.Errorf("printing the effective configuration: %w", err)
	}
	if _, err := w.Write(buf.Bytes()); err != nil {
		return fmt.Errorf("printing the effective configuration: %w", err)
	}
	return ErrDone
}
