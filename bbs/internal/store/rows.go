package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/wire"
	"diego.internal/bbs/internal/workload"
	workloadv1 "diego.internal/proto/workload/v1"
)

// Each table is written by one statement for all rows of a batch, a column an array: the cost of a
// row is then little more than that of the row itself.

const upsertDomains = `
insert into domains (name, fresh_until, default_crash_policy, revision)
select name, fresh_until, default_crash_policy::jsonb, revision
from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[])
    as u (name, fresh_until, default_crash_policy, revision)
on conflict (name) do update set fresh_until = excluded.fresh_until,
    default_crash_policy = excluded.default_crash_policy, revision = excluded.revision`

const deleteDomains = `delete from domains using unnest($1::text[]) as u (k) where name = u.k`

func queueDomains(b *pgx.Batch, rows []*lrp.Domain, gone []string) error {
	if len(gone) > 0 {
		b.Queue(deleteDomains, gone)
	}
	if len(rows) == 0 {
		return nil
	}
	names, until := make([]string, len(rows)), make([]int64, len(rows))
	policies, revisions := make([]*string, len(rows)), make([]int64, len(rows))
	for i, d := range rows {
		policy, err := policyJSON(d.DefaultCrashPolicy)
		if err != nil {
			return fmt.Errorf("encoding the crash policy of domain %q: %w", d.Name, err)
		}
		names[i], until[i], policies[i], revisions[i] = d.Name, d.FreshUntil, policy, signed(d.Revision)
	}
	b.Queue(upsertDomains, names, until, policies, revisions)
	return nil
}

const upsertActuals = `
insert into actual_lrps (process_guid, instance_index, presence, domain, state, instance_guid, cell_id, zone,
    definition_id, reported, routable, stop_requested, crash_count, crash_reason, placement_error, since,
    tag_epoch, tag_index, revision)
select * from unnest($1::text[], $2::int[], $3::smallint[], $4::text[], $5::smallint[], $6::text[], $7::text[],
    $8::text[], $9::text[], $10::bytea[], $11::bool[], $12::bool[], $13::int[], $14::text[], $15::text[],
    $16::bigint[], $17::text[], $18::bigint[], $19::bigint[])
on conflict (process_guid, instance_index, presence) do update set domain = excluded.domain,
    state = excluded.state, instance_guid = excluded.instance_guid, cell_id = excluded.cell_id,
    zone = excluded.zone, definition_id = excluded.definition_id, reported = excluded.reported,
    routable = excluded.routable, stop_requested = excluded.stop_requested, crash_count = excluded.crash_count,
    crash_reason = excluded.crash_reason, placement_error = excluded.placement_error, since = excluded.since,
    tag_epoch = excluded.tag_epoch, tag_index = excluded.tag_index, revision = excluded.revision`

const deleteActuals = `
delete from actual_lrps using unnest($1::text[], $2::int[], $3::smallint[]) as u (g, i, p)
where process_guid = u.g and instance_index = u.i and presence = u.p`

func queueActuals(b *pgx.Batch, rows []*actualRow, gone []actualID) {
	if n := len(gone); n > 0 {
		guids, indices, presences := make([]string, n), make([]int32, n), make([]int16, n)
		for i, id := range gone {
			guids[i], indices[i], presences[i] = id.ProcessGUID, id.Index, int16(id.presence)
		}
		b.Queue(deleteActuals, guids, indices, presences)
	}
	n := len(rows)
	if n == 0 {
		return
	}
	text := func(get func(*actualRow) string) []string { return column(rows, get) }
	b.Queue(upsertActuals,
		text(func(a *actualRow) string { return a.ProcessGUID }),
		column(rows, func(a *actualRow) int32 { return a.Index }),
		column(rows, func(a *actualRow) int16 { return int16(a.Presence) }),
		text(func(a *actualRow) string { return a.Domain }),
		column(rows, func(a *actualRow) int16 { return int16(a.State) }),
		text(func(a *actualRow) string { return a.InstanceGUID }),
		text(func(a *actualRow) string { return a.CellID }),
		text(func(a *actualRow) string { return a.Zone }),
		text(func(a *actualRow) string { return a.DefinitionID }),
		column(rows, func(a *actualRow) []byte { return wire.EncodeReported(a.Actual) }),
		column(rows, func(a *actualRow) bool { return a.Routable }),
		column(rows, func(a *actualRow) bool { return a.StopRequested }),
		column(rows, func(a *actualRow) int32 { return a.CrashCount }),
		text(func(a *actualRow) string { return a.CrashReason }),
		text(func(a *actualRow) string { return a.PlacementError }),
		column(rows, func(a *actualRow) int64 { return a.Since }),
		text(func(a *actualRow) string { return a.Tag.Epoch }),
		column(rows, func(a *actualRow) int64 { return int64(a.Tag.Index) }),
		column(rows, func(a *actualRow) int64 { return signed(a.Revision) }),
	)
}

