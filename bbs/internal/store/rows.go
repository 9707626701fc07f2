package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

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

// The names of the statements.
const (
	advance               = "advance"
	logBatch              = "log_batch"
	putDomains            = "put_domains"
	removeDomains         = "remove_domains"
	putActuals            = "put_actuals"
	removeActuals         = "remove_actuals"
	putDesireds           = "put_desireds"
	removeDesireds        = "remove_desireds"
	putHealthy            = "put_healthy"
	removeHealthy         = "remove_healthy"
	putTasks              = "put_tasks"
	removeTasks           = "remove_tasks"
	putDefinitions        = "put_definitions"
	removeDefinitions     = "remove_definitions"
	putTaskDefinitions    = "put_task_definitions"
	removeTaskDefinitions = "remove_task_definitions"
)

// statements returns all statements of batches by name.
func statements() map[string]string {
	return map[string]string{
		advance:    `select bbs_advance($1, $2)`,
		logBatch:   `insert into batch_log (revision, id, epoch, at, events, changes) values ($1, $2, $3, $4, $5, $6)`,
		putDomains: upsertDomains, removeDomains: deleteDomains,
		putActuals: upsertActuals, removeActuals: deleteActuals,
		putDesireds: upsertDesireds, removeDesireds: deleteDesireds,
		putHealthy: upsertHealthy, removeHealthy: deleteHealthy,
		putTasks: upsertTasks, removeTasks: deleteTasks,
		putDefinitions: upsertDefinitions, removeDefinitions: deleteDefinitions,
		putTaskDefinitions: upsertTaskDefinitions, removeTaskDefinitions: deleteTaskDefinitions,
	}
}

// sendKeyed sends a statement that takes one text for each row, unless there are none.
func (s *sender) sendKeyed(name string, keys []string) {
	if len(keys) > 0 {
		s.begin(name)
		s.texts(len(keys), func(i int) string { return keys[i] })
		s.execute()
	}
}

const upsertDomains = `
insert into domains (name, fresh_until, default_crash_policy, revision)
select name, fresh_until, default_crash_policy::jsonb, revision
from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[])
    as u (name, fresh_until, default_crash_policy, revision)
on conflict (name) do update set fresh_until = excluded.fresh_until,
    default_crash_policy = excluded.default_crash_policy, revision = excluded.revision`

const deleteDomains = `delete from domains using unnest($1::text[]) as u (k) where name = u.k`

