package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// block is how many requests are made before they are sent. Making them is not measured: it would take from the processors
// that the BBS and Postgres share with us.
const block = 10000

// raw is a message in its encoding.
type raw struct{ bytes []byte }

// reader is a message that is looked at while it is received, and not kept.
type reader interface {
	read(encoding []byte)
}

// rawCodec passes encodings through.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

var errNotRaw = errors.New("not a raw message")

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*raw)
	if !ok {
		return nil, errNotRaw
	}
	return mem.BufferSlice{mem.SliceBuffer(m.bytes)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *raw:
		m.bytes = data.Materialize()
	case reader:
		buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer buffer.Free()
		m.read(buffer.ReadOnlyData())
	default:
		return errNotRaw
	}
	return nil
}

// request is one call that is ready to be sent.
type request struct {
	conn *grpc.ClientConn
	body []byte
}

// pass is many calls of one method.
type pass struct {
	method string
	calls  int
	// make returns call k.
	make func(k int) (*grpc.ClientConn, proto.Message)
	// answered, if not nil, gets the revision that call k was answered with, in the goroutine of its caller.
	answered func(k int, revision uint64)
}

// run makes all calls from 50 callers and returns how many were answered per second.
func (p pass) run(ctx context.Context) (float64, error) {
	var took time.Duration
	for first := 0; first < p.calls; first += block {
		requests, err := p.prepare(first, min(block, p.calls-first))
		if err != nil {
			return 0, err
		}
		spent, err := each(ctx, len(requests), func(ctx context.Context, i int) error {
			revision, err := requests[i].send(ctx, p.method)
			if err == nil && p.answered != nil {
				p.answered(first+i, revision)
			}
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("calling %s: %w", p.method, err)
		}
		took += spent
	}
	return perSecond(p.calls, took), nil
}

func (p pass) prepare(first, n int) ([]request, error) {
	requests := make([]request, n)
	var g errgroup.Group
	parts := runtime.GOMAXPROCS(0)
	for part := range parts {
		g.Go(func() error {
			for i := part; i < n; i += parts {
				conn, m := p.make(first + i)
				body, err := proto.Marshal(m)
				if err != nil {
					return err
				}
				requests[i] = request{conn: conn, body: body}
			}
			return nil
		})
	}
	return requests, g.Wait()
}

// send makes one call whose answer has its revision in field 1, as all writes have.
func (r request) send(ctx context.Context, method string) (uint64, error) {
	var answer raw
	if err := r.conn.Invoke(ctx, method, &raw{bytes: r.body}, &answer, grpc.ForceCodecV2(rawCodec{})); err != nil {
		return 0, err
	}
	field, _, tag := protowire.ConsumeTag(answer.bytes)
	if tag < 0 || field != 1 {
		return 0, errors.New("the answer has no revision")
	}
	revision, n := protowire.ConsumeVarint(answer.bytes[tag:])
	return revision, protowire.ParseError(min(n, 0))
}

// each calls f for 0..n-1 from all callers and returns how long it took.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) (time.Duration, error) {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	started := time.Now()
	for range callers {
		g.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1) - 1)
				if i >= n {
					return nil
				}
				if err := f(ctx, i); err != nil {
					return err
				}
			}
			return context.Cause(ctx)
		})
	}
	err := g.Wait()
	return time.Since(started), err
}

func perSecond(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
