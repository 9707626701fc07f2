// Package cluster starts the whole system on one machine, as real processes with real certificates, on allocated ports and in
// one folder, and stops it so that nothing is left. `make run` and the end-to-end tests use it.
//
// It knows the configuration of every process and nothing about what they do. It is for root, on Linux.
package cluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"time"
)

// Options say what to start.
type Options struct {
	// Folder holds everything: certificates, configuration, logs, data. It is emptied at start.
	Folder string
	// Bin is the folder of the binaries that `make build` makes.
	Bin string
	// Cells is how many cells to start, in zones z1, z2, … in turn. From 0 to 4. With 0 there are no container engines and
	// no route emitters either: a control plane for cells that the caller adds with Cluster.Add.
	Cells int
	// RouterPort is where the router listens on 127.0.0.1; 0 picks a free port.
	RouterPort int
	// ContainerProxies puts a TLS proxy before the ports of instances. The router reaches them through it, and both know each
	// other by their certificates.
	ContainerProxies bool
	// Tune may change the configuration of a process before it is written.
	Tune func(process string, config map[string]any)
	// Progress takes a line for each step; nil takes none.
	Progress io.Writer
	// StartTimeout bounds Start. Default 2 min.
	StartTimeout time.Duration
}

// checkPort finds out now what would otherwise show as a router that never becomes ready.
func checkPort(port int) error {
	if port == 0 {
		return nil
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) //nolint:noctx // returns at once
	if err != nil {
		return fmt.Errorf("the port of the router cannot be had: %w", err)
	}
	_ = listener.Close() // it was only tried
	return nil
}

func (o *Options) complete() error {
	var problems []error
	for _, path := range []*string{&o.Folder, &o.Bin} {
		if *path == "" {
			problems = append(problems, errors.New("folder and bin must be given"))
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			problems = append(problems, err)
		}
		*path = absolute
	}
	if o.Cells < 0 || o.Cells > maxCells {
		problems = append(problems, fmt.Errorf("cells must be from 0 to %d, not %d", maxCells, o.Cells))
	}
	if err := checkPort(o.RouterPort); err != nil {
		problems = append(problems, err)
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 2 * time.Minute
	}
	return errors.Join(problems...)
}
