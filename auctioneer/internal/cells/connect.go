package cells

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	repv1 "diego.internal/proto/rep/v1"
)

var errNoConnection = errors.New("there is no connection to the cell")

// Connect makes a Connection of a client connection, which it owns from then on. Its
// calls fail as soon as the connection does: a connection tries again to reach a peer
// until the deadline of the call, which is right for a peer that has no substitute,
// but work for a dead cell is better placed on another one.
func Connect(conn *grpc.ClientConn) Connection {
	return Connection{Client: &impatient{conn: conn, client: repv1.NewAuctionClient(conn)}, Close: conn.Close}
}

type impatient struct {
	conn   *grpc.ClientConn
	client repv1.AuctionClient
}

// State asks for the state of the cell.
func (c *impatient) State(ctx context.Context, in *repv1.StateRequest, opts ...grpc.CallOption) (*repv1.StateResponse, error) {
	ctx, done := c.whileConnected(ctx)
	resp, err := c.client.State(ctx, in, opts...)
	return resp, done(err)
}

// Perform hands work to the cell.
func (c *impatient) Perform(ctx context.Context, in *repv1.PerformRequest, opts ...grpc.CallOption) (*repv1.PerformResponse, error) {
	ctx, done := c.whileConnected(ctx)
	resp, err := c.client.Perform(ctx, in, opts...)
	return resp, done(err)
}

// whileConnected ends the context when the connection fails. done ends the watch and
// says in its error whose fault the end of the call was.
func (c *impatient) whileConnected(parent context.Context) (ctx context.Context, done func(error) error) {
	ctx, cancel := context.WithCancelCause(parent)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		c.conn.Connect()
		for {
			s := c.conn.GetState()
			if s == connectivity.TransientFailure || s == connectivity.Shutdown {
				cancel(errNoConnection)
				return
			}
			if !c.conn.WaitForStateChange(ctx, s) {
				return
			}
		}
	}()
	return ctx, func(err error) error {
		cause := context.Cause(ctx)
		cancel(nil)
		<-watched
		if err != nil && cause != nil {
			return fmt.Errorf("%w: %w", cause, err)
		}
		return err
	}
}