const upsertDesireds = `
insert into desired_lrps (process_guid, domain, log_guid, instances, memory_mb, disk_mb, max_pids, root_fs,
    placement, metric_tags, crash_policy, update_strategy, active_definition_id,
    previous_definition_id, client_data, tag_epoch, tag_index, created_at, updated_at, revision)
select process_guid, domain, log_guid, instances, memory_mb, disk_mb, max_pids, root_fs,
    placement::jsonb, metric_tags::jsonb, crash_policy::jsonb, update_strategy, active,
    previous, client_data, tag_epoch, tag_index, created_at, updated_at, revision
from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::int[], $7::int[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::smallint[], $13::text[],
    $14::text[], $15::bytea[], $16::text[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[])
    as u (process_guid, domain, log_guid, instances, memory_mb, disk_mb, max_pids, root_fs,
    placement, metric_tags, crash_policy, update_strategy, active,
    previous, client_data, tag_epoch, tag_index, created_at, updated_at, revision)
on conflict (process_guid) do update set domain = excluded.domain, log_guid = excluded.log_guid,
    instances = excluded.instances, memory_mb = excluded.memory_mb, disk_mb = excluded.disk_mb,
    max_pids = excluded.max_pids, root_fs = excluded.root_fs, placement = excluded.placement,
    metric_tags = excluded.metric_tags, crash_policy = excluded.crash_policy,
    update_strategy = excluded.update_strategy, active_definition_id = excluded.active_definition_id,
    previous_definition_id = excluded.previous_definition_id, client_data = excluded.client_data,
    tag_epoch = excluded.tag_epoch, tag_index = excluded.tag_index, created_at = excluded.created_at,
    updated_at = excluded.updated_at, revision = excluded.revision`

const deleteDesireds = `delete from desired_lrps using unnest($1::text[]) as u (k) where process_guid = u.k`

const upsertHealthy = `
insert into healthy_definitions (process_guid, definition_id) select * from unnest($1::text[], $2::text[])
on conflict (process_guid) do update set definition_id = excluded.definition_id`

const deleteHealthy = `delete from healthy_definitions using unnest($1::text[]) as u (k) where process_guid = u.k`

func queueHealthy(b *pgx.Batch, writes []healthyWrite, gone []string) {
	gone = slices.Clone(gone)
	rows := make([]healthyWrite, 0, len(writes))
	for _, h := range writes {
		if h.id == "" {
			gone = append(gone, h.guid)
		} else {
			rows = append(rows, h)
		}
	}
	if len(gone) > 0 {
		b.Queue(deleteHealthy, gone)
	}
	if len(rows) > 0 {
		b.Queue(upsertHealthy, column(rows, func(h healthyWrite) string { return h.guid }), column(rows, func(h healthyWrite) string { return h.id }))
	}
}

