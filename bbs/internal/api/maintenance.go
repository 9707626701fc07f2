package api

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/bbs/internal/store"
	bbsv1 "diego.internal/proto/bbs/v1"
)

// cellList is the service that says which cells are there.
type cellList struct {
	bbsv1.UnimplementedCellsServer
	*API
}

func (c *cellList) ListCells(context.Context, *bbsv1.ListCellsRequest) (*bbsv1.ListCellsResponse, error) {
	if err := c.Store.Serving(); err != nil {
		return nil, err
	}
	resp := &bbsv1.ListCellsResponse{}
	for _, cell := range c.Cells.List() {
		m := &bbsv1.Cell{Presence: cell.Presence}
		if !cell.Since.IsZero() {
			m.Since = timestamppb.New(cell.Since)
		}
		resp.Cells = append(resp.Cells, m)
	}
	return resp, nil
}

func (c *cellList) ListCellTags(context.Context, *bbsv1.ListCellTagsRequest) (*bbsv1.ListCellTagsResponse, error) {
	if err := c.Store.Serving(); err != nil {
		return nil, err
	}
	byTag := map[string]*bbsv1.ListCellTagsResponse_TagCount{}
	count := func(tag string) *bbsv1.ListCellTagsResponse_TagCount {
		if byTag[tag] == nil {
			byTag[tag] = &bbsv1.ListCellTagsResponse_TagCount{Tag: tag}
		}
		return byTag[tag]
	}
	for _, cell := range c.Cells.List() {
		for _, tag := range cell.Presence.GetPlacementTags() {
			count(tag).Required++
		}
		for _, tag := range cell.Presence.GetOptionalPlacementTags() {
			count(tag).Optional++
		}
	}
	resp := &bbsv1.ListCellTagsResponse{}
	for _, tag := range byTag {
		resp.Tags = append(resp.Tags, tag)
	}
	slices.SortFunc(resp.GetTags(), func(a, b *bbsv1.ListCellTagsResponse_TagCount) int { return cmp.Compare(a.GetTag(), b.GetTag()) })
	return resp, nil
}

// maintenance is the service for operators. It answers on a standby too where that makes sense.
type maintenance struct {
	bbsv1.UnimplementedMaintenanceServer
	*API
}

func (m *maintenance) ListQuarantinedRecords(_ *bbsv1.ListQuarantinedRecordsRequest, stream grpc.ServerStreamingServer[bbsv1.ListQuarantinedRecordsResponse]) error {
	if m.Store.Migrating() {
		return store.ErrMigrating
	}
	records, err := m.Store.QuarantinedRecords(stream.Context())
	if err != nil {
		return err
	}
	out, err := newChunks(stream, &bbsv1.ListQuarantinedRecordsResponse{})
	if err != nil {
		return err
	}
	for _, r := range records {
		err := out.addMessage(&bbsv1.QuarantinedRecord{Table: r.Table, Key: r.Key, Problem: r.Problem, FoundAt: timestamppb.New(r.FoundAt)})
		if err != nil {
			return err
		}
	}
	return out.end()
}

func (m *maintenance) OverrideBrake(ctx context.Context, req *bbsv1.OverrideBrakeRequest) (*bbsv1.OverrideBrakeResponse, error) {
	if err := m.Store.Serving(); err != nil {
		return nil, err
	}
	m.Effects.OverrideBrake(req.GetRelease(), req.GetDuration().AsDuration())
	m.Log.WarnContext(ctx, "brake-overridden", "release", req.GetRelease(), "duration", req.GetDuration().AsDuration())
	return &bbsv1.OverrideBrakeResponse{}, nil
}

// GetStatus answers whatever this server is, also while it migrates: it is what one asks then.
func (m *maintenance) GetStatus(context.Context, *bbsv1.GetStatusRequest) (*bbsv1.GetStatusResponse, error) {
	status := m.Effects.Status()
	resp := &bbsv1.GetStatusResponse{
		Active: m.Store.Active(), Instance: m.Instance, BrakeEngaged: status.Brake,
		LastConvergenceDuration: durationpb.New(status.Duration),
		Schema:                  m.schemaStatus(), Keys: keyStatus(m.Store.KeyRotation()),
		QuarantinedRecords: uint64(m.Store.QuarantinedCount()), //nolint:gosec // a count
	}
	if !resp.GetActive() {
		resp.StandbyWaitsFor = m.Store.StandbyWaits()
	}
	if status.LastRun.After(time.Time{}) {
		resp.LastConvergence = timestamppb.New(status.LastRun)
	}
	if view := m.Store.Committed(); view != nil {
		resp.Revision, resp.Epoch = view.Revision(), view.Epoch()
	}
	return resp, nil
}

func (m *maintenance) schemaStatus() *bbsv1.SchemaStatus {
	s := m.Schema()
	return &bbsv1.SchemaStatus{BuiltFor: s.BuiltFor, Version: s.Version, MigratingTo: s.MigratingTo}
}

func keyStatus(r store.KeyRotation) *bbsv1.KeyStatus {
	m := &bbsv1.KeyStatus{ActiveLabel: r.ActiveLabel, Counted: r.Known, RemovableLabels: r.Removable}
	m.Left, m.Unreadable = counts(r.Left), counts(r.Unreadable)
	return m
}

// counts leaves out what is 0.
func counts(of map[string]int) map[string]uint64 {
	out := map[string]uint64{}
	for label, n := range of {
		if n > 0 {
			out[label] = uint64(n)
		}
	}
	return out
}
