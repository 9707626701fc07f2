package command

import (
	"context"
	"io"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
)

// The BBS has other clients than us: an operator's tool asks it no more than this often, and for no more at a time.
const (
	requestsPerSecond = 20
	requestsAtOnce    = 50
)

// connection to a server.
type connection interface {
	grpc.ClientConnInterface
	io.Closer
}

// pace keeps requests within the limits; all connections of one invocation share it.
type pace struct {
	limiter *rate.Limiter
	slots   chan struct{}
}

func newPace() *pace {
	return &pace{limiter: rate.NewLimiter(requestsPerSecond, requestsPerSecond), slots: make(chan struct{}, requestsAtOnce)}
}

// begin waits until a request may be sent; the caller calls end when it is answered.
func (p *pace) begin(ctx context.Context) (end func(), err error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	end = func() { <-p.slots }
	if err := p.limiter.Wait(ctx); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// paced is a connection whose requests keep the pace.
type paced struct {
	*grpc.ClientConn
	pace *pace
}

// Invoke implements grpc.ClientConnInterface.
func (c paced) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	end, err := c.pace.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	return c.ClientConn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface. A stream counts as one request.
func (c paced) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	end, err := c.pace.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	return c.ClientConn.NewStream(ctx, desc, method, opts...)
}