func queueDesireds(b *pgx.Batch, keys sealer, rows []*lrp.Desired, gone []string) error {
	if len(gone) > 0 {
		b.Queue(deleteDesireds, gone)
	}
	n := len(rows)
	if n == 0 {
		return nil
	}
	placements, tags, policies := make([]*string, n), make([]*string, n), make([]*string, n)
	clientData := make([][]byte, n)
	for i, d := range rows {
		var err error
		if placements[i], err = placementJSON(d.Placement); err == nil {
			if tags[i], err = tagsJSON(d.MetricTags); err == nil {
				if policies[i], err = policyJSON(d.CrashPolicy); err == nil {
					clientData[i], err = sealClientData(keys, d)
				}
			}
		}
		if err != nil {
			return fmt.Errorf("encoding desired lrp %q: %w", d.ProcessGUID, err)
		}
	}
	text := func(get func(*lrp.Desired) string) []string { return column(rows, get) }
	number := func(get func(*lrp.Desired) int32) []int32 { return column(rows, get) }
	long := func(get func(*lrp.Desired) int64) []int64 { return column(rows, get) }
	b.Queue(upsertDesireds,
		text(func(d *lrp.Desired) string { return d.ProcessGUID }),
		text(func(d *lrp.Desired) string { return d.Domain }),
		text(func(d *lrp.Desired) string { return d.LogGUID }),
		number(func(d *lrp.Desired) int32 { return d.Instances }),
		number(func(d *lrp.Desired) int32 { return d.Resources.MemoryMB }),
		number(func(d *lrp.Desired) int32 { return d.Resources.DiskMB }),
		number(func(d *lrp.Desired) int32 { return d.Resources.MaxPids }),
		text(func(d *lrp.Desired) string { return d.Placement.RootFS }),
		placements, tags, policies,
		column(rows, func(d *lrp.Desired) int16 { return int16(d.UpdateStrategy) }),
		text(func(d *lrp.Desired) string { return d.ActiveDefinitionID }),
		text(func(d *lrp.Desired) string { return d.PreviousDefinitionID }),
		clientData,
		text(func(d *lrp.Desired) string { return d.Tag.Epoch }),
		long(func(d *lrp.Desired) int64 { return int64(d.Tag.Index) }),
		long(func(d *lrp.Desired) int64 { return d.CreatedAt }),
		long(func(d *lrp.Desired) int64 { return d.UpdatedAt }),
		long(func(d *lrp.Desired) int64 { return signed(d.Revision) }),
	)
	return nil
}

const upsertTasks = `
insert into tasks (guid, domain, state, cell_id, instance_guid, created_at, updated_at, first_completed_at,
    failed, failure_reason, result, rejection_count, rejection_reason, memory_mb, disk_mb, max_pids, root_fs,
    placement, definition_digest, has_callback, revision)
select guid, domain, state, cell_id, instance_guid, created_at, updated_at, first_completed_at,
    failed, failure_reason, result, rejection_count, rejection_reason, memory_mb, disk_mb, max_pids, root_fs,
    placement::jsonb, definition_digest, has_callback, revision
from unnest($1::text[], $2::text[], $3::smallint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
    $8::bigint[], $9::bool[], $10::text[], $11::bytea[], $12::int[], $13::text[], $14::int[], $15::int[],
    $16::int[], $17::text[], $18::text[], $19::bytea[], $20::bool[], $21::bigint[])
    as u (guid, domain, state, cell_id, instance_guid, created_at, updated_at, first_completed_at,
    failed, failure_reason, result, rejection_count, rejection_reason, memory_mb, disk_mb, max_pids, root_fs,
    placement, definition_digest, has_callback, revision)
on conflict (guid) do update set state = excluded.state, cell_id = excluded.cell_id,
    instance_guid = excluded.instance_guid, updated_at = excluded.updated_at, created_at = excluded.created_at,
    domain = excluded.domain, first_completed_at = excluded.first_completed_at, failed = excluded.failed,
    failure_reason = excluded.failure_reason, result = excluded.result,
    rejection_count = excluded.rejection_count, rejection_reason = excluded.rejection_reason,
    memory_mb = excluded.memory_mb, disk_mb = excluded.disk_mb, max_pids = excluded.max_pids,
    root_fs = excluded.root_fs, placement = excluded.placement, definition_digest = excluded.definition_digest,
    has_callback = excluded.has_callback, revision = excluded.revision`

