package cluster

import (
	"context"
	"fmt"

	"diego.internal/executor/garden/containerd/privatedaemon"
)

// LoseMachine does to cell i (from 0) what the loss of its machine does: rep, route emitter, container engine and containers
// are gone at once and nobody can say goodbye.
func (c *Cluster) LoseMachine(i int) error {
	c.Process(c.plan.cells[i].name).Kill()
	c.Process(c.plan.emitters[i].name).Kill()
	c.containers[i].Kill()
	if err := privatedaemon.Sweep(c.plan.containerd(i)); err != nil {
		return fmt.Errorf("losing cell %d: %w", i, err)
	}
	return nil
}

// BootMachine brings a lost cell back, as after a restart of its machine.
func (c *Cluster) BootMachine(ctx context.Context, i int) error {
	if err := c.containers[i].Start(ctx); err != nil {
		return fmt.Errorf("booting cell %d: %w", i, err)
	}
	if err := c.Process(c.plan.cells[i].name).Start(); err != nil {
		return err
	}
	return c.Process(c.plan.emitters[i].name).Start()
}

// RestartContainerd ends the container engine of cell i and starts it again; its containers go on meanwhile.
func (c *Cluster) RestartContainerd(ctx context.Context, i int) error {
	c.containers[i].Kill()
	if err := c.containers[i].Start(ctx); err != nil {
		return fmt.Errorf("restarting the container engine of cell %d: %w", i, err)
	}
	return nil
}