func (s *sender) domains(rows []*lrp.Domain, gone []string) {
	s.sendKeyed(removeDomains, gone)
	if len(rows) == 0 {
		return
	}
	policies := make([]*string, len(rows))
	for i, d := range rows {
		var err error
		if policies[i], err = policyJSON(d.DefaultCrashPolicy); err != nil {
			s.fail(fmt.Errorf("encoding the crash policy of domain %q: %w", d.Name, err))
		}
	}
	s.begin(putDomains)
	s.texts(len(rows), func(i int) string { return rows[i].Name })
	s.longs(len(rows), func(i int) int64 { return rows[i].FreshUntil })
	s.textsOrNull(policies)
	s.longs(len(rows), func(i int) int64 { return signed(rows[i].Revision) })
	s.execute()
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

func (s *sender) actuals(rows []*actualRow, gone []actualID) {
	if n := len(gone); n > 0 {
		s.begin(removeActuals)
		s.texts(n, func(i int) string { return gone[i].ProcessGUID })
		s.integers(n, func(i int) int32 { return gone[i].Index })
		s.shorts(n, func(i int) uint8 { return uint8(gone[i].presence) })
		s.execute()
	}
	n := len(rows)
	if n == 0 {
		return
	}
	s.begin(putActuals)
	s.texts(n, func(i int) string { return rows[i].ProcessGUID })
	s.integers(n, func(i int) int32 { return rows[i].Index })
	s.shorts(n, func(i int) uint8 { return uint8(rows[i].Presence) })
	s.texts(n, func(i int) string { return rows[i].Domain })
	s.shorts(n, func(i int) uint8 { return uint8(rows[i].State) })
	s.texts(n, func(i int) string { return rows[i].InstanceGUID })
	s.texts(n, func(i int) string { return rows[i].CellID })
	s.texts(n, func(i int) string { return rows[i].Zone })
	s.texts(n, func(i int) string { return rows[i].DefinitionID })
	s.appended(n, func(i int) bool { return wire.Reported(rows[i].Actual) }, func(i int) { s.buf = wire.AppendReported(s.buf, rows[i].Actual) })
	s.bools(n, func(i int) bool { return rows[i].Routable })
	s.bools(n, func(i int) bool { return rows[i].StopRequested })
	s.integers(n, func(i int) int32 { return rows[i].CrashCount })
	s.texts(n, func(i int) string { return rows[i].CrashReason })
	s.texts(n, func(i int) string { return rows[i].PlacementError })
	s.longs(n, func(i int) int64 { return rows[i].Since })
	s.texts(n, func(i int) string { return rows[i].Tag.Epoch })
	s.longs(n, func(i int) int64 { return int64(rows[i].Tag.Index) })
	s.longs(n, func(i int) int64 { return signed(rows[i].Revision) })
	s.execute()
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

func (s *sender) healthy(writes []healthyWrite, gone []string) {
	gone = slices.Clone(gone)
	rows := make([]healthyWrite, 0, len(writes))
	for _, h := range writes {
		if h.id == "" {
			gone = append(gone, h.guid)
		} else {
			rows = append(rows, h)
		}
	}
	s.sendKeyed(removeHealthy, gone)
	if len(rows) > 0 {
		s.begin(putHealthy)
		s.texts(len(rows), func(i int) string { return rows[i].guid })
		s.texts(len(rows), func(i int) string { return rows[i].id })
		s.execute()
	}
}

func (s *sender) desireds(keys sealer, rows []*lrp.Desired, gone []string) {
	s.sendKeyed(removeDesireds, gone)
	n := len(rows)
	if n == 0 {
		return
	}
	placements, tags, policies := make([]*string, n), make([]*string, n), make([]*string, n)
	for i, d := range rows {
		var err error
		if placements[i], err = placementJSON(d.Placement); err == nil {
			if tags[i], err = tagsJSON(d.MetricTags); err == nil {
				policies[i], err = policyJSON(d.CrashPolicy)
			}
		}
		if err != nil {
			s.fail(fmt.Errorf("encoding desired lrp %q: %w", d.ProcessGUID, err))
		}
	}
	s.begin(putDesireds)
	s.texts(n, func(i int) string { return rows[i].ProcessGUID })
	s.texts(n, func(i int) string { return rows[i].Domain })
	s.texts(n, func(i int) string { return rows[i].LogGUID })
	s.integers(n, func(i int) int32 { return rows[i].Instances })
	s.integers(n, func(i int) int32 { return rows[i].Resources.MemoryMB })
	s.integers(n, func(i int) int32 { return rows[i].Resources.DiskMB })
	s.integers(n, func(i int) int32 { return rows[i].Resources.MaxPids })
	s.texts(n, func(i int) string { return rows[i].Placement.RootFS })
	s.textsOrNull(placements)
	s.textsOrNull(tags)
	s.textsOrNull(policies)
	s.shorts(n, func(i int) uint8 { return uint8(rows[i].UpdateStrategy) })
	s.texts(n, func(i int) string { return rows[i].ActiveDefinitionID })
	s.texts(n, func(i int) string { return rows[i].PreviousDefinitionID })
	s.appended(n, func(i int) bool { return hasClientData(rows[i]) }, func(i int) { s.clientData(keys, rows[i]) })
	s.texts(n, func(i int) string { return rows[i].Tag.Epoch })
	s.longs(n, func(i int) int64 { return int64(rows[i].Tag.Index) })
	s.longs(n, func(i int) int64 { return rows[i].CreatedAt })
	s.longs(n, func(i int) int64 { return rows[i].UpdatedAt })
	s.longs(n, func(i int) int64 { return signed(rows[i].Revision) })
	s.execute()
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

func (s *sender) tasks(keys sealer, rows []*task.Task, gone []string) {
	s.sendKeyed(removeTasks, gone)
	n := len(rows)
	if n == 0 {
		return
	}
	placements := make([]*string, n)
	for i, t := range rows {
		var err error
		if placements[i], err = placementJSON(t.Placement); err != nil {
			s.fail(fmt.Errorf("encoding task %q: %w", t.GUID, err))
		}
	}
	s.begin(putTasks)
	s.texts(n, func(i int) string { return rows[i].GUID })
	s.texts(n, func(i int) string { return rows[i].Domain })
	s.shorts(n, func(i int) uint8 { return uint8(rows[i].State) })
	s.texts(n, func(i int) string { return rows[i].CellID })
	s.texts(n, func(i int) string { return rows[i].InstanceGUID })
	s.longs(n, func(i int) int64 { return rows[i].CreatedAt })
	s.longs(n, func(i int) int64 { return rows[i].UpdatedAt })
	s.longs(n, func(i int) int64 { return rows[i].FirstCompletedAt })
	s.bools(n, func(i int) bool { return rows[i].Failed })
	s.texts(n, func(i int) string { return rows[i].FailureReason })
	s.appended(n, func(i int) bool { return rows[i].Result != "" }, func(i int) {
		s.plain = append(s.plain[:0], rows[i].Result...)
		s.seal(keys, s.plain, placeOfResult(rows[i].GUID))
	})
	s.integers(n, func(i int) int32 { return rows[i].RejectionCount })
	s.texts(n, func(i int) string { return rows[i].RejectionReason })
	s.integers(n, func(i int) int32 { return rows[i].Resources.MemoryMB })
	s.integers(n, func(i int) int32 { return rows[i].Resources.DiskMB })
	s.integers(n, func(i int) int32 { return rows[i].Resources.MaxPids })
	s.texts(n, func(i int) string { return rows[i].Placement.RootFS })
	s.textsOrNull(placements)
	s.blobs(n, func(i int) []byte { return append([]byte{}, rows[i].DefinitionDigest...) }) // empty is not null
	s.bools(n, func(i int) bool { return rows[i].HasCallback })
	s.longs(n, func(i int) int64 { return signed(rows[i].Revision) })
	s.execute()
}

const upsertDefinitions = `
insert into lrp_definitions (process_guid, definition_id, created_at, definition)
select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[])
on conflict (process_guid, definition_id) do update set created_at = excluded.created_at, definition = excluded.definition`

const deleteDefinitions = `delete from lrp_definitions using unnest($1::text[]) as u (k) where process_guid = u.k`

// lrpDefinitions removes first and then stores. What a batch stored before a removal of the same LRP is gone with it.
func (s *sender) lrpDefinitions(writes []definitionWrite) {
	removed := make(map[string]int) // where in the batch all definitions of an LRP were removed last
	for i, w := range writes {
		if w.remove {
			removed[w.ProcessGUID] = i
		}
	}
	puts := make([]definitionWrite, 0, len(writes))
	for i, w := range writes {
		if last, ok := removed[w.ProcessGUID]; !w.remove && (!ok || i > last) {
			puts = append(puts, w)
		}
	}
	s.sendKeyed(removeDefinitions, slices.Collect(maps.Keys(removed)))
	puts = lastOfEach(puts, func(w definitionWrite) [2]string { return [2]string{w.ProcessGUID, w.ID} })
	if len(puts) > 0 {
		s.begin(putDefinitions)
		s.texts(len(puts), func(i int) string { return puts[i].ProcessGUID })
		s.texts(len(puts), func(i int) string { return puts[i].ID })
		s.longs(len(puts), func(i int) int64 { return puts[i].CreatedAt })
		s.blobs(len(puts), func(i int) []byte { return puts[i].Sealed })
		s.execute()
	}
}

const upsertTaskDefinitions = `
insert into task_definitions (guid, definition) select * from unnest($1::text[], $2::bytea[])
on conflict (guid) do update set definition = excluded.definition`

const deleteTaskDefinitions = `delete from task_definitions using unnest($1::text[]) as u (k) where guid = u.k`

// taskDefinitions keeps only the last write of each task, so the order does not matter.
func (s *sender) taskDefinitions(writes []taskDefinitionWrite) {
	var puts []taskDefinitionWrite
	var gone []string
	for _, w := range lastOfEach(writes, func(w taskDefinitionWrite) string { return w.guid }) {
		if w.sealed == nil {
			gone = append(gone, w.guid)
		} else {
			puts = append(puts, w)
		}
	}
	s.sendKeyed(removeTaskDefinitions, gone)
	if len(puts) > 0 {
		s.begin(putTaskDefinitions)
		s.texts(len(puts), func(i int) string { return puts[i].guid })
		s.blobs(len(puts), func(i int) []byte { return puts[i].sealed })
		s.execute()
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

// hasClientData reports whether there is anything that clientData would seal.
func hasClientData(d *lrp.Desired) bool { return len(d.Routes) > 0 || d.Annotation != "" }

// clientData seals what a client put into a header, as workload.v1.DesiredLRP: the routes, which may hold keys, and the annotation.
func (s *sender) clientData(keys sealer, d *lrp.Desired) {
	s.plain = s.plain[:0]
	for i := range d.Routes {
		s.plain = s.plain.entry(desiredRoutes, &d.Routes[i])
	}
	s.plain = s.plain.str(desiredAnnotation, d.Annotation)
	s.seal(keys, s.plain, placeOfClientData(d.ProcessGUID))
}

// openClientData is the inverse of clientData.
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
	AppendSeal(to, plaintext []byte, place seal.Place) ([]byte, error)
}