const deleteTasks = `delete from tasks using unnest($1::text[]) as u (k) where guid = u.k`

func queueTasks(b *pgx.Batch, keys sealer, rows []*task.Task, gone []string) error {
	if len(gone) > 0 {
		b.Queue(deleteTasks, gone)
	}
	n := len(rows)
	if n == 0 {
		return nil
	}
	placements, results := make([]*string, n), make([][]byte, n)
	for i, t := range rows {
		var err error
		if placements[i], err = placementJSON(t.Placement); err == nil && t.Result != "" {
			results[i], err = keys.Seal([]byte(t.Result), placeOfResult(t.GUID))
		}
		if err != nil {
			return fmt.Errorf("encoding task %q: %w", t.GUID, err)
		}
	}
	text := func(get func(*task.Task) string) []string { return column(rows, get) }
	number := func(get func(*task.Task) int32) []int32 { return column(rows, get) }
	long := func(get func(*task.Task) int64) []int64 { return column(rows, get) }
	b.Queue(upsertTasks,
		text(func(t *task.Task) string { return t.GUID }),
		text(func(t *task.Task) string { return t.Domain }),
		column(rows, func(t *task.Task) int16 { return int16(t.State) }),
		text(func(t *task.Task) string { return t.CellID }),
		text(func(t *task.Task) string { return t.InstanceGUID }),
		long(func(t *task.Task) int64 { return t.CreatedAt }),
		long(func(t *task.Task) int64 { return t.UpdatedAt }),
		long(func(t *task.Task) int64 { return t.FirstCompletedAt }),
		column(rows, func(t *task.Task) bool { return t.Failed }),
		text(func(t *task.Task) string { return t.FailureReason }),
		results,
		number(func(t *task.Task) int32 { return t.RejectionCount }),
		text(func(t *task.Task) string { return t.RejectionReason }),
		number(func(t *task.Task) int32 { return t.Resources.MemoryMB }),
		number(func(t *task.Task) int32 { return t.Resources.DiskMB }),
		number(func(t *task.Task) int32 { return t.Resources.MaxPids }),
		text(func(t *task.Task) string { return t.Placement.RootFS }),
		placements,
		column(rows, func(t *task.Task) []byte { return []byte(t.DefinitionDigest) }),
		column(rows, func(t *task.Task) bool { return t.HasCallback }),
		long(func(t *task.Task) int64 { return signed(t.Revision) }),
	)
	return nil
}

const upsertDefinitions = `
insert into lrp_definitions (process_guid, definition_id, created_at, definition)
select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[])
on conflict (process_guid, definition_id) do update set created_at = excluded.created_at, definition = excluded.definition`

const deleteDefinitions = `delete from lrp_definitions using unnest($1::text[]) as u (k) where process_guid = u.k`

// queueDefinitions writes in the order of the batch, in as few statements as that allows.
func queueDefinitions(b *pgx.Batch, writes []definitionWrite) {
	for start := 0; start < len(writes); {
		end := start
		for end < len(writes) && writes[end].remove == writes[start].remove {
			end++
		}
		run := lastOfEach(writes[start:end], func(w definitionWrite) [2]string { return [2]string{w.ProcessGUID, w.ID} })
		guids := column(run, func(w definitionWrite) string { return w.ProcessGUID })
		if run[0].remove {
			b.Queue(deleteDefinitions, guids)
		} else {
			b.Queue(upsertDefinitions, guids,
				column(run, func(w definitionWrite) string { return w.ID }),
				column(run, func(w definitionWrite) int64 { return w.CreatedAt }),
				column(run, func(w definitionWrite) []byte { return w.Sealed }))
		}
		start = end
	}
}

const upsertTaskDefinitions = `
insert into task_definitions (guid, definition) select * from unnest($1::text[], $2::bytea[])
on conflict (guid) do update set definition = excluded.definition`

