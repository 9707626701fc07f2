package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/store"
	"diego.internal/bbs/internal/wire"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// desiredLRPs is the service for clients who want instances kept alive.
type desiredLRPs struct {
	bbsv1.UnimplementedDesiredLRPsServer
	*API
}

func (d *desiredLRPs) DesireLRP(ctx context.Context, req *bbsv1.DesireLRPRequest) (*bbsv1.DesireLRPResponse, error) {
	m := req.GetDesiredLrp()
	guid := m.GetProcessGuid()
	var v violations
	v.desiredLRP("desired_lrp", m)
	if err := v.err(); err != nil {
		return nil, err
	}
	if d.Store.DesiredQuarantined(guid) {
		return nil, store.ErrQuarantined.With("desired LRP %q", guid)
	}
	at := d.stamp()
	sealed, err := d.sealDefinition(guid, m.GetDefinition(), at)
	if err != nil {
		return nil, err
	}
	want, err := newDesired(m, sealed.ID)
	if err != nil {
		return nil, err
	}
	revision, err := d.Store.Apply(ctx, func(tx *store.Tx) error {
		change, err := lrp.Desire(tx.Desired(guid), want, lrp.Group(tx.InstancesOf(guid)), at)
		if err != nil {
			return err
		}
		tx.PutChange(nil, change)
		tx.PutDefinition(sealed)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("desiring lrp %q: %w", guid, err)
	}
	d.Log.InfoContext(ctx, "lrp-desired", "process_guid", guid, "instances", want.Instances, "revision", revision)
	return &bbsv1.DesireLRPResponse{Revision: revision}, nil
}

// sealDefinition completes a definition that a client gave, without touching it, and seals it.
func (d *desiredLRPs) sealDefinition(guid string, given *workloadv1.LRPDefinition, at lrp.Stamp) (store.SealedDefinition, error) {
	def := &workloadv1.LRPDefinition{
		DefinitionId: given.GetDefinitionId(), Container: given.GetContainer(), Setup: given.GetSetup(), Action: given.GetAction(),
		Monitor: given.GetMonitor(), CheckDefinition: given.GetCheckDefinition(), StartTimeout: given.GetStartTimeout(),
		Sidecars: given.GetSidecars(), GracefulShutdownInterval: given.GetGracefulShutdownInterval(), HealthTiming: given.GetHealthTiming(),
		CreatedAt: wire.Timestamp(at.Now.UnixNano()),
	}
	if def.GetDefinitionId() == "" {
		def.DefinitionId = d.NewGUID()
	}
	for _, port := range given.GetPorts() {
		if !slices.Contains(def.GetPorts(), port) {
			def.Ports = append(def.Ports, port)
		}
	}
	return d.Store.SealLRPDefinition(guid, def, at.Now.UnixNano())
}

// newDesired makes the header of a new LRP. What the BBS sets itself is not taken from the client.
func newDesired(m *workloadv1.DesiredLRP, definitionID string) (*lrp.Desired, error) {
	want := wire.DesiredFrom(m)
	want.ActiveDefinitionID, want.HealthyDefinitionID, want.PreviousDefinitionID = definitionID, "", ""
	want.Tag, want.Revision = lrp.ModificationTag{}, 0
	var err error
	want.Routes, want.InternalHostnames, err = lrp.ParseRoutes(m.GetRoutes())
	return want, err
}

func (d *desiredLRPs) UpdateDesiredLRP(ctx context.Context, req *bbsv1.UpdateDesiredLRPRequest) (*bbsv1.UpdateDesiredLRPResponse, error) {
	guid := req.GetProcessGuid()
	if req.GetUpdate().GetDefinition() != nil {
		return nil, errNotImplemented.With("updating the definition of %q", guid)
	}
	update, err := headerUpdate(req)
	if err != nil {
		return nil, err
	}
	var def *store.SealedDefinition
	if credentials := req.GetUpdate().GetImageCredentials(); credentials != nil {
		if def, err = d.withCredentials(ctx, guid, credentials); err != nil {
			return nil, err
		}
		update.CredentialsChanged = def != nil
	}
	at := d.stamp()
	var tag lrp.ModificationTag
	var revision uint64
	err = d.withSecret(ctx, guid, req.GetUpdate().GetRoutes(), func(secret []byte) (err error) {
		revision, err = d.Store.Apply(ctx, func(tx *store.Tx) error {
			tx.Know(secret)
			before := tx.Desired(guid)
			change, err := lrp.ApplyUpdate(before, update, lrp.Group(tx.InstancesOf(guid)), at)
			if err != nil {
				return err
			}
			if def != nil {
				if before.ActiveDefinitionID != def.ID {
					return lrp.ErrConflict.With("desired LRP %q has another definition", guid)
				}
				tx.PutDefinition(*def)
			}
			if change.Desired != before && !tx.Knows(change.Desired) {
				return store.ErrSecretMoved
			}
			tx.PutChange(before, change)
			tag = change.Desired.Tag
			return nil
		})
		return err
	})
	if err != nil {
		finalConflict(ctx, err)
		return nil, fmt.Errorf("updating desired lrp %q: %w", guid, err)
	}
	d.Log.InfoContext(ctx, "lrp-updated", "process_guid", guid, "revision", revision)
	return &bbsv1.UpdateDesiredLRPResponse{Revision: revision, ModificationTag: wire.Tag(tag)}, nil
}

// secretAttempts bounds how often a secret route is read that changes each time.
const secretAttempts = 5

// withSecret calls change with the value of the secret route that an updated LRP will have: that of the update or else the present
// one. It reads that again, and calls again, if it has changed in between.
func (d *desiredLRPs) withSecret(ctx context.Context, guid string, routes *workloadv1.DesiredLRPUpdate_Routes, change func(secret []byte) error) error {
	if routes != nil {
		return change(routes.GetRoutes()[wire.SecretRouter])
	}
	var err error
	for range secretAttempts {
		var view *store.View
		if view, err = d.Store.View(); err != nil {
			return err
		}
		var secret []byte
		if row := view.Desired(guid); row != nil {
			secret, err = d.Store.SecretRoute(ctx, row)
		}
		if err == nil {
			err = change(secret)
		}
		if !errors.Is(err, store.ErrSecretMoved) {
			return err
		}
	}
	return err
}

// finalConflict keeps the client's gRPC from repeating a request whose precondition can never hold again: by its code alone it
// would, until the deadline.
func finalConflict(ctx context.Context, err error) {
	if errors.Is(err, lrp.ErrConflict) {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1")) // it fails only outside of a call
	}
}

// headerUpdate checks and converts what an update changes in the header.
func headerUpdate(req *bbsv1.UpdateDesiredLRPRequest) (lrp.Update, error) {
	m := req.GetUpdate()
	var v violations
	v.text("update", m)
	var u lrp.Update
	if m.Instances != nil {
		u.Instances = new(m.GetInstances())
	}
	if m.Annotation != nil {
		u.Annotation = new(m.GetAnnotation())
	}
	if m.GetRoutes() != nil {
		v.routes("update.routes", m.GetRoutes().GetRoutes())
		if routes, _, err := lrp.ParseRoutes(m.GetRoutes().GetRoutes()); err == nil { // else it is among the violations
			u.Routes = &routes
		}
	}
	if m.GetMetricTags() != nil {
		tags := wire.MetricTagsFrom(m.GetMetricTags().GetMetricTags())
		u.MetricTags = &tags
	}
	v.crashPolicy("update.crash_restart_policy", m.GetCrashRestartPolicy())
	u.CrashPolicy = wire.CrashPolicyFrom(m.GetCrashRestartPolicy())
	u.ClearCrashPolicy = m.GetClearCrashRestartPolicy()
	if req.GetIfModificationTag() != nil {
		tag := wire.TagFrom(req.GetIfModificationTag())
		u.IfTag = &tag
	}
	return u, v.err()
}

// withCredentials returns the active definition with other image credentials, or nil if it has them.
func (d *desiredLRPs) withCredentials(ctx context.Context, guid string, credentials *workloadv1.ImageCredentials) (*store.SealedDefinition, error) {
	view, err := d.Store.View()
	if err != nil {
		return nil, err
	}
	row := view.Desired(guid)
	if row == nil {
		return nil, lrp.ErrNotFound.With("desired LRP %q", guid)
	}
	def, err := d.Store.LRPDefinition(ctx, guid, row.ActiveDefinitionID)
	if err != nil {
		return nil, err
	}
	if proto.Equal(def.GetContainer().GetImageCredentials(), credentials) {
		return nil, nil //nolint:nilnil // nothing to change
	}
	def = proto.CloneOf(def)
	def.GetContainer().ImageCredentials = credentials
	sealed, err := d.Store.SealLRPDefinition(guid, def, wire.Nanoseconds(def.GetCreatedAt()))
	return &sealed, err
}

func (d *desiredLRPs) RemoveDesiredLRP(ctx context.Context, req *bbsv1.RemoveDesiredLRPRequest) (*bbsv1.RemoveDesiredLRPResponse, error) {
	guid := req.GetProcessGuid()
	var ifTag *lrp.ModificationTag
	if req.GetIfModificationTag() != nil {
		tag := wire.TagFrom(req.GetIfModificationTag())
		ifTag = &tag
	}
	revision, err := d.Store.Apply(ctx, func(tx *store.Tx) error {
		before := tx.Desired(guid)
		change, err := lrp.RemoveDesired(before, ifTag, lrp.Group(tx.InstancesOf(guid)))
		if err != nil {
			return err
		}
		tx.PutChange(before, change)
		tx.DeleteDefinitions(guid)
		return nil
	})
	if err != nil {
		finalConflict(ctx, err)
		return nil, fmt.Errorf("removing desired lrp %q: %w", guid, err)
	}
	d.Log.InfoContext(ctx, "lrp-removed", "process_guid", guid, "revision", revision)
	return &bbsv1.RemoveDesiredLRPResponse{Revision: revision}, nil
}

func (d *desiredLRPs) GetDesiredLRP(ctx context.Context, req *bbsv1.GetDesiredLRPRequest) (*bbsv1.GetDesiredLRPResponse, error) {
	view, err := d.Store.ViewAt(ctx, req.GetMinRevision())
	if err != nil {
		return nil, err
	}
	row := view.Desired(req.GetProcessGuid())
	if row == nil {
		return nil, lrp.ErrNotFound.With("desired LRP %q", req.GetProcessGuid())
	}
	def, err := d.Store.LRPDefinition(ctx, row.ProcessGUID, row.ActiveDefinitionID)
	if err != nil {
		return nil, err
	}
	def = withFallbacks(req.GetNetCheckFallback(), def)
	m := wire.Desired(row, false)
	if m.Definition = withoutSecrets(def); req.GetIncludeSecrets() {
		secret, err := d.Store.SecretRoute(ctx, row)
		if err != nil {
			return nil, err
		}
		d.secretsRead(ctx, "desired-lrp", row.ProcessGUID)
		m.Definition = def
		if secret != nil {
			m.Routes[wire.SecretRouter] = secret
		}
	}
	return &bbsv1.GetDesiredLRPResponse{DesiredLrp: m, Revision: view.Revision()}, nil
}

func (d *desiredLRPs) ListDesiredLRPs(req *bbsv1.ListDesiredLRPsRequest, stream grpc.ServerStreamingServer[bbsv1.ListDesiredLRPsResponse]) error {
	ctx := stream.Context()
	view, err := d.Store.ViewAt(ctx, req.GetMinRevision())
	if err != nil {
		return err
	}
	out, err := newChunks(stream, &bbsv1.ListDesiredLRPsResponse{Revision: view.Revision()})
	if err != nil {
		return err
	}
	for group := range slicesOf(selectDesireds(view, req.GetFilter()), definitionsAtOnce) {
		var defs map[string]*workloadv1.LRPDefinition
		if req.GetIncludeDefinition() {
			if defs, err = d.definitionsOf(ctx, group); err != nil {
				return err
			}
		}
		for _, row := range group {
			m := wire.Desired(row, false)
			if def := defs[row.ProcessGUID]; def != nil {
				m.Definition = withFallbacks(req.GetNetCheckFallback(), withoutSecrets(def))
			}
			if err := out.addMessage(m); err != nil {
				return err
			}
		}
	}
	return out.end()
}

// definitionsAtOnce bounds the definitions of one query.
const definitionsAtOnce = 500

func (d *desiredLRPs) definitionsOf(ctx context.Context, rows []*lrp.Desired) (map[string]*workloadv1.LRPDefinition, error) {
	guids, ids := make([]string, len(rows)), make([]string, len(rows))
	for i, row := range rows {
		guids[i], ids[i] = row.ProcessGUID, row.ActiveDefinitionID
	}
	return d.Store.ActiveDefinitions(ctx, guids, ids)
}

// slicesOf gathers a sequence into slices of up to n. A slice is valid until the next one.
func slicesOf[T any](all iter.Seq[T], n int) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		group := make([]T, 0, n)
		for item := range all {
			group = append(group, item)
			if len(group) == n {
				if !yield(group) {
					return
				}
				group = group[:0]
			}
		}
		if len(group) > 0 {
			yield(group)
		}
	}
}

