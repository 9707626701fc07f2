package executor

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden/simulated"
)

// TestIdleContainersHaveOneGoroutine: what a container costs while nothing happens to it is what bounds how many of them one
// process can host. It counts the goroutines of the test binary, so it does not run beside other tests.
func TestIdleContainersHaveOneGoroutine(t *testing.T) { //nolint:paralleltest // see above
	const containers = 200
	before := runtime.NumGoroutine()
	engine := simulated.New(simulated.Config{})
	c := newCell(t, nil)
	c.engine, c.cfg.Engine, c.cfg.Dial, c.cfg.Ephemeral = engine, engine, engine.Dial, true
	c.open()
	defer c.stop()
	for i := range containers {
		c.run(fmt.Sprintf("i-%d", i), RunInfo{
			Action: new(process("/app", "APP")),
			CheckDefinition: &CheckDefinition{
				Checks:          []Check{{TCP: &TCPCheck{Port: 8080}}, {HTTP: &HTTPCheck{Port: 8080}}},
				ReadinessChecks: []Check{{HTTP: &HTTPCheck{Port: 8080}}},
			},
		})
	}
	require.Eventually(t, func() bool {
		for _, record := range c.client.ListContainers() {
			if record.State != StateRunning || !record.Routable {
				return false
			}
		}
		return runtime.NumGoroutine() <= before+containers+20 // some are the client's own, and a check may be under way
	}, 20*time.Second, 10*time.Millisecond, "%d goroutines for %d containers", runtime.NumGoroutine()-before, containers)
}