const deleteTaskDefinitions = `delete from task_definitions using unnest($1::text[]) as u (k) where guid = u.k`

// queueTaskDefinitions keeps only the last write of each task, so the order does not matter.
func queueTaskDefinitions(b *pgx.Batch, writes []taskDefinitionWrite) {
	var puts, gone []taskDefinitionWrite
	for _, w := range lastOfEach(writes, func(w taskDefinitionWrite) string { return w.guid }) {
		if w.sealed == nil {
			gone = append(gone, w)
		} else {
			puts = append(puts, w)
		}
	}
	guid := func(w taskDefinitionWrite) string { return w.guid }
	if len(gone) > 0 {
		b.Queue(deleteTaskDefinitions, column(gone, guid))
	}
	if len(puts) > 0 {
		b.Queue(upsertTaskDefinitions, column(puts, guid), column(puts, func(w taskDefinitionWrite) []byte { return w.sealed }))
	}
}

// lastOfEach keeps the last element of each key: one statement may not write a row twice.
func lastOfEach[T any, K comparable](all []T, key func(T) K) []T {
	last := make(map[K]int, len(all))
	for i, item := range all {
		last[key(item)] = i
	}
	if len(last) == len(all) {
		return all
	}
	kept := make([]T, 0, len(last))
	for i, item := range all {
		if last[key(item)] == i {
			kept = append(kept, item)
		}
	}
	return kept
}

// column takes one column out of rows.
func column[R, V any](rows []R, get func(R) V) []V {
	values := make([]V, len(rows))
	for i, row := range rows {
		values[i] = get(row)
	}
	return values
}

// signed converts a revision, which starts at 0 and counts batches, to what Postgres has.
func signed(revision uint64) int64 { return int64(revision) } //nolint:gosec // 2^63 batches do not happen

// unsigned is the inverse of signed.
func unsigned(revision int64) uint64 { return uint64(revision) } //nolint:gosec // never negative, see the checks of the table

// placementColumns is the part of a placement that has no column of its own.
type placementColumns struct {
	VolumeDrivers []string `json:"volume_drivers,omitempty"`
	PlacementTags []string `json:"placement_tags,omitempty"`
	// Constraint is a pointer: an empty constraint is not the same as none.
	Constraint *[]string `json:"constraint,omitempty"`
}

func placementJSON(p workload.Placement) (*string, error) {
	columns := placementColumns{VolumeDrivers: p.VolumeDrivers, PlacementTags: p.PlacementTags}
	if p.Constraint != nil {
		require := append([]string{}, p.Constraint.Require...)
		columns.Constraint = &require
	}
	return jsonOf(columns, len(p.VolumeDrivers) == 0 && len(p.PlacementTags) == 0 && p.Constraint == nil)
}

func placementFrom(rootFS string, text []byte) (workload.Placement, error) {
	placement := workload.Placement{RootFS: rootFS}
	if text == nil {
		return placement, nil
	}
	var columns placementColumns
	if err := json.Unmarshal(text, &columns); err != nil {
		return placement, fmt.Errorf("decoding the placement: %w", err)
	}
	placement.VolumeDrivers, placement.PlacementTags = columns.VolumeDrivers, columns.PlacementTags
	if columns.Constraint != nil {
		placement.Constraint = &workload.Constraint{Require: *columns.Constraint}
	}
	return placement, nil
}

// tagColumn and policyColumn fix how tags and policies are stored, whatever becomes of the types.
type tagColumn struct {
	Name    string         `json:"name"`
	Static  string         `json:"static,omitempty"`
	Dynamic lrp.DynamicTag `json:"dynamic,omitempty"`
}

type policyColumn struct {
	Immediate   *uint32 `json:"number_of_immediate_restarts,omitempty"`
	MaxSeconds  *uint32 `json:"max_seconds_between_restarts,omitempty"`
	MaxAttempts *uint32 `json:"max_restart_attempts,omitempty"`
}