func (d *desiredLRPs) GetSchedulingInfo(ctx context.Context, req *bbsv1.GetSchedulingInfoRequest) (*bbsv1.GetSchedulingInfoResponse, error) {
	view, err := d.Store.ViewAt(ctx, req.GetMinRevision())
	if err != nil {
		return nil, err
	}
	row := view.Desired(req.GetProcessGuid())
	if row == nil {
		return nil, lrp.ErrNotFound.With("desired LRP %q", req.GetProcessGuid())
	}
	return &bbsv1.GetSchedulingInfoResponse{SchedulingInfo: wire.SchedulingInfo(row), Revision: view.Revision()}, nil
}

func (d *desiredLRPs) ListSchedulingInfos(req *bbsv1.ListSchedulingInfosRequest, stream grpc.ServerStreamingServer[bbsv1.ListSchedulingInfosResponse]) error {
	view, err := d.Store.ViewAt(stream.Context(), req.GetMinRevision())
	if err != nil {
		return err
	}
	out, err := newChunks(stream, &bbsv1.ListSchedulingInfosResponse{Revision: view.Revision()})
	if err != nil {
		return err
	}
	for row := range selectDesireds(view, req.GetFilter()) {
		if err := out.add(row.Encoded); err != nil {
			return err
		}
	}
	return out.end()
}

