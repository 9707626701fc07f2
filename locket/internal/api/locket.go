// Package api serves locket.v1 over gRPC: who may claim what, the conversion of messages, and the
// streams of a watch. Where claims are and what becomes of them is in package store.
package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"diego.internal/locket/internal/lease"
	"diego.internal/locket/internal/store"
	locketv1 "diego.internal/proto/locket/v1"
)

// HealthService is the name by which clients ask whether this server can do its work.
const HealthService = "locket.v1"

// heartbeatEvery is the longest silence of a watch; the contract allows 5 s, and half of that lets a
// heartbeat be late.
const heartbeatEvery = 2 * time.Second

// Register adds the service to a server.
func Register(server grpc.ServiceRegistrar, st *store.Store) {
	locketv1.RegisterLocketServer(server, &locket{store: st})
}

type locket struct {
	locketv1.UnimplementedLocketServer
	store *store.Store
}

func (l *locket) Lock(ctx context.Context, req *locketv1.LockRequest) (*locketv1.LockResponse, error) {
	id, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	claim := req.GetClaim()
	if err := storable(field{"claim.key", claim.GetKey()}, field{"claim.owner", claim.GetOwner()}, field{"claim.value", claim.GetValue()}); err != nil {
		return nil, err
	}
	ask := requestFromProto(req, id)
	if err := mayClaim(id, ask.Key, ask.Type); err != nil {
		return nil, err
	}
	granted, err := l.store.Lock(ctx, ask)
	if err != nil {
		return nil, err
	}
	return &locketv1.LockResponse{Held: heldToProto(granted.Held), Acquired: granted.Acquired}, nil
}

func (l *locket) Release(ctx context.Context, req *locketv1.ReleaseRequest) (*locketv1.ReleaseResponse, error) {
	id, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := storable(field{"key", req.GetKey()}, field{"owner", req.GetOwner()}); err != nil {
		return nil, err
	}
	if err := mayRelease(id, req.GetKey()); err != nil {
		return nil, err
	}
	if err := l.store.Release(ctx, req.GetKey(), req.GetOwner()); err != nil {
		return nil, err
	}
	return &locketv1.ReleaseResponse{}, nil
}

func (l *locket) Fetch(ctx context.Context, req *locketv1.FetchRequest) (*locketv1.FetchResponse, error) {
	if err := storable(field{"key", req.GetKey()}); err != nil {
		return nil, err
	}
	held, err := l.store.Fetch(ctx, req.GetKey())
	if err != nil {
		return nil, err
	}
	return &locketv1.FetchResponse{Held: heldToProto(held)}, nil
}

// chunkBytes bounds the values in one message of a list, far below the limit of a message.
const chunkBytes = 1 << 20

func (l *locket) FetchAll(req *locketv1.FetchAllRequest, stream grpc.ServerStreamingServer[locketv1.FetchAllResponse]) error {
	return l.store.FetchAll(stream.Context(), lease.Type(req.GetType()), func(page []lease.Held) error { //nolint:gosec // one of two small numbers
		chunk, size := &locketv1.FetchAllResponse{}, 0
		for _, held := range page {
			if size > 0 && size+len(held.Value) > chunkBytes {
				if err := stream.Send(chunk); err != nil {
					return fmt.Errorf("sending a list: %w", err)
				}
				chunk, size = &locketv1.FetchAllResponse{}, 0
			}
			chunk.Held = append(chunk.Held, heldToProto(held))
			size += len(held.Value) + len(held.Key)
		}
		if err := stream.Send(chunk); err != nil {
			return fmt.Errorf("sending a list: %w", err)
		}
		return nil
	})
}

func (l *locket) Watch(req *locketv1.WatchRequest, stream grpc.ServerStreamingServer[locketv1.WatchResponse]) error {
	if err := storable(field{"key_prefix", req.GetKeyPrefix()}); err != nil {
		return err
	}
	watch, err := l.store.Watch(stream.Context(), lease.Type(req.GetType()), req.GetKeyPrefix()) //nolint:gosec // one of two small numbers
	if err != nil {
		return err
	}
	defer watch.Close()
	if err := sendBeginning(stream, watch.Held); err != nil {
		return fmt.Errorf("beginning a watch: %w", err)
	}
	watch.Held = nil // sent, and not to be kept for as long as the watch lasts
	if err := follow(stream, watch); err != nil {
		return fmt.Errorf("following claims: %w", err)
	}
	return nil
}

func sendBeginning(stream grpc.ServerStreamingServer[locketv1.WatchResponse], held []lease.Held) error {
	for _, h := range held {
		if err := stream.Send(changed(locketv1.ChangeKind_CHANGE_KIND_ACQUIRED, h)); err != nil {
			return err
		}
	}
	return stream.Send(&locketv1.WatchResponse{Event: &locketv1.WatchResponse_Synced_{Synced: &locketv1.WatchResponse_Synced{}}})
}

// follow sends what changes, and heartbeats, until the caller goes or the store ends the watch.
func follow(stream grpc.ServerStreamingServer[locketv1.WatchResponse], watch *store.Watch) error {
	heartbeat := time.NewTicker(heartbeatEvery)
	defer heartbeat.Stop()
	for {
		select {
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		case <-watch.Changed():
		case <-heartbeat.C:
			beat := &locketv1.WatchResponse{Event: &locketv1.WatchResponse_Heartbeat_{Heartbeat: &locketv1.WatchResponse_Heartbeat{}}}
			if err := stream.Send(beat); err != nil {
				return err
			}
			continue
		}
		changes, ended := watch.Take()
		for _, c := range changes {
			if err := stream.Send(changeToProto(c)); err != nil {
				return err
			}
		}
		if ended != nil {
			return ended
		}
	}
}