func tagsJSON(tags []lrp.MetricTag) (*string, error) {
	return jsonOf(column(tags, func(t lrp.MetricTag) tagColumn { return tagColumn(t) }), len(tags) == 0)
}

func tagsFrom(text []byte) ([]lrp.MetricTag, error) {
	if text == nil {
		return nil, nil
	}
	var columns []tagColumn
	if err := json.Unmarshal(text, &columns); err != nil {
		return nil, fmt.Errorf("decoding metric tags: %w", err)
	}
	return column(columns, func(t tagColumn) lrp.MetricTag { return lrp.MetricTag(t) }), nil
}

func policyJSON(p *lrp.CrashPolicy) (*string, error) {
	if p == nil {
		return nil, nil //nolint:nilnil // null is the value
	}
	return jsonOf(policyColumn{p.ImmediateRestarts, p.MaxSecondsBetweenRestarts, p.MaxRestartAttempts}, false)
}

func policyFrom(text []byte) (*lrp.CrashPolicy, error) {
	if text == nil {
		return nil, nil //nolint:nilnil // null is no policy
	}
	var columns policyColumn
	if err := json.Unmarshal(text, &columns); err != nil {
		return nil, fmt.Errorf("decoding a crash policy: %w", err)
	}
	return &lrp.CrashPolicy{
		ImmediateRestarts:         columns.Immediate,
		MaxSecondsBetweenRestarts: columns.MaxSeconds,
		MaxRestartAttempts:        columns.MaxAttempts,
	}, nil
}

// jsonOf returns the JSON of v, or nil, which becomes null, if there is nothing to store.
func jsonOf(v any, empty bool) (*string, error) {
	if empty {
		return nil, nil //nolint:nilnil // null is the value
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	s := string(text)
	return &s, nil
}

// The places of sealed values.

func placeOfClientData(guid string) seal.Place {
	return seal.Place{Table: "desired_lrps", Key: guid, Column: "client_data"}
}

func placeOfResult(guid string) seal.Place {
	return seal.Place{Table: "tasks", Key: guid, Column: "result"}
}

func placeOfDefinition(guid, id string) seal.Place {
	return seal.Place{Table: "lrp_definitions", Key: guid + "\x00" + id, Column: "definition"}
}

func placeOfTaskDefinition(guid string) seal.Place {
	return seal.Place{Table: "task_definitions", Key: guid, Column: "definition"}
}

func placeOfBatch(revision uint64) seal.Place {
	return seal.Place{Table: "batch_log", Key: strconv.FormatUint(revision, 10), Column: "changes"}
}

// sealClientData seals what a client put into a header: the routes, which may hold keys, and the
// annotation. It returns nil if there is neither.
func sealClientData(keys sealer, d *lrp.Desired) ([]byte, error) {
	if len(d.Routes) == 0 && d.Annotation == "" {
		return nil, nil
	}
	m := &workloadv1.DesiredLRP{Annotation: d.Annotation, Routes: make(map[string][]byte, len(d.Routes))}
	for _, route := range d.Routes {
		m.Routes[route.Router] = route.Value
	}
	plain, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding routes and annotation: %w", err)
	}
	return keys.Seal(plain, placeOfClientData(d.ProcessGUID))
}

// openClientData is the inverse of sealClientData.
func openClientData(keys *seal.Keyring, d *lrp.Desired, sealed []byte) error {
	if sealed == nil {
		return nil
	}
	plain, err := keys.Open(sealed, placeOfClientData(d.ProcessGUID))
	if err != nil {
		return err
	}
	var m workloadv1.DesiredLRP
	if err := proto.Unmarshal(plain, &m); err != nil {
		return fmt.Errorf("decoding routes and annotation: %w", err)
	}
	d.Annotation = m.GetAnnotation()
	d.Routes, d.InternalHostnames, err = lrp.ParseRoutes(m.GetRoutes())
	return err
}

// sealer is what writing needs of a keyring.
type sealer interface {
	Seal(plaintext []byte, place seal.Place) ([]byte, error)
}