func (d *desiredLRPs) ListRoutingInfos(req *bbsv1.ListRoutingInfosRequest, stream grpc.ServerStreamingServer[bbsv1.ListRoutingInfosResponse]) error {
	view, err := d.Store.ViewAt(stream.Context(), req.GetMinRevision())
	if err != nil {
		return err
	}
	out, err := newChunks(stream, &bbsv1.ListRoutingInfosResponse{Revision: view.Revision()})
	if err != nil {
		return err
	}
	for row := range selectDesireds(view, req.GetFilter()) {
		if err := out.addEncoded(len(row.Encoded), func(b []byte) []byte { return wire.AppendRoutingInfo(b, row) }); err != nil {
			return err
		}
	}
	return out.end()
}

func (d *desiredLRPs) ListLRPDefinitions(ctx context.Context, req *bbsv1.ListLRPDefinitionsRequest) (*bbsv1.ListLRPDefinitionsResponse, error) {
	view, err := d.Store.View()
	if err != nil {
		return nil, err
	}
	if view.Desired(req.GetProcessGuid()) == nil {
		return nil, lrp.ErrNotFound.With("desired LRP %q", req.GetProcessGuid())
	}
	defs, err := d.Store.LRPDefinitions(ctx, req.GetProcessGuid())
	if err != nil {
		return nil, err
	}
	resp := &bbsv1.ListLRPDefinitionsResponse{Revision: view.Revision()}
	for _, def := range defs {
		resp.Definitions = append(resp.Definitions, withFallbacks(req.GetNetCheckFallback(), withoutSecrets(def)))
	}
	return resp, nil
}

