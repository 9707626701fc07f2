// Package executor runs the containers of one cell.
package executor

import (
	"context"
	"io"
	"iter"

	"diego.internal/executor/logs"
)

// Client owns the containers of one cell. Its methods may be called concurrently.
type Client struct{}

// Open measures the capacity, adopts the containers that an earlier process left behind, destroys those that it cannot account for, and
// returns a client that is ready for orders. It waits for the engine to answer. Call Run, then Close.
func Open(ctx context.Context, cfg Config) (*Client, error) { panic("on its way") }

// Run does the periodic care until ctx ends, then detaches from the containers, which go on. It returns nil then.
func (c *Client) Run(ctx context.Context) error { panic("on its way") }

// Close detaches from all containers, which go on without us, and waits for our own goroutines. It may be repeated; Run calls it at its end.
func (c *Client) Close() { panic("on its way") }

// AllocateContainers makes reservations; each request is answered alone, those not returned as failures succeeded.
func (c *Client) AllocateContainers(ctx context.Context, requests []AllocationRequest) []AllocationFailure {
	panic("on its way")
}

// RunContainer attaches run information (reserved → initializing) and returns; building and running go on by themselves.
func (c *Client) RunContainer(ctx context.Context, request RunRequest) error { panic("on its way") }

// UpdateContainer replaces internal routes and metric tags.
func (c *Client) UpdateContainer(ctx context.Context, request UpdateRequest) error {
	panic("on its way")
}

// StopContainer asks the container to stop and returns without waiting.
func (c *Client) StopContainer(ctx context.Context, guid string) error { panic("on its way") }

// DeleteContainer stops, destroys and forgets the container; resources are free afterwards. Concurrent calls share one deletion.
func (c *Client) DeleteContainer(ctx context.Context, guid string) error { panic("on its way") }

// GetContainer returns a snapshot, or ErrContainerNotFound.
func (c *Client) GetContainer(guid string) (Container, error) { panic("on its way") }

// ListContainers returns snapshots of all containers in order of guid.
func (c *Client) ListContainers() []Container { panic("on its way") }

// GetFiles streams a path of the container out as tar, read as root. The caller closes it.
func (c *Client) GetFiles(ctx context.Context, guid, path string) (io.ReadCloser, error) {
	panic("on its way")
}

// GetBulkMetrics reads the metrics of all created and running containers.
func (c *Client) GetBulkMetrics(ctx context.Context) (map[string]Metrics, error) {
	panic("on its way")
}

// TotalResources of the cell.
func (c *Client) TotalResources() Resources { panic("on its way") }

// RemainingResources of the cell: total less what every known container takes.
func (c *Client) RemainingResources() Resources { panic("on its way") }

// SubscribeToEvents starts to collect events. The caller closes the subscription.
func (c *Client) SubscribeToEvents() *Subscription { panic("on its way") }

// Healthy says whether the engine passed its last check. The error tells why not.
func (c *Client) Healthy() (bool, error) { panic("on its way") }

// SetHealthy overrides the health until the next check; nil means healthy.
func (c *Client) SetHealthy(err error) { panic("on its way") }

// Cleanup deletes all containers, known or not, that this cell owns in the engine, with their journals and logs. For emptying a machine.
func (c *Client) Cleanup(ctx context.Context) error { panic("on its way") }

// Logs yields the log lines of a container that are kept, those newer than since (zero = all), and then, if follow, those to come until the
// container is deleted or ctx ends. Lines of a deleted container can be read for Config.LogRetention.
func (c *Client) Logs(ctx context.Context, guid string, request logs.Request) iter.Seq2[logs.Line, error] {
	panic("on its way")
}

// EventKind says what happened.
type EventKind int

// The kinds of events.
const (
	EventReserved EventKind = iota + 1
	// EventRunning comes when a container runs, and again on each change of its routable flag or routes.
	EventRunning
	EventComplete
	// EventResync says that events were lost: look at all containers. It has no container.
	EventResync
)

// Event tells of a change. Of several changes of one container that nobody fetched only the newest is kept.
type Event struct {
	Kind      EventKind
	Container Container
}

// Subscription collects events for one reader.
type Subscription struct{}

// Next blocks until there is an event, ctx ends, or the subscription or client is closed (ErrClosed).
func (s *Subscription) Next(ctx context.Context) (Event, error) { panic("on its way") }

// Close ends the subscription.
func (s *Subscription) Close() { panic("on its way") }
