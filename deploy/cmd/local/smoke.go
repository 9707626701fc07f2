package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"diego.internal/deploy/cluster"
)

// smoke runs the sample, checks every answer, stops everything and checks that nothing is left. Its last line of output is
// "smoke: ok", and only then does it return nil.
func smoke(ctx context.Context, options cluster.Options) error {
	if err := cluster.Remove(ctx, options.Folder, options.Bin); err != nil {
		return err
	}
	before, err := cluster.Look(ctx, options.Folder)
	if err != nil {
		return err
	}
	began := time.Now()
	fmt.Println("starting")
	c, err := cluster.Start(ctx, options)
	if err != nil {
		return err
	}
	checked := check(ctx, c)
	if checked != nil {
		checked = fmt.Errorf("%w\n%s", checked, c.Blame())
	} else {
		fmt.Printf("  all answers right after %.1f s\n", time.Since(began).Seconds())
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	fmt.Println("stopping")
	if err := errors.Join(checked, c.Stop(stopping)); err != nil {
		return err
	}
	if err := nothingLeft(stopping, options.Folder, before); err != nil {
		return err
	}
	fmt.Println("smoke: ok")
	return nil
}

// leftTimeout is how long what is new on the machine may stay. Ours is gone at once; what others do there meanwhile, such
// as tests with containers, passes.
const leftTimeout = 20 * time.Second

func nothingLeft(ctx context.Context, folder string, before cluster.Machine) error {
	ctx, cancel := context.WithTimeout(ctx, leftTimeout)
	defer cancel()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		after, err := cluster.Look(context.WithoutCancel(ctx), folder)
		if err != nil {
			return err
		}
		left := after.Since(before)
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			slices.Sort(left)
			return fmt.Errorf("left behind: %q", left)
		case <-ticker.C:
		}
	}
}

// check runs the task and the application and looks at what they answer.
func check(ctx context.Context, c *cluster.Cluster) error {
	s, err := newSample(ctx, c)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.push(ctx); err != nil {
		return err
	}
	if err := s.waitTask(ctx); err != nil {
		return err
	}
	if err := s.waitRunning(ctx, sampleInstances); err != nil {
		return err
	}
	answers, err := s.askAll(ctx, sampleInstances)
	if err != nil {
		return err
	}
	for index := range sampleInstances {
		if _, ok := answers[strconv.Itoa(index)]; !ok {
			return fmt.Errorf("instance %d never answered; answers: %q", index, answers)
		}
	}
	if _, err := s.identity(ctx); err != nil {
		return err
	}
	return cfdot(ctx, c, "actual-lrps", "-o", "table")
}
