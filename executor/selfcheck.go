package executor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"diego.internal/executor/garden"
)

// SelfCheck makes a container now and then, runs a process in it and removes it: an engine may answer and yet not be able
// to do that. Without a root filesystem it is off.
type SelfCheck struct {
	// RootFS is a root filesystem that the engine has without asking anybody, such as "preloaded:<name>".
	RootFS string `yaml:"rootfs"`
	// Path, Args and User of a process that ends with 0. Default: /bin/sh -c "exit 0" as root.
	Path string   `yaml:"path"`
	Args []string `yaml:"args"`
	User string   `yaml:"user"`
	// Interval between checks of an engine that answers and creates what it is asked to. Default 5 min. After a creation
	// that failed, the next check is with the next question to the engine, and so is a check after one that failed.
	Interval time.Duration `yaml:"interval"`
	// Timeout of one attempt; there are three. Default 30 s.
	Timeout time.Duration `yaml:"timeout"`
}

// SetDefaults fills what is zero.
func (s *SelfCheck) SetDefaults() {
	if s.Path == "" {
		s.Path, s.Args = "/bin/sh", []string{"-c", "exit 0"}
	}
	def(&s.Interval, 5*time.Minute)
	def(&s.Timeout, 30*time.Second)
}

// Validate checks the values.
func (s *SelfCheck) Validate() error {
	var problems []error
	if !filepath.IsAbs(s.Path) {
		problems = append(problems, fmt.Errorf("path %q is not absolute", s.Path))
	}
	if s.Interval <= 0 || s.Timeout <= 0 {
		problems = append(problems, errors.New("interval and timeout must be positive"))
	}
	return errors.Join(problems...)
}

// Properties of the containers of a check. Their owner is not ours, so that nothing takes them for containers without a
// record.
const (
	checkOwnerSuffix  = "-check"
	propertyCheckTag  = "tag:healthcheck-tag"
	checkTag          = "healthcheck"
	propertyCheckNet  = propertyNetwork + "healthcheck"
	selfCheckAttempts = 3
)

var errUnchecked = errors.New("the container engine has not been checked yet")

// selfCheckDue says whether a full check is wanted now: after so long, after a failure, or when a creation has failed.
func (c *Client) selfCheckDue(last time.Time) bool {
	if c.cfg.SelfCheck.RootFS == "" {
		return false
	}
	healthy, _ := c.Healthy()
	return c.suspicious.Swap(false) || !healthy || time.Since(last) >= c.cfg.SelfCheck.Interval
}

// selfCheck tries a few times, because a cell that calls itself unhealthy gets no work.
func (c *Client) selfCheck(ctx context.Context) error {
	var err error
	for n := range selfCheckAttempts {
		if n > 0 && !wait(ctx, time.Second) {
			break
		}
		if err = c.selfCheckOnce(ctx); err == nil {
			return nil
		}
	}
	return err
}

func (c *Client) selfCheckOnce(ctx context.Context) (err error) {
	if err := c.removeCheckContainers(ctx); err != nil {
		return err
	}
	handle := "check-" + strings.ToLower(rand.Text())
	// The end of a check is not cut off with it: nothing is to be left.
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.EngineCheckTimeout)
		defer cancel()
		err = errors.Join(err, destroyInEngine(cleanup, c.engine, handle))
	}()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SelfCheck.Timeout)
	defer cancel()
	inside, err := c.engine.Create(ctx, garden.ContainerSpec{
		Handle: handle,
		Image:  garden.Image{URI: c.cfg.SelfCheck.RootFS},
		Properties: garden.Properties{
			propertyOwner:    c.cfg.OwnerName + checkOwnerSuffix,
			propertyCheckTag: checkTag,
			propertyCheckNet: "true",
		},
	})
	if err != nil {
		return fmt.Errorf("creating a container for a check: %w", err)
	}
	process, err := inside.Run(ctx, garden.ProcessSpec{
		ID: "check", Path: c.cfg.SelfCheck.Path, Args: c.cfg.SelfCheck.Args, User: c.cfg.SelfCheck.User,
	}, garden.ProcessIO{})
	if err != nil {
		return fmt.Errorf("running a process for a check: %w", err)
	}
	status, err := process.Wait(ctx)
	if err != nil {
		return fmt.Errorf("waiting for the process of a check: %w", err)
	}
	if status.Code != 0 {
		return fmt.Errorf("Healthcheck exited with %d", status.Code) //nolint:staticcheck // operators know the text
	}
	return nil
}

// removeCheckContainers removes what checks of this or an earlier process left.
func (c *Client) removeCheckContainers(ctx context.Context) error {
	found, err := c.engine.Containers(ctx, garden.Properties{
		propertyOwner:           c.cfg.OwnerName + checkOwnerSuffix,
		garden.PropertyStateAll: "all",
	})
	if err != nil {
		return fmt.Errorf("listing containers of checks: %w", err)
	}
	var problems []error
	for _, inside := range found {
		problems = append(problems, destroyInEngine(ctx, c.engine, inside.Handle()))
	}
	return errors.Join(problems...)
}