func (d *desiredLRPs) CancelUpdateDesiredLRP(context.Context, *bbsv1.CancelUpdateDesiredLRPRequest) (*bbsv1.CancelUpdateDesiredLRPResponse, error) {
	return nil, errNotImplemented
}

func (d *desiredLRPs) RollbackDesiredLRP(context.Context, *bbsv1.RollbackDesiredLRPRequest) (*bbsv1.RollbackDesiredLRPResponse, error) {
	return nil, errNotImplemented
}

// selectDesireds yields the LRPs that a filter lets through, in order. Named ones are looked up and not
// searched for.
func selectDesireds(view *store.View, filter *bbsv1.DesiredLRPFilter) iter.Seq[*lrp.Desired] {
	return func(yield func(*lrp.Desired) bool) {
		for row := range candidates(view, filter) {
			if (filter.GetDomain() == "" || row.Domain == filter.GetDomain()) && hasPrefix(row.ProcessGUID, filter.GetAppGuids()) {
				if !yield(row) {
					return
				}
			}
		}
	}
}

func candidates(view *store.View, filter *bbsv1.DesiredLRPFilter) iter.Seq[*lrp.Desired] {
	switch {
	case len(filter.GetProcessGuids()) > 0:
		return func(yield func(*lrp.Desired) bool) {
			for _, guid := range sorted(filter.GetProcessGuids()) {
				if row := view.Desired(guid); row != nil && !yield(row) {
					return
				}
			}
		}
	case len(filter.GetAppGuids()) > 0:
		return func(yield func(*lrp.Desired) bool) {
			last := ""
			for _, prefix := range sorted(filter.GetAppGuids()) {
				// Of prefixes that contain each other the shorter comes first and has found it all.
				for row := range view.DesiredsWithPrefix(prefix) {
					if row.ProcessGUID > last {
						last = row.ProcessGUID
						if !yield(row) {
							return
						}
					}
				}
			}
		}
	default:
		return view.Desireds()
	}
}

func hasPrefix(guid string, prefixes []string) bool {
	return len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(guid, p) })
}

// sorted returns the distinct strings in order.
func sorted(all []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(all)))
}
